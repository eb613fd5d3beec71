"""The tokens of a tokenizer and their rows.

Reads tokenizer files as data; no tokenizer library is needed and no code of theirs runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from fusion_slerp.sources.json_files import SMALL, parse_json, read_json
from fusion_slerp.sources.json_files import TOKENIZER as LARGE
from fusion_slerp.sources.regular_files import equal_files, read_regular

TOKENIZER = "tokenizer.json"
OLDER = ("vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")
"""Files of the tokens' rows where there is no tokenizer.json, in the order of preference."""

TOKENIZER_CONFIG = "tokenizer_config.json"
ADDED_TOKENS = "added_tokens.json"

MAX_NBYTES = 20_000_000
"""No vocab.txt and no SentencePiece model is larger; a larger file is not read."""

MAX_TOKENS = 600_000
"""Nor has it more tokens."""

DAMAGES = (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError, OverflowError)
"""What can come of a file whose content is not what it should be, or that is not there.

A disk that fails is something else: without its tokenizer a model would be merged otherwise.
"""

MAX_ROW = 1 << 62
"""Beyond every matrix, and still a number that arrays can hold."""

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
        moved: Tokens that are loaded with another row than their file gives them, and that row.
    """

    rows: Vocabulary
    added: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    moved: Mapping[str, int] = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        """Rows that a matrix must have for every token to have one."""
        return max(self.rows.values(), default=-1) + 1


def read_tokens(folder: Path) -> Tokens | None:
    """Returns the tokens of a folder's tokenizer; None if it has none, or none that we can read.

    Reads tokenizer.json (BPE, WordPiece, WordLevel, Unigram), else vocab.json, vocab.txt
    (WordPiece: a token per line) or a SentencePiece model, each with its added tokens.
    """
    file = vocabulary_file(folder)
    try:
        if file is None:
            return None
        tokens = _from_tokenizer_json(file) if file.name == TOKENIZER else _from_older(file)
    except DAMAGES:
        return None
    fits = all(type(t) is str and type(row) is int and 0 <= row < MAX_ROW for t, row in tokens.rows.items())
    are_texts = all(type(token) is str for token in (*tokens.added, *tokens.moved))
    return tokens if fits and are_texts and tokens.rows else None


def read_all(folders: Mapping[str, Path]) -> dict[str, Tokens | None]:
    """Returns the tokens of several folders, by label; one reading serves where the files are the same."""
    tokens: dict[str, Tokens | None] = {}
    for label, folder in folders.items():
        twin = next((known for known in tokens if _have_the_same_tokens(folders[known], folder)), None)
        tokens[label] = read_tokens(folder) if twin is None else tokens[twin]
    return tokens


def _have_the_same_tokens(one: Path, other: Path) -> bool:
    return are_same(one / TOKENIZER, other / TOKENIZER) and added_beside(one) == added_beside(other)


def are_same(one: Path, other: Path) -> bool:
    """Whether two files of tokenizers are there and have the same bytes."""
    try:
        return equal_files(one, other, LARGE.nbytes)
    except OSError:
        return False


def vocabulary_file(folder: Path) -> Path | None:
    """The file that `read_tokens` reads; None if there is none."""
    return next((folder / name for name in (TOKENIZER, *OLDER) if (folder / name).is_file()), None)


def load(file: Path) -> Any:
    """Returns the content of a JSON file of a tokenizer, as `json_files.read_json`."""
    return read_json(file, LARGE if file.name in (TOKENIZER, OLDER[0]) else SMALL)


def dump(content: object) -> bytes:
    """Returns what `load` reads: UTF-8, with lone surrogates escaped, which have no UTF-8."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def read_config(folder: Path, content: bytes | None = None) -> dict[str, Any]:
    """Returns a folder's tokenizer_config.json, or what will be written instead; empty if there is none."""
    return read_object(folder / TOKENIZER_CONFIG, content)


