"""Adds tokens to a tokenizer: the one case in which its files are rewritten, not copied.

Each token comes from the first of the other tokenizers that has it. Tokens that this one adds to its own
vocabulary are added here in the same way, with its flags. Ordinary tokens come with what produces them:
the merges of BPE, the score of Unigram.

Source: the format of tokenizer.json, https://github.com/huggingface/tokenizers. On loading, that
library renumbers added tokens from the end of the vocabulary, unless the model's own vocabulary
has them with a row; so where that would shift them, they are put there as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from fusion_slerp.errors import MismatchError, Problem, listed, quoted, setting
from fusion_slerp.vocabulary.pipeline import kind_of
from fusion_slerp.vocabulary.rewritten_files import (
    lists_of_added_tokens,
    no_flags,
    stale_files,
    with_added_tokens,
)
from fusion_slerp.vocabulary.tokens import DAMAGES, TOKENIZER, Tokens, Vocabulary, dump, load

NEVER_MATCHED = 10.0
"""How far added tokens are below the lowest score of a Unigram vocabulary, which must not produce them."""


@dataclass(frozen=True, slots=True, eq=False)
class GivenTokenizer:
    """A tokenizer as its files describe it.

    Attributes:
        label: Of the model that has it; None for a tokenizer that belongs to no model.
        folder: The folder of its files.
        tokens: Its tokens.
    """

    label: str | None
    folder: Path
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class ExtendedTokenizer:
    """A tokenizer with more tokens than the files that it was made from.

    Attributes:
        rows: The row of every token.
        written: The files that change, by name.
        omitted: Files that must not be copied: they lack tokens that no other file would add.
    """

    rows: Vocabulary
    written: Mapping[str, bytes]
    omitted: frozenset[str] = frozenset()


def extend(
    base: GivenTokenizer, more: Sequence[str], others: Sequence[GivenTokenizer] = ()
) -> ExtendedTokenizer:
    """Returns a tokenizer with more tokens, in the rows after its own.

    Args:
        base: The tokenizer.
        more: The tokens to add; ordinary tokens of the other tokenizers come first.
        others: Their tokenizers: a token comes from the first that has it; if none has, it is an added token.

    Raises:
        MismatchError: Ordinary tokens come from another kind of tokenizer, or one of the tokenizers has an
            older format or damaged files.
    """
    try:
        return _extended(base, more, others)
    except DAMAGES as error:
        found = f"a damaged file ({error!r})"
        problem = (
            _no_union(base, others, more, found) if others else cannot_be_added(more, base.folder, found)
        )
        raise problem.error() from error


def cannot_be_added(tokens: Sequence[str], folder: Path, found: str, other: str | None = None) -> Problem:
    """Returns the problem with new tokens for a tokenizer that they cannot be added to.

    Args:
        tokens: The new tokens.
        folder: The tokenizer's.
        found: Why they cannot be added.
        other: Label of a model to whose tokenizer they can be added; None if there is none.
    """
    fields = (("tokens", listed(tokens)), ("tokenizer", folder), ("found", found))
    fix = "leave these tokens out of `tokens`"
    fix = fix if other is None else f"use {setting('tokenizer', other)}, or {fix}"
    return Problem(MismatchError, "tokens cannot be added to this tokenizer", fields, fix)


def _extended(
    base: GivenTokenizer, more: Sequence[str], others: Sequence[GivenTokenizer]
) -> ExtendedTokenizer:
    givers = _givers(more, others)
    ordinary = [t for t in more if t in givers and t not in givers[t].tokens.added]
    all_new = dict.fromkeys([*ordinary, *more])
    added = list(all_new)[len(ordinary) :]
    rows = {**base.tokens.rows, **dict(zip(all_new, count(base.tokens.n_rows), strict=False))}
    flags = {t: (givers[t].tokens.added.get(t) if t in givers else None) or no_flags() for t in added}
    written = lists_of_added_tokens(base.folder, rows, base.tokens, flags)
    if not (base.folder / TOKENIZER).is_file():
        if ordinary:
            of_ordinary = list(dict.fromkeys(givers[t] for t in ordinary))
            raise _no_union(base, of_ordinary, ordinary, "no tokenizer.json").error()
        return ExtendedTokenizer(rows, written)
    content = load(base.folder / TOKENIZER)
    if ordinary:
        _extend_model(content, base, rows, ordinary, givers)
    written[TOKENIZER] = dump(with_added_tokens(content, rows, {**base.tokens.added, **flags}))
    return ExtendedTokenizer(rows, written, stale_files(base.folder, bool(ordinary)))


def _givers(more: Sequence[str], others: Sequence[GivenTokenizer]) -> dict[str, GivenTokenizer]:
    """The first of the others that has a token, by token; tokens that none has are left out."""
    wanted, givers = set(more), {}
    for other in reversed(others):
        givers |= dict.fromkeys(wanted & other.tokens.rows.keys(), other)
    return givers


def _extend_model(
    content: dict[str, Any],
    base: GivenTokenizer,
    rows: Vocabulary,
    ordinary: Sequence[str],
    givers: Mapping[str, GivenTokenizer],
) -> None:
    """Adds ordinary tokens to the model of a tokenizer.json, with what produces them."""
    model = content["model"]
    tokens_of: dict[GivenTokenizer, list[str]] = {}
    for token in ordinary:
        tokens_of.setdefault(givers[token], []).append(token)
    theirs = [(_model_of(other, base, content, tokens), set(tokens)) for other, tokens in tokens_of.items()]
    if isinstance(model["vocab"], list):
        scores: dict[str, float] = {}
        for given, _ in reversed(theirs):  # so that the first takes precedence
            scores.update(given["vocab"])
        lowest = min(score for _, score in model["vocab"]) - NEVER_MATCHED
        token_of = {row: token for token, row in rows.items()}
        missing = [token_of[row] for row in range(len(model["vocab"]), rows[ordinary[-1]] + 1)]
        model["vocab"] += [[token, scores.get(token, lowest)] for token in missing]
        return
    model["vocab"].update({token: rows[token] for token in ordinary})
    if "merges" in model:
        model["merges"] = _merges(model, theirs)


def _model_of(
    other: GivenTokenizer, base: GivenTokenizer, content: Mapping[str, Any], tokens: Sequence[str]
) -> Mapping[str, Any]:
    """The model of a tokenizer.json, which must be of the base's kind.

    Args:
        other: The tokenizer.
        base: The tokenizer that gets its tokens.
        content: The base's tokenizer.json.
        tokens: The tokens taken from it.
    """
    file = other.folder / TOKENIZER
    theirs = load(file) if file.is_file() else None
    kind, their_kind = kind_of(content), kind_of(theirs) if theirs else "no tokenizer.json"
    if theirs is None or kind != their_kind:
        raise _no_union(base, [other], tokens, f"{their_kind}, not {kind}").error()
    return theirs["model"]


def _merges(model: Mapping[str, Any], theirs: Sequence[tuple[Mapping[str, Any], set[str]]]) -> list[Any]:
    """A model's merges and, after them, those of others that make the tokens wanted from each."""
    pairs = _pairs(model)
    n_dropped = len(model.get("continuing_subword_prefix") or "")
    for given, wanted in theirs:
        pairs += [(left, right) for left, right in _pairs(given) if left + right[n_dropped:] in wanted]
    every = [model["merges"], *(given["merges"] for given, _ in theirs)]
    are_strings = all(isinstance(merge, str) for merge in next(filter(None, every), [])[:1])
    if are_strings and not any(" " in piece for pair in pairs for piece in pair):
        return [" ".join(pair) for pair in pairs]
    return [list(pair) for pair in pairs]


def _pairs(model: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]


def _no_union(
    base: GivenTokenizer, others: Sequence[GivenTokenizer], tokens: Sequence[str], found: str
) -> Problem:
    labels = [str(each.label) for each in (base, *others)]
    only_in = ", ".join(labels[1:])
    fields = (
        *zip(labels, (each.folder for each in (base, *others)), strict=True),
        ("tokens", f"{len(tokens)} only in {only_in}: {listed([quoted(token) for token in tokens], 3)}"),
        ("found", found),
    )
    choices = " or ".join(setting("tokenizer", label) for label in labels)
    fix = f"use {choices}, so that the merged model keeps the tokens of one source model"
    return Problem(MismatchError, "the tokenizers cannot be united", fields, fix)
