"""Ids of special tokens in config.json and generation_config.json, and the chat template.

They belong to the tokenizer: if the merged model has another model's tokenizer, or its tokens have other
rows, the ids follow. Contradictions that remain are reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from reprlib import repr as shortened
from typing import Any

from fusion_slerp.errors import SHOWN_NAME, MismatchError, Problem, listed, printable, quoted, setting
from fusion_slerp.vocabulary.child_tokenizer import ChildTokenizer
from fusion_slerp.vocabulary.tokens import Vocabulary

_ID_KEY = re.compile(r".*_token_(?:ids?|index)|(?:begin_)?suppress_tokens")
_MARKED = re.compile(r"<\|[\w .-]{1,60}\|>|<｜[\w▁ .-]{1,60}｜>|<(?:start|end)_of_turn>|\[/?INST\]")
"""Tokens as chat templates write them."""

OPTIONAL = re.compile(
    r"(?:bos|eos|pad|unk|sep|cls|mask|decoder_start|forced_\w+|prefix|suffix|middle)_token_ids?"
    r"|(?:begin_)?suppress_tokens"
)
"""Keys that a model may lack; others, such as `image_token_id`, it needs to be loaded or to read pictures."""

Ids = int | list[int]
Translate = Callable[[int], int | None]
"""From a parent's id to the merged model's; None if the merged model lacks the token."""


def translator(parent: Vocabulary, child: Vocabulary) -> Translate:
    """Returns the function from a parent's ids to the child's; an id without a token stays."""
    token_of = {row: token for token, row in parent.items()}
    return lambda row: child.get(token_of[row]) if row in token_of else row


def with_ids_of_child(
    config: Mapping[str, Any],
    own: Translate,
    giver: Mapping[str, Any] | None = None,
    of_giver: Translate | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Returns a config with the merged model's ids, and warnings about ids that it cannot have.

    Args:
        config: A parent's config, including nested ones.
        own: Translates that parent's ids.
        giver: The config of the parent whose tokenizer the child has, if it is another; its ids win.
        of_giver: Translates the giver's ids.

    Raises:
        MismatchError: The merged model lacks a token that its config needs.
    """
    changed: dict[str, Any] = {}
    remarks: list[str] = []
    giver = giver or {}
    for key in [*config, *(key for key in giver if key not in config and _ID_KEY.fullmatch(key))]:
        value, translate = config.get(key), own
        if isinstance(value, Mapping):
            inner = giver.get(key)
            part = inner if isinstance(inner, Mapping) else None
            changed[key], more = with_ids_of_child(value, own, part, of_giver)
            remarks += more
            continue
        if _ID_KEY.fullmatch(key) and of_giver and giver.get(key) is not None:
            value, translate = giver[key], of_giver
        if _ID_KEY.fullmatch(key) and _are_ids(value):
            value, lost = _translated(value, translate)
            if lost and value is None and not OPTIONAL.fullmatch(key):
                raise _needed(key, lost).error()
            if lost:
                named = f"{printable(key, SHOWN_NAME)} {shortened(lost)}"
                remarks.append(f"{named} is not a token of the merged model and is left out")
        changed[key] = value
    return changed, remarks


def _needed(key: str, lost: list[int]) -> Problem:
    fields = (("key", printable(key, SHOWN_NAME)), ("found", f"id {shortened(lost[0])} of the source model"))
    fix = f"use {setting('tokenizer', 'union')}, or the tokenizer of the model that has this token"
    headline = "the merged model lacks a token that its config needs"
    return Problem(MismatchError, headline, fields, fix)


def is_id_key(key: str) -> bool:
    """Whether a config's key, without those of outer objects, has ids of tokens as its value."""
    return _ID_KEY.fullmatch(key) is not None


def as_ids(value: object) -> list[int]:
    """Returns the ids in the value of such a key; empty if it has none."""
    if not _are_ids(value):
        return []
    return value if isinstance(value, list) else [value]  # type: ignore[list-item]