def read_object(file: Path, content: bytes | None = None) -> dict[str, Any]:
    """Returns the JSON object in a file, or in what will be written instead; empty if there is none."""
    try:
        value = parse_json(content, LARGE) if content else load(file)
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def model_type(model: Mapping[str, Any]) -> str:
    """`"BPE"`, `"WordPiece"`, `"WordLevel"` or `"Unigram"`; older files, as gpt2's, do not name it."""
    if "type" in model:
        return model["type"]
    if "merges" in model:
        return "BPE"
    if isinstance(model["vocab"], list):
        return "Unigram"
    return "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"


def ordinary_tokens(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Returns the vocabulary of a tokenizer.json's model, without the tokens added to it."""
    vocab = tokenizer["model"]["vocab"]
    if isinstance(vocab, list):  # Unigram: [token, score] pairs, the row is the position
        return {token: row for row, (token, _) in enumerate(vocab)}
    return dict(vocab)


def numbered(ordinary: Vocabulary, n_ordinary: int, added: Iterable[str]) -> dict[str, int]:
    """Returns every token's row as the tokenizers library counts them when it loads a file.

    An added token that the model's own vocabulary has keeps its row there. The others are numbered
    from the end of that vocabulary in their order, whatever ids the file gives them.
    """
    rows, following = dict(ordinary), count(n_ordinary)
    for token in added:
        if token and token not in rows:
            rows[token] = next(following)
    return rows


def _from_tokenizer_json(file: Path) -> Tokens:
    tokenizer = load(file)
    listed = {token["content"]: token for token in tokenizer.get("added_tokens") or []}
    listed |= {token: entry for token, entry in added_beside(file.parent).items() if token not in listed}
    rows = numbered(ordinary_tokens(tokenizer), len(tokenizer["model"]["vocab"]), listed)
    moved = {token: entry["id"] for token, entry in listed.items() if entry["id"] != rows.get(token)}
    return Tokens(rows, {token: _flags(entry) for token, entry in listed.items()}, moved)


def added_beside(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Returns the added tokens that the files beside a tokenizer.json list, with their `id`, by row.

    As in transformers, added_tokens.json counts only where tokenizer_config.json lists none. Nothing
    comes of files that cannot be read: a tokenizer.json is complete without them.
    """
    try:
        found = _decoder(folder) or _plain(folder)
        return {entry["content"]: entry for entry in sorted(found, key=lambda entry: entry["id"])}
    except DAMAGES:
        return {}


def _decoder(folder: Path) -> list[dict[str, Any]]:
    file = folder / TOKENIZER_CONFIG
    listed = load(file).get("added_tokens_decoder") if file.is_file() else None
    return [{**token, "id": int(row)} for row, token in (listed or {}).items()]


def _plain(folder: Path) -> list[dict[str, Any]]:
    file = folder / ADDED_TOKENS
    listed = load(file) if file.is_file() else {}
    return [{"content": token, "id": int(row)} for token, row in listed.items()]


def _from_older(file: Path) -> Tokens:
    added = [*_decoder(file.parent), *_plain(file.parent)]
    rows = {**_READERS[file.suffix](file), **{token["content"]: token["id"] for token in added}}
    return Tokens(rows, {token["content"]: _flags(token) for token in reversed(added)})


def _flags(token: Mapping[str, Any]) -> dict[str, bool]:
    return {flag: bool(token.get(flag, False)) for flag in FLAGS}


def _from_lines(file: Path) -> dict[str, int]:
    content = read_regular(file, MAX_NBYTES).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if content.count(b"\n") > MAX_TOKENS:
        raise ValueError(f"more than {MAX_TOKENS} lines")
    lines = content.decode("utf-8").removesuffix("\n").split("\n")
    return {token: row for row, token in enumerate(lines)}


def _from_pieces(file: Path) -> dict[str, int]:
    from fusion_slerp.vocabulary.sentencepiece_model import read_pieces

    return {token: row for row, token in enumerate(read_pieces(read_regular(file, MAX_NBYTES)))}


_READERS = {".json": load, ".txt": _from_lines, ".model": _from_pieces}
