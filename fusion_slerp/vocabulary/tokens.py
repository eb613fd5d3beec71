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
from fusion_slerp.vocabulary.pipeline import Pipeline, pipeline_of
from fusion_slerp.vocabulary.tokenizer_classes import REBUILT, class_of, is_rebuilt

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

SPECIAL_TOKENS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
"""Keys of tokenizer_config.json that name a special token."""

Flags = Mapping[str, bool]

Vocabulary = Mapping[str, int]
"""From token to row."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenizer's tokens, from its files.

    Attributes:
        rows: The row of every token, including added ones.
        added: The flags of the tokens that were added to the tokenizer's own vocabulary, as they are loaded.
        moved: Tokens that are loaded with another row than the one in a file, and the row in that file.
        unlisted: Added tokens of a tokenizer.json that transformers 5 does not load, because the list in
            tokenizer_config.json takes precedence and lacks them.
        pipeline: How a tokenizer.json cuts a text; None for older formats.
    """

    rows: Vocabulary
    added: Mapping[str, Flags] = field(default_factory=dict)
    moved: Mapping[str, int] = field(default_factory=dict)
    unlisted: tuple[str, ...] = ()
    pipeline: Pipeline | None = None

    @property
    def n_rows(self) -> int:
        """Rows that a matrix must have for every token to have one."""
        return max(self.rows.values(), default=-1) + 1


def read_tokens(folder: Path, with_order: bool = False) -> Tokens | None:
    """Returns the tokens of a folder's tokenizer; None if it has none, or no readable one.

    Reads tokenizer.json (BPE, WordPiece, WordLevel, Unigram), else vocab.json, vocab.txt
    (WordPiece: a token per line) or a SentencePiece model, each with its added tokens.

    Args:
        folder: The folder.
        with_order: Whether the pipeline gets the digest of merges or scores.
    """
    file = vocabulary_file(folder)
    try:
        if file is None:
            return None
        tokens = _from_tokenizer_json(file, with_order) if file.name == TOKENIZER else _from_older(file)
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
    twins: dict[str, str] = {}
    for label, folder in folders.items():
        known = (other for other, first in twins.items() if other == first)
        twins[label] = next((k for k in known if _have_the_same_tokens(folders[k], folder)), label)
    firsts = dict.fromkeys(twins.values())
    tokens = {label: read_tokens(folders[label], with_order=len(firsts) > 1) for label in firsts}
    return {label: tokens[twin] for label, twin in twins.items()}


def _have_the_same_tokens(one: Path, other: Path) -> bool:
    if not are_same(one / TOKENIZER, other / TOKENIZER) or added_next_to(one) != added_next_to(other):
        return False
    return len({class_of(read_config(folder)) in REBUILT for folder in (one, other)}) == 1


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


def _from_tokenizer_json(file: Path, with_order: bool) -> Tokens:
    tokenizer, config = load(file), read_config(file.parent)
    listed = {token["content"]: token for token in tokenizer.get("added_tokens") or []}
    next_to = added_next_to(file.parent)
    entries = listed | {token: entry for token, entry in next_to.items() if token not in listed}
    ordinary = ordinary_tokens(tokenizer)
    unlisted: tuple[str, ...] = ()
    pipeline = _pipeline(tokenizer, with_order)
    if is_rebuilt(config, pipeline.kind if pipeline else ""):
        entries = dict(sorted(entries.items(), key=lambda each: next_to.get(*each)["id"]))
        if "added_tokens_decoder" in config:
            unlisted = tuple(token for token in entries if token not in next_to and token not in ordinary)
    rows = numbered(ordinary, len(tokenizer["model"]["vocab"]), entries)
    claims = [(token, entry["id"]) for each in (next_to, listed) for token, entry in each.items()]
    moved = {token: row for token, row in claims if row != rows.get(token)}
    named = set(special_tokens(config).values())
    added = {token: _flags(entry, next_to.get(token, {}), token in named) for token, entry in entries.items()}
    return Tokens(rows, added, moved, unlisted, pipeline)


def _pipeline(tokenizer: Mapping[str, Any], with_order: bool) -> Pipeline | None:
    """How it cuts a text; None if that part of the file is damaged, as its tokens are still known."""
    try:
        return pipeline_of(tokenizer, with_order)
    except DAMAGES:
        return None


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
    """Tokens of a format without added tokens of its own; they are in files next to it."""
    added = sorted([*_decoder(file.parent), *_plain(file.parent)], key=lambda entry: entry["id"])
    ids = {entry["content"]: entry["id"] for entry in reversed(added)}
    ordinary = dict(_READERS[file.suffix](file))
    renamed = _renamed(ordinary, ids) if file.suffix == ".model" else {}
    taken = set(renamed.values())
    kept = {token: row for token, row in ordinary.items() if row not in taken}
    rows = numbered({**kept, **renamed}, len(ordinary), [entry["content"] for entry in added])
    moved = {token: row for token, row in ids.items() if row != rows.get(token)}
    return Tokens(rows, {entry["content"]: _flags(entry) for entry in reversed(added)}, moved)


def _renamed(pieces: Vocabulary, ids: Mapping[str, int]) -> dict[str, int]:
    """Added tokens with the row of a SentencePiece model's piece, whose name they replace on loading."""
    taken = set(pieces.values())
    return {token: row for token, row in ids.items() if token not in pieces and row in taken}


def _flags(
    entry: Mapping[str, Any], winner: Mapping[str, Any] | None = None, is_named: bool = False
) -> Flags:
    """The flags of an added token as it is loaded.

    Args:
        entry: From its file.
        winner: The entry of tokenizer_config.json, if it has one: its flags take precedence.
        is_named: Whether tokenizer_config.json names it as one of the special tokens.
    """
    given = winner if winner and any(flag in winner for flag in FLAGS) else entry
    flags = {flag: bool(given.get(flag, False)) for flag in FLAGS}
    return {**flags, "special": True} if is_named else flags


def special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the special tokens that a tokenizer_config.json names, by key."""
    named = {key: config.get(key) for key in SPECIAL_TOKENS}
    texts = {key: each.get("content") if isinstance(each, Mapping) else each for key, each in named.items()}
    return {key: token for key, token in texts.items() if isinstance(token, str)}


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
