"""Adds tokens to a tokenizer: the one case in which its files are written and not copied.

Tokens that another tokenizer adds beside its own vocabulary are added here in the same way, with its
flags. Ordinary ones come with what produces them: the merges of BPE, the score of Unigram.

Source: the format of tokenizer.json, https://github.com/huggingface/tokenizers. On loading, that
library numbers added tokens anew from the end of the vocabulary, unless the model's own vocabulary
has them with a row; so where that would shift them, they are put there too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion_slerp.errors import MismatchError, Problem, listed
from fusion_slerp.vocabulary.tokens import (
    ADDED_TOKENS,
    FLAGS,
    OLDER,
    TOKENIZER,
    TOKENIZER_CONFIG,
    Tokens,
    Vocabulary,
    load,
    ordinary_tokens,
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
        MismatchError: Ordinary tokens of another kind of tokenizer, or between older formats.
    """
    ordinary = [t for t in more if of_other and t in of_other.rows and t not in of_other.added]
    added = [token for token in more if token not in set(ordinary)]
    rows = {**tokens.rows, **{t: tokens.n_rows + i for i, t in enumerate([*ordinary, *added])}}
    flags = {t: (of_other.added.get(t) if of_other else None) or dict.fromkeys(FLAGS, False) for t in added}
    written = _decoder(base, rows, flags) | _added_tokens(base, rows, tokens, flags)
    if not (base / TOKENIZER).is_file():
        if ordinary:
            raise _no_union(base, other, ordinary, "no tokenizer.json").error()
        return ExtendedTokenizer(rows, written)
    content = load(base / TOKENIZER)
    if ordinary:
        _extend_model(content, base, other, rows, ordinary)
    content["added_tokens"] += [{"id": rows[token], "content": token, **flags[token]} for token in added]
    if ordinary or not _numbers_itself(content):
        _fix_rows(content, rows, [token["content"] for token in content["added_tokens"]])
    written[TOKENIZER] = _json(content)
    older = {path.name for pattern in (*OLDER, "merges.txt", "bpe.codes") for path in base.glob(pattern)}
    return ExtendedTokenizer(rows, written, frozenset(older if ordinary else ()))


def _extend_model(
    content: dict[str, Any], base: Path, other: Path | None, rows: Vocabulary, ordinary: Sequence[str]
) -> None:
    """Puts ordinary tokens into the model, with what produces them."""
    model, kind = content["model"], content["model"].get("type")
    theirs = load(other / TOKENIZER)["model"] if other and (other / TOKENIZER).is_file() else {}
    if theirs.get("type") != kind:
        raise _no_union(
            base, other, ordinary, f"{theirs.get('type', 'no tokenizer.json')}, not {kind}"
        ).error()
    if kind == "Unigram":
        scores = dict(theirs["vocab"])
        lowest = min(score for _, score in model["vocab"]) - NEVER_MATCHED
        token_of = {row: token for token, row in rows.items()}
        last = rows[ordinary[-1]]
        missing = [token_of.get(row) for row in range(len(model["vocab"]), last + 1)]
        if None in missing:
            raise _no_union(base, other, ordinary, "rows without a token among its added tokens").error()
        model["vocab"] += [[token, scores.get(token, lowest)] for token in missing]
        return
    model["vocab"].update({token: rows[token] for token in ordinary})
    if kind == "BPE":
        wanted, as_text = set(ordinary), not model["merges"] or isinstance(model["merges"][0], str)
        pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in theirs["merges"]]
        new = [pair for pair in pairs if "".join(pair) in wanted]
        model["merges"] += [" ".join(pair) if as_text else list(pair) for pair in new]


def _numbers_itself(content: Mapping[str, Any]) -> bool:
    """Whether the library would give every added token the row that the file says."""
    ordinary = ordinary_tokens(content)
    following = len(ordinary)
    for token in content["added_tokens"]:
        if token["content"] not in ordinary:
            if token["id"] != following:
                return False
            following += 1
    return True


def _fix_rows(content: dict[str, Any], rows: Vocabulary, added: Iterable[str]) -> None:
    if isinstance(content["model"]["vocab"], dict):
        for token in added:
            content["model"]["vocab"].setdefault(token, rows[token])


def _decoder(base: Path, rows: Vocabulary, flags: Mapping[str, Mapping[str, bool]]) -> dict[str, bytes]:
    """tokenizer_config.json with the new tokens, where it lists the added ones."""
    file = base / TOKENIZER_CONFIG
    config = load(file) if file.is_file() else {}
    if not (flags and "added_tokens_decoder" in config):
        return {}
    config["added_tokens_decoder"] |= {str(rows[t]): {"content": t, **flags[t]} for t in flags}
    return {TOKENIZER_CONFIG: _json(config)}


def _added_tokens(
    base: Path, rows: Vocabulary, tokens: Tokens, flags: Mapping[str, Mapping[str, bool]]
) -> dict[str, bytes]:
    """added_tokens.json, where there is one, or nothing else says it."""
    file = base / ADDED_TOKENS
    if not flags or not (file.is_file() or not (base / TOKENIZER).is_file()):
        return {}
    listed_ = load(file) if file.is_file() else {token: tokens.rows[token] for token in tokens.added}
    return {ADDED_TOKENS: _json({**listed_, **{token: rows[token] for token in flags}})}


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _no_union(base: Path, other: Path | None, ordinary: Sequence[str], found: str) -> Problem:
    fields = (
        ("a", base),
        ("b", other),
        ("tokens", f"{len(ordinary)} only in b: {listed([repr(token) for token in ordinary], 3)}"),
        ("found", found),
    )
    fix = "set tokenizer: a or tokenizer: b, so that the child keeps the tokens of one parent"
    return Problem(MismatchError, "the tokenizers cannot be united", fields, fix)
