"""The output head: stored, or tied to the embedding.

A model that ties them stores one of the two, or both as copies. If another model stores a head of its own,
the embedding serves as the head of the one that ties them, and the merged model stores both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fusion_slerp.errors import MismatchError, Problem, printable
from fusion_slerp.planning.config_paths import text_part
from fusion_slerp.planning.tied_defaults import ties_by_default, ties_in_4, ties_in_5
from fusion_slerp.planning.view import View
from fusion_slerp.sources.source import Source
from fusion_slerp.sources.stored_bytes import equal_bytes
from fusion_slerp.tensor_names.vocabulary import ends

TIED = "tie_word_embeddings"

HEADS = {"embed_tokens": "lm_head", "wte": "lm_head", "word_embeddings": "lm_head", "embed_in": "embed_out"}
"""The module of a head of its own, next to the language model, by that of the embedding."""

INNER = ("model.language_model.", "language_model.model.", "model.", "transformer.", "gpt_neox.")
"""Beginnings of the embedding's name in a model with a head; longer ones first."""

OUTER = {"language_model.model.": "language_model."}
"""Beginnings of the head's name, where it is not at the top."""

Tensors = dict[str, Source]


def stated_tie(config: Mapping[str, Any]) -> bool | None:
    """Returns `tie_word_embeddings` of a config, from its text part if it has one; None if it is not set."""
    values = (part.get(TIED) for part in (text_part(config), config))
    return next((value for value in values if isinstance(value, bool)), None)


def is_tied(config: Mapping[str, Any]) -> bool | None:
    """Returns whether a config ties the head, as transformers reads it or by the default; None if unknown."""
    tied = ties_by_default(config)
    return stated_tie(config) if tied is None else tied


def is_stated(tied: bool | None, config: Mapping[str, Any]) -> bool:
    """Whether every release of transformers reads this from a config."""
    known = {ties_in_4(config), ties_in_5(config)} - {None}
    return tied is None or (known or {stated_tie(config)}) == {tied}


def untie(views: Mapping[str, View], by_label: Mapping[str, Tensors]) -> tuple[list[str], list[Problem]]:
    """Gives models that tie their heads heads of their own, in place; returns a remark, and problems.

    If a merged model has the embedding of one model and the head of another, it cannot tie them.

    Args:
        views: The models by label.
        by_label: Their tensors under the first model's names; none has a head.
    """
    first = next(iter(by_label))
    _, embedding = ends(by_label[first])
    head = _head_for(embedding) if embedding else None
    if embedding is None or head is None:
        return [], [_no_head(views[first])]
    for tensors in by_label.values():
        tensors[head] = tensors[embedding]
    remark = "the models tie their heads, and the first and the last slice name different models; the merged "
    return [f"{remark}model stores {head}, which is the embedding of the last slice's"], []


def _head_for(embedding: str) -> str | None:
    """The name of the head of its own that a model has which usually ties it; None if it is not known."""
    inner = next((each for each in INNER if embedding.startswith(each)), None)
    module = embedding.removesuffix(".weight").removeprefix(inner or "")
    if inner is None or module not in HEADS:
        return None
    return f"{OUTER.get(inner, '')}{HEADS[module]}.weight"


def _no_head(view: View) -> Problem:
    fields = (
        ("model", view.source),
        ("found", f"{TIED}: no head next to the embedding, and no known name for one"),
        ("needed", "a first and a last slice of the same models"),
    )
    fix = "end slices with a slice of no layers of the first slice's models, such as {'a': [0, 0]}"
    headline = "the head and the embedding would be those of different models"
    return Problem(MismatchError, headline, fields, fix)


@dataclass(frozen=True, slots=True)
class _Ends:
    """The two ends of a model.

    Attributes:
        view: The model.
        tensors: Its tensors under the first model's names; changed in place.
        head: The name of its head; None if it stores none.
        embedding: The name of its embedding; None if it stores none.
    """

    view: View
    tensors: Tensors
    head: str | None
    embedding: str | None


def resolve_heads(views: Mapping[str, View], by_label: dict[str, Tensors]) -> tuple[bool | None, list[str]]:
    """Makes the heads of the models match, in place.

    Args:
        views: The models by label.
        by_label: Their tensors under the first model's names.

    Returns:
        Whether the merged model's head is its embedding, None if no model says so, and remarks.
    """
    models, remarks = dict[str, _Ends](), list[str]()
    for label, view in views.items():
        models[label], more = _without_copy(view, by_label[label])
        remarks += more
    _use_heads_as_embeddings(models)
    by_label |= {label: model.tensors for label, model in models.items()}
    remarks += _share_embeddings(list(models.values()))
    if any(model.head and model.embedding for model in models.values()):
        return False, remarks
    flags = [is_tied(view.config) for view in views.values()]
    return (True if any(flags) else None), remarks


def _without_copy(view: View, tensors: Tensors) -> tuple[_Ends, list[str]]:
    """A model without a head that is a copy of the embedding, if the config ties them."""
    head, embedding = ends(tensors)
    model = _Ends(view, tensors, head, embedding)
    if not (head and embedding and is_tied(view.config)):
        return model, []
    (one,), (other,) = tensors[head].entries, tensors[embedding].entries
    if equal_bytes(one, other):
        del tensors[head]
        return replace(model, head=None), []
    how = f"{TIED} is true" if stated_tie(view.config) else f"{TIED} is true by default"
    remark = f"{view.source}: {how}, but {head} is not the embedding; both are merged as stored"
    return model, [remark]


def _use_heads_as_embeddings(models: dict[str, _Ends]) -> None:
    """Renames the head of tied models that store no embedding, if another model stores one."""
    embedding = next((model.embedding for model in models.values() if model.embedding), None)
    for label, model in models.items():
        head, tensors = model.head, model.tensors
        if embedding and head and embedding not in tensors and is_tied(model.view.config):
            renamed = {embedding if name == head else name: source for name, source in tensors.items()}
            models[label] = _Ends(model.view, renamed, None, embedding)


def _share_embeddings(models: Sequence[_Ends]) -> list[str]:
    """Uses a tied model's embedding as its head, if another model stores a head."""
    remarks = []
    head = next((model.head for model in models if model.head), None)
    for model in models:
        if head and model.embedding and not model.head and is_tied(model.view.config) is not False:
            model.tensors[head] = model.tensors[model.embedding]
            tied = f"ties {head} to {printable(model.embedding, 200)}"
            other = "the other model does not" if len(models) == 2 else "not all others do"
            remarks.append(f"{model.view.source} {tied}, {other}; the merged model stores both")
    return remarks
