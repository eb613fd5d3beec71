"""Decides on the merged model's tokenizer: the requested one, one that has the tokens of all, or a union."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from fusion_slerp.errors import CheckpointError, Problem, listed, setting
from fusion_slerp.settings.labels import BASE
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.opening import resolve
from fusion_slerp.vocabulary.chat_templates import chat_template, template_files
from fusion_slerp.vocabulary.child_tokenizer import ChildTokenizer, has_tokenizer
from fusion_slerp.vocabulary.new_tokens import ExtendedTokenizer, GivenTokenizer, cannot_be_added, extend
from fusion_slerp.vocabulary.remarks import counted, enumerated
from fusion_slerp.vocabulary.renamed import missing
from fusion_slerp.vocabulary.tokens import Tokens, Vocabulary, read_tokens

Models = Mapping[str, tuple[Checkpoint, Tokens | None]]
"""By label: a checkpoint and the tokens of its tokenizer; None if it has no readable tokenizer."""

ReadModels = Mapping[str, tuple[Checkpoint, Tokens]]
"""As `Models`, where every tokenizer can be read."""

Choice = tuple[ChildTokenizer, list[str]]
"""The merged model's tokenizer, and warnings."""


def choose_tokenizer(
    models: Models, wanted: str, named: Sequence[str] = (), follow_links: bool = False
) -> Choice:
    """Returns the merged model's tokenizer, and warnings.

    Args:
        models: Model a first. Tokens that the base alone has are not part of a union: no model uses them. Its
            tokenizer is taken if it is requested, or if no model has one.
        wanted: A label, the user's name for a model, `"union"`, or a folder or Hub id.
        named: Tokens that the merged model must have.
        follow_links: Whether files of that folder may be links that lead out of it.

    Raises:
        CheckpointError: The requested folder does not exist, or holds no tokenizer; or links lead out of it.
        MismatchError: The tokenizers cannot be united, or tokens cannot be added.
    """
    if wanted == "union":
        without_base = {label: each for label, each in models.items() if label != BASE}
        have_files = any(has_tokenizer(model.folder) for model, _ in without_base.values())
        chosen, remarks = _with_the_tokens_of_all(without_base if have_files else models, named)
    else:
        chosen, remarks = _requested(models, wanted, follow_links)
    new = [token for token in named if token not in (chosen.rows or {})]
    if not new:
        return chosen, remarks
    if chosen.own is None:
        other = next((label for label, (_, known) in models.items() if known is not None), None)
        raise cannot_be_added(new, chosen.folder, "no readable tokenizer", other).error()
    more = extend(GivenTokenizer(chosen.giver, chosen.folder, chosen.own), new)
    remarks.append(f"new tokens, from the setting `tokens`: {', '.join(new)}")
    remarks += _on_stale_files(more)
    return replace(chosen, rows=more.rows, written=more.written, omitted=more.omitted), remarks


def _requested(models: Models, wanted: str, follow_links: bool) -> Choice:
    folder = _folder_of_a_model(models, wanted)
    if folder is None:
        folder, _ = resolve(wanted, weights=False, follow_links=follow_links)
    giver = next((label for label, (model, _) in models.items() if folder.samefile(model.folder)), None)
    first, (model_a, of_a) = next(iter(models.items()))
    if giver == first:
        remark = f"{model_a.source} has no tokenizer files, so the merged model has none"
        remarks = [] if has_tokenizer(model_a.folder) else [remark]
        return ChildTokenizer(model_a.folder, of_a and of_a.rows, first, of_a), remarks
    tokens = read_tokens(folder, with_order=True) if giver is None else models[giver][1]
    if has_tokenizer(folder):
        return ChildTokenizer(folder, tokens and tokens.rows, giver, tokens), []
    fields = (("tokenizer", wanted), ("folder", folder), ("found", "no tokenizer files"))
    having = (label for label, (model, _) in models.items() if has_tokenizer(model.folder))
    fix = f"use {setting('tokenizer', next(having, first))}, or a folder with a tokenizer"
    raise Problem(CheckpointError, "no tokenizer there", fields, fix).error()


def _folder_of_a_model(models: Models, wanted: str) -> Path | None:
    """The folder of the model with this label, or of the first that the user gave this name."""
    if wanted in models:
        return models[wanted][0].folder
    return next((model.folder for model, _ in models.values() if model.source == wanted), None)


