"""The tokens of a tokenizer and their rows.

Reads tokenizer files as data; no tokenizer library is needed, and no code from the files runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from fusion_slerp.errors import raise_all
from fusion_slerp.sources.conversions import is_pointer, pointer
from fusion_slerp.sources.json_files import SMALL, parse_json, read_json
from fusion_slerp.sources.json_files import TOKENIZER as LARGE
from fusion_slerp.sources.regular_files import equal_files, read_regular

TOKENIZER = "tokenizer.json"
OLDER = ("vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")
"""Files with the tokens' rows where there is no tokenizer.json, in order of preference."""

TOKENIZER_CONFIG = "tokenizer_config.json"
ADDED_TOKENS = "added_tokens.json"

MAX_NBYTES = 20_000_000
"""No known vocab.txt or SentencePiece model is larger; a larger file is not read."""

MAX_TOKENS = 600_000
"""No known vocab.txt has more tokens."""

DAMAGES = (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError, OverflowError)
"""Errors from reading a file with unexpected content, or one that is missing.

A disk failure is not among them: without its tokenizer, a model would be merged differently.
"""

MAX_ROW = 1 << 62
"""Larger than any matrix, and still a number that arrays can hold."""

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
"""A tokenizer's properties of an added token, apart from its row."""

Vocabulary = Mapping[str, int]
"""From token to row."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenizer's tokens, from its files.

    Attributes:
        rows: The row of every token, including added ones.
        added: The flags of the tokens that were added to the tokenizer's own vocabulary.
        moved: Tokens that are loaded with another row than the one in their file, and the row in the file.
    """

    rows: Vocabulary
    added: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    moved: Mapping[str, int] = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        """Rows that a matrix must have for every token to have one."""
        return max(self.rows.values(), default=-1) + 1


def read_tokens(folder: Path) -> Tokens | None:
    """Returns the tokens of a folder's tokenizer; None if it has none, or no readable one.

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
    are_strings = all(type(token) is str for token in (*tokens.added, *tokens.moved))
    return tokens if fits and are_strings and tokens.rows else None


def read_all(folders: Mapping[str, Path]) -> dict[str, Tokens | None]:
    """Returns the tokens of several folders, by label; equal files are read once.

    Raises:
        CheckpointError: Git LFS has not downloaded a file: the merged model would get a useless tokenizer.
    """
    files = [file for file in map(vocabulary_file, folders.values()) if file is not None]
    raise_all([pointer(file) for file in files if is_pointer(file)])
    tokens: dict[str, Tokens | None] = {}
    for label, folder in folders.items():
        twin = next((known for known in tokens if _have_the_same_tokens(folders[known], folder)), None)
        tokens[label] = read_tokens(folder) if twin is None else tokens[twin]
    return tokens


def _have_the_same_tokens(one: Path, other: Path) -> bool:
    return are_same(one / TOKENIZER, other / TOKENIZER) and added_next_to(one) == added_next_to(other)


def are_same(one: Path, other: Path) -> bool:
    """Whether two files of tokenizers exist and have the same bytes."""
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
    """Returns the bytes that `load` reads: UTF-8, with lone surrogates escaped, which UTF-8 lacks."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def read_config(folder: Path, content: bytes | None = None) -> dict[str, Any]:
    """Returns a folder's tokenizer_config.json, or the content that replaces it; empty if there is none."""
    return read_object(folder / TOKENIZER_CONFIG, content)


def read_object(file: Path, content: bytes | None = None) -> dict[str, Any]:
    """Returns the JSON object in a file, or in the content that replaces it; empty if there is none."""
    try:
        value = parse_json(content, LARGE) if content else load(file)
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def model_type(model: Mapping[str, Any]) -> str:
    """`"BPE"`, `"WordPiece"`, `"WordLevel"` or `"Unigram"`; older files, such as gpt2's, do not name it."""
    if "type" in model:
        return model["type"]
    if "merges" in model:
        return "BPE"
    if isinstance(model["vocab"], list):
        return "Unigram"
    return "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"


def ordinary_tokens(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Returns the vocabulary of a tokenizer.json's model, without added tokens."""
    vocab = tokenizer["model"]["vocab"]
    if isinstance(vocab, list):  # Unigram: [token, score] pairs, the row is the position
        return {token: row for row, (token, _) in enumerate(vocab)}
    return dict(vocab)


def numbered(ordinary: Vocabulary, n_ordinary: int, added: Iterable[str]) -> dict[str, int]:
    """Returns every token's row as the tokenizers library assigns it when it loads a file.

    An added token that is in the model's own vocabulary keeps its row there. The others are numbered
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
    listed |= {token: entry for token, entry in added_next_to(file.parent).items() if token not in listed}
    rows = numbered(ordinary_tokens(tokenizer), len(tokenizer["model"]["vocab"]), listed)
    moved = {token: entry["id"] for token, entry in listed.items() if entry["id"] != rows.get(token)}
    return Tokens(rows, {token: _flags(entry) for token, entry in listed.items()}, moved)


def added_next_to(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Returns the added tokens that the files next to a tokenizer.json list, with their `id`, by row.

    As in transformers, added_tokens.json counts only if tokenizer_config.json lists none. Unreadable
    files are ignored: a tokenizer.json is complete without them.
    """
    try:
        entries = _decoder(folder) or _plain(folder)
        return {entry["content"]: entry for entry in sorted(entries, key=lambda entry: entry["id"])}
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
