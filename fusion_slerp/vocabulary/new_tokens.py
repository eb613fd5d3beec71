"""Adds tokens to a tokenizer: the one case in which its files are written and not copied.

Tokens that another tokenizer adds beside its own vocabulary are added here in the same way, with its
flags. Ordinary ones come with what produces them: the merges of BPE, the score of Unigram.

Source: the format of tokenizer.json, https://github.com/huggingface/tokenizers. On loading, that
library numbers added tokens anew from the end of the vocabulary, unless the model's own vocabulary
has them with a row; so where that would shift them, they are put there too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from fusion_slerp.errors import MismatchError, Problem, listed, quoted
from fusion_slerp.vocabulary.tokens import (
    ADDED_TOKENS,
    DAMAGES,
    FLAGS,
    OLDER,
    TOKENIZER,
    TOKENIZER_CONFIG,
    Tokens,
    Vocabulary,
    dump,
    load,
    model_type,
    numbered,
    ordinary_tokens,
    read_config,
)

NEVER_MATCHED = 10.0
"""How far below the lowest score of a Unigram vocabulary tokens stand that it must not produce itself."""


@dataclass(frozen=True, slots=True)
class ExtendedTokenizer:
    """A tokenizer with more tokens than the files it was made from.

    Attributes:
        rows: The row of every token.
        written: The files that change, by name.
        omitted: Files that must not be copied: they lack tokens that no other file would add.
    """

    rows: Vocabulary
    written: Mapping[str, bytes]
    omitted: frozenset[str] = frozenset()


def extend(
    base: Path, tokens: Tokens, more: Sequence[str], other: Path | None = None, of_other: Tokens | None = None
) -> ExtendedTokenizer:
    """Returns the tokenizer of a folder with more tokens, in the rows behind its own.

    Args:
        base: The folder of the tokenizer.
        tokens: Its tokens.
        more: Those it is to have as well; ordinary tokens of the other tokenizer come first.
        other: The folder of the tokenizer they come from; None if from none.
        of_other: The tokens of that one.

    Raises:
        MismatchError: Ordinary tokens of another kind of tokenizer, or between older formats, or
            files that are no tokenizer's.
    """
    try:
        return _extended(base, tokens, more, other, of_other)
    except DAMAGES as error:
        raise _no_union(base, other, more, f"a damaged file ({error!r})").error() from error


def _extended(
    base: Path, tokens: Tokens, more: Sequence[str], other: Path | None, of_other: Tokens | None
) -> ExtendedTokenizer:
    ordinary = [t for t in more if of_other and t in of_other.rows and t not in of_other.added]
    all_new = dict.fromkeys([*ordinary, *more])
    added = list(all_new)[len(ordinary) :]
    rows = {**tokens.rows, **dict(zip(all_new, count(tokens.n_rows), strict=False))}
    flags = {t: (of_other.added.get(t) if of_other else None) or dict.fromkeys(FLAGS, False) for t in added}
    written = _decoder(base, rows, flags) | _added_tokens(base, rows, tokens, flags)
    if not (base / TOKENIZER).is_file():
        if ordinary:
            raise _no_union(base, other, ordinary, "no tokenizer.json").error()
        return ExtendedTokenizer(rows, written)
    content = load(base / TOKENIZER)
    if ordinary:
        _extend_model(content, base, other, rows, ordinary)
    listed_ = {token["content"]: token for token in content.get("added_tokens") or []}
    for token, its_flags in (*tokens.added.items(), *flags.items()):
        listed_.setdefault(token, {"id": None, "content": token, **its_flags})
    content["added_tokens"] = [{**listed_[token], "id": rows[token]} for token in listed_ if token in rows]
    _fix_rows(content, rows)
    written[TOKENIZER] = dump(content)
    older = {path.name for pattern in (*OLDER, "merges.txt", "bpe.codes") for path in base.glob(pattern)}
    return ExtendedTokenizer(rows, written, frozenset(older if ordinary else ()))


def _extend_model(
    content: dict[str, Any], base: Path, other: Path | None, rows: Vocabulary, ordinary: Sequence[str]
) -> None:
    """Puts ordinary tokens into the model, with what produces them."""
    model = content["model"]
    theirs = load(other / TOKENIZER)["model"] if other and (other / TOKENIZER).is_file() else None
    kind, their_kind = _kind(model), _kind(theirs) if theirs else "no tokenizer.json"
    if theirs is None or kind != their_kind:
        raise _no_union(base, other, ordinary, f"{their_kind}, not {kind}").error()
    if isinstance(model["vocab"], list):
        scores = dict(theirs["vocab"])
        lowest = min(score for _, score in model["vocab"]) - NEVER_MATCHED
        token_of = {row: token for token, row in rows.items()}
        missing = [token_of[row] for row in range(len(model["vocab"]), rows[ordinary[-1]] + 1)]
        model["vocab"] += [[token, scores.get(token, lowest)] for token in missing]
        return
    model["vocab"].update({token: rows[token] for token in ordinary})
    if "merges" in model:
        model["merges"] = _merges(model, theirs, set(ordinary))


def _kind(model: Mapping[str, Any]) -> str:
    """The type of a model, and how it marks pieces within words and at their ends."""
    marks = [model.get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix")]
    return " ".join([model_type(model), *(repr(mark) for mark in marks if mark)])


def _merges(model: Mapping[str, Any], theirs: Mapping[str, Any], wanted: set[str]) -> list[Any]:
    """A model's merges and, behind them, those of another that make tokens which are wanted."""
    own, more = (
        [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in given["merges"]]
        for given in (model, theirs)
    )
    n_dropped = len(model.get("continuing_subword_prefix") or "")
    pairs = own + [(left, right) for left, right in more if left + right[n_dropped:] in wanted]
    are_texts = all(isinstance(merge, str) for merge in (model["merges"] or theirs["merges"])[:1])
    if are_texts and not any(" " in piece for pair in pairs for piece in pair):
        return [" ".join(pair) for pair in pairs]
    return [list(pair) for pair in pairs]