def _with_the_tokens_of_all(models: Models, named: Sequence[str]) -> Choice:
    """The union of all readable tokenizers; the first one if it is not readable itself."""
    readable = {label: (model, tokens) for label, (model, tokens) in models.items() if tokens is not None}
    if len(readable) == len(models):
        return _united(readable, named)
    first = next((label for label, (model, _) in models.items() if has_tokenizer(model.folder)), None)
    if first is None:
        return _none_at_all(models)
    model, tokens = models[first]
    if tokens is None or len(readable) == 1:
        chosen, remarks = ChildTokenizer(model.folder, tokens and tokens.rows, first, tokens), []
    else:
        chosen, remarks = _united(readable, named)
    return chosen, [*_without_files(models, first, chosen), *remarks]


def _none_at_all(models: Models) -> Choice:
    label, (first, _) = next(iter(models.items()))
    sources = [model.source for model, _ in models.values()]
    none = f"neither {' nor '.join(sources)}" if len(sources) == 2 else f"none of {enumerated(sources)}"
    remark = f"{none} has tokenizer files, so the merged model has none"
    return ChildTokenizer(first.folder, None, label), [remark]


def _without_files(models: Models, first: str, chosen: ChildTokenizer) -> list[str]:
    """A warning about the models before the first one with a tokenizer."""
    sources = [model.source for model, _ in models.values()][: list(models).index(first)]
    if not sources:
        return []
    have = "has" if len(sources) == 1 else "have"
    giver = models[chosen.giver or first][0].source
    return [f"{enumerated(sources)} {have} no tokenizer files; the merged model gets those of {giver}"]


def _united(models: ReadModels, named: Sequence[str]) -> Choice:
    """The first tokenizer that has the tokens of all, else the first one with those of the others added."""
    label = _with_all_tokens({label: tokens.rows for label, (_, tokens) in models.items()})
    if label is not None:
        model, tokens = models[label]
        chosen = ChildTokenizer(model.folder, tokens.rows, label, tokens)
        return chosen, _template_left_behind(label, models)
    base, *others = (GivenTokenizer(label, model.folder, tokens) for label, (model, tokens) in models.items())
    more = _missing(base.tokens.rows, others)
    added = set(chain.from_iterable(more.values()))
    new = [token for token in named if token not in base.tokens.rows and token not in added]
    union = extend(base, [*chain.from_iterable(more.values()), *new], others)
    templates = {} if chat_template(base.folder) is not None else _templates(others)
    written = {**union.written, **templates}
    parts = [
        f"{counted(len(tokens), 'token')} of {models[label][0].source}"
        for label, tokens in more.items()
        if tokens
    ]
    source = next(model.source for model, _ in models.values())
    remark = f"the merged model's tokenizer is that of {source} with {enumerated(parts)}"
    chosen = ChildTokenizer(base.folder, union.rows, base.label, base.tokens, written, union.omitted)
    return chosen, [remark, *_on_stale_files(union)]


def _with_all_tokens(vocabularies: Mapping[str, Vocabulary]) -> str | None:
    """The first model whose tokenizer has the tokens of all, reserved ones aside that it has renamed."""
    for label, tokens in vocabularies.items():
        if all(other is tokens or other.keys() <= tokens.keys() for other in vocabularies.values()):
            return label
    for label, tokens in vocabularies.items():
        if not any(missing(tokens, other) for other in vocabularies.values()):
            return label
    return None


def _on_stale_files(more: ExtendedTokenizer) -> list[str]:
    """A warning about files that lack the new tokens."""
    if not more.omitted:
        return []
    return [f"not in the merged model, as they lack the new tokens: {listed(sorted(more.omitted))}"]


def _missing(of_base: Vocabulary, others: Sequence[GivenTokenizer]) -> dict[str, list[str]]:
    """By label, the tokens that neither the base nor an earlier tokenizer has, in the order of their rows."""
    known = set(of_base)
    more: dict[str, list[str]] = {}
    for other in others:
        new = [token for token in missing(of_base, other.tokens.rows) if token not in known]
        more[str(other.label)] = sorted(new, key=other.tokens.rows.__getitem__)
        known.update(new)
    return more


def _templates(others: Sequence[GivenTokenizer]) -> dict[str, bytes]:
    """The chat templates of the first folder that has any."""
    return next((files for other in others if (files := template_files(other.folder))), {})


def _template_left_behind(giver: str, models: ReadModels) -> list[str]:
    if chat_template(models[giver][0].folder) is not None:
        return []
    having = {
        label: model.source
        for label, (model, _) in models.items()
        if label != giver and chat_template(model.folder) is not None
    }
    if not having:
        return []
    label, source = next(iter(having.items()))
    if len(having) == 1:
        start, it = f"only {source} has a chat template", "it"
    else:
        start, it = f"{enumerated(list(having.values()))} have chat templates", f"that of {source}"
    return [f"{start}, and the merged model has none; tokenizer {label!r} would include {it}"]
