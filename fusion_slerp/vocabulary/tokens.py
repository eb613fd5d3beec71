"""The tokens of a tokenizer and their rows.

Reads tokenizer files as data; no tokenizer library is needed and no code of theirs runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusion_slerp.vocabulary.sentencepiece_model import read_pieces

TOKENIZER = "tokenizer.json"
OLDER = ("vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")
"""Files of the tokens' rows where there is no tokenizer.json, in the order of preference."""

TOKENIZER_CONFIG = "tokenizer_config.json"
ADDED_TOKENS = "added_tokens.json"

MAX_NBYTES = 200_000_000
"""No tokenizer is larger; a larger file is not read."""

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
"""What a tokenizer knows of an added token beside its row."""

Vocabulary = Mapping[str, int]
"""From token to row."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a tokenizer's files say of its tokens.

    Attributes:
        rows: The row of every token, added ones included.
        added: The flags of the tokens that were added to the tokenizer's own vocabulary.
        model_type: `"BPE"`, `"WordPiece"`, `"WordLevel"` or `"Unigram"`; None in the older formats.
    """

    rows: Vocabulary
    added: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    model_type: str | None = None

    @property
    def n_rows(self) -> int:
        """Rows that a matrix must have for every token to have one."""
        return max(self.rows.values(), default=-1) + 1


def read_tokens(folder: Path) -> Tokens | None:
    """Returns the tokens of a folder's tokenizer; None if it has none that we can read.

    Reads tokenizer.json (BPE, WordPiece, WordLevel, Unigram), else vocab.json, vocab.txt
    (WordPiece: a token per line) or a SentencePiece model, each with its added tokens.
    """
    file = vocabulary_file(folder)
    try:
        if file is None or file.stat().st_size > MAX_NBYTES:
            return None
        tokens = _from_tokenizer_json(load(file)) if file.name == TOKENIZER else _from_older(file)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return tokens if all(type(row) is int and row >= 0 for row in tokens.rows.values()) else None


def vocabulary_file(folder: Path) -> Path | None:
    """The file that `read_tokens` reads; None if there is none."""
    return next((folder / name for name in (TOKENIZER, *OLDER) if (folder / name).is_file()), None)


def load(file: Path) -> Any:
    """Returns the content of a JSON file."""
    return json.loads(file.read_text(encoding="utf-8"))


def ordinary_tokens(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Returns the vocabulary of a tokenizer.json's model, without the tokens added to it."""
    vocab = tokenizer["model"]["vocab"]
    if isinstance(vocab, list):  # Unigram: [token, score] pairs, the row is the position
        return {token: row for row, (token, _) in enumerate(vocab)}
    return dict(vocab)


def _from_tokenizer_json(tokenizer: dict[str, Any]) -> Tokens:
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    flags = {token["content"]: _flags(token) for token in tokenizer["added_tokens"]}
    return Tokens({**ordinary_tokens(tokenizer), **added}, flags, tokenizer["model"].get("type"))


def _from_older(file: Path) -> Tokens:
    config, tokens = file.with_name(TOKENIZER_CONFIG), file.with_name(ADDED_TOKENS)
    decoder = load(config).get("added_tokens_decoder", {}) if config.is_file() else {}
    plain: dict[str, int] = load(tokens) if tokens.is_file() else {}
    rows = _READERS[file.suffix](file)
    rows = {**rows, **{token["content"]: int(row) for row, token in decoder.items()}, **plain}
    flags = {token: _flags({}) for token in plain} | {t["content"]: _flags(t) for t in decoder.values()}
    return Tokens(rows, flags)


def _flags(token: Mapping[str, Any]) -> dict[str, bool]:
    return {flag: bool(token.get(flag, False)) for flag in FLAGS}


def _from_lines(file: Path) -> dict[str, int]:
    lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    return {token.rstrip("\r"): row for row, token in enumerate(lines)}


def _from_pieces(file: Path) -> dict[str, int]:
    return {token: row for row, token in enumerate(read_pieces(file.read_bytes()))}


_READERS = {".json": load, ".txt": _from_lines, ".model": _from_pieces}