def _fix_rows(content: dict[str, Any], rows: Vocabulary) -> None:
    """Puts the added tokens into the model's vocabulary, where the library would number them otherwise."""
    vocab, added = content["model"]["vocab"], [token["content"] for token in content["added_tokens"]]
    loaded = numbered(ordinary_tokens(content), len(vocab), added)
    if isinstance(vocab, dict) and any(loaded[token] != rows[token] for token in added):
        for token in added:
            vocab.setdefault(token, rows[token])


def _decoder(base: Path, rows: Vocabulary, flags: Mapping[str, Mapping[str, bool]]) -> dict[str, bytes]:
    """tokenizer_config.json with the new tokens, where it lists the added ones."""
    config = read_config(base)
    if not (flags and config.get("added_tokens_decoder")):
        return {}
    config["added_tokens_decoder"] |= {str(rows[t]): {"content": t, **flags[t]} for t in flags}
    return {TOKENIZER_CONFIG: dump(config)}


def _added_tokens(
    base: Path, rows: Vocabulary, tokens: Tokens, flags: Mapping[str, Mapping[str, bool]]
) -> dict[str, bytes]:
    """added_tokens.json, where there is one, or nothing else says it."""
    file = base / ADDED_TOKENS
    if not flags or not (file.is_file() or not (base / TOKENIZER).is_file()):
        return {}
    known = load(file) if file.is_file() else {token: tokens.rows[token] for token in tokens.added}
    return {ADDED_TOKENS: dump({**known, **{token: rows[token] for token in flags}})}


def _no_union(base: Path, other: Path | None, ordinary: Sequence[str], found: str) -> Problem:
    fields = (
        ("a", base),
        ("b", other),
        ("tokens", f"{len(ordinary)} only in b: {listed([quoted(token) for token in ordinary], 3)}"),
        ("found", found),
    )
    fix = "set tokenizer: a or tokenizer: b, so that the child keeps the tokens of one parent"
    return Problem(MismatchError, "the tokenizers cannot be united", fields, fix)