def mean_the_same(key: str, one: tuple[object, Vocabulary], other: tuple[object, Vocabulary]) -> bool:
    """Whether the values of a config's key are ids that stand for the same tokens.

    Args:
        key: The key, without those of outer objects.
        one: A model's value, and its tokens.
        other: Another model's.
    """
    if not is_id_key(key):
        return False
    ids = [as_ids(value) for value, _ in (one, other)]
    named = [_tokens_of(rows, vocabulary) for rows, (_, vocabulary) in zip(ids, (one, other), strict=True)]
    return bool(ids[0]) and named[0] == named[1]


def _tokens_of(ids: list[int], vocabulary: Vocabulary) -> list[str | int]:
    """The tokens with these ids; an id without a token stands for itself."""
    wanted = set(ids)
    token_of = {row: token for token, row in vocabulary.items() if row in wanted}
    return [token_of.get(row, row) for row in ids]


def _are_ids(value: object) -> bool:
    ids = value if isinstance(value, list) else [value]
    return bool(ids) and all(type(row) is int and row >= 0 for row in ids)


def _translated(value: Any, translate: Translate) -> tuple[Ids | None, list[int]]:
    ids = value if isinstance(value, list) else [value]
    new = [translate(row) for row in ids]
    kept = [row for row in new if row is not None]
    lost = [row for row, translated in zip(ids, new, strict=True) if translated is None]
    if isinstance(value, list):
        return kept or None, lost
    return (kept[0] if kept else None), lost


def check_special_tokens(
    config: Mapping[str, Any], generation: Mapping[str, Any], tokenizer: ChildTokenizer
) -> list[str]:
    """Returns the contradictions in the merged model, one line each.

    Args:
        config: Its config.json.
        generation: Its generation_config.json; empty if it has none.
        tokenizer: Its tokenizer.
    """
    rows = tokenizer.rows or {}
    return [
        *_ends_unknown_to_config(config, generation, tokenizer.config, rows),
        *_ids_without_token(config, generation, rows),
        *_unknown_in_template(tokenizer.chat_template, rows),
    ]


def _ends_unknown_to_config(
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
    tokenizer_config: Mapping[str, Any],
    rows: Vocabulary,
) -> Iterator[str]:
    for key in ("bos", "eos", "pad", "unk"):
        token = tokenizer_config.get(f"{key}_token")
        token = token.get("content") if isinstance(token, Mapping) else token
        if not isinstance(token, str):
            continue
        if token not in rows:
            yield f"the tokenizer's {key}_token {quoted(token)} is not among its tokens"
            continue
        ids = {**_of_text(config), **_given(generation)}.get(f"{key}_token_id")
        known = ids if isinstance(ids, list) else [ids]
        if key == "eos" and ids is not None and rows[token] not in known:
            yield (
                f"the tokenizer's eos_token is {quoted(token)} ({rows[token]}), eos_token_id in the configs "
                f"is {printable(ids, SHOWN_NAME)}: generation may not stop"
            )


def _of_text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config with the keys of its language model, which may be nested, at the top."""
    inner = config.get("text_config")
    return {**inner, **_given(config)} if isinstance(inner, Mapping) else config


def _given(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if value is not None}


def _ids_without_token(
    config: Mapping[str, Any], generation: Mapping[str, Any], rows: Vocabulary
) -> Iterator[str]:
    known = set(rows.values())
    for file, content in (("config.json", _of_text(config)), ("generation_config.json", generation)):
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = content.get(key)
            if _are_ids(value):
                lost = [row for row in (value if isinstance(value, list) else [value]) if row not in known]
                if lost:
                    ids = listed([str(row) for row in lost])
                    yield f"{key} {ids} in {file} is not a token of the tokenizer"


def _unknown_in_template(template: str | None, rows: Vocabulary) -> Iterator[str]:
    marked = dict.fromkeys(_MARKED.findall(template or ""))
    unknown = [quoted(token) for token in marked if token not in rows and not token.startswith("[")]
    if unknown:
        yield f"the chat template uses {listed(unknown, 3)}, which the tokenizer lacks"
