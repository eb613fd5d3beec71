"""Whether the rows of two embeddings stand for the same tokens.

Reads tokenizer files as data; no tokenizer library is needed and no code of theirs runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fusion_slerp.checkpoint.folder import Checkpoint
from fusion_slerp.errors import MismatchError, Problem, listed

TOKENIZER = "tokenizer.json"
OLDER = "vocab.json"

VOCABULARY_FILES = (
    TOKENIZER,
    OLDER,
    "added_tokens.json",
    "vocab.txt",
    "*.model",
    "*.tiktoken",
    "tekken.json",
)
"""What decides on a token's row, in the formats that are read and in those that are not."""


def read_vocabulary(folder: Path) -> dict[str, int] | None:
    """Returns the map from token to row of a folder's tokenizer; None if it has none we can read.

    Reads tokenizer.json (BPE, WordPiece, Unigram), else vocab.json, each with its added tokens.
    """
    try:
        if (folder / TOKENIZER).is_file():
            return _from_tokenizer_json(_load(folder / TOKENIZER))
        if (folder / OLDER).is_file():
            added = folder / "added_tokens.json"
            return {**_load(folder / OLDER), **(_load(added) if added.is_file() else {})}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return None


def _load(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _from_tokenizer_json(tokenizer: dict[str, Any]) -> dict[str, int]:
    vocab = tokenizer["model"]["vocab"]
    if isinstance(vocab, list):  # Unigram: [token, score] pairs, the row is the position
        vocab = {token: row for row, (token, _) in enumerate(vocab)}
    return {**vocab, **{token["content"]: token["id"] for token in tokenizer["added_tokens"]}}


def compare_vocabularies(a: Checkpoint, b: Checkpoint) -> tuple[list[Problem], list[str]]:
    """Compares the rows of every token.

    Returns:
        A problem if a token has different rows in the parents, or exists in one only; a warning
        if that cannot be told from their files.
    """
    vocabulary_a, vocabulary_b = read_vocabulary(a.folder), read_vocabulary(b.folder)
    if vocabulary_a is None or vocabulary_b is None:
        unread = [p.folder for p, v in ((a, vocabulary_a), (b, vocabulary_b)) if v is None]
        return [], _not_compared(a.folder, b.folder, unread)
    if vocabulary_a == vocabulary_b:
        return [], []
    return [_differ(a.folder, b.folder, vocabulary_a, vocabulary_b)], []


def _not_compared(a: Path, b: Path, unread: list[Path]) -> list[str]:
    """A warning, unless the files are the same bytes in both folders, or there are none."""
    files_a, files_b = (
        {path.name: path.read_bytes() for pattern in VOCABULARY_FILES for path in folder.glob(pattern)}
        for folder in (a, b)
    )
    if files_a == files_b:
        return []
    where = " and ".join(str(folder) for folder in unread)
    return [f"the vocabularies could not be compared; no readable tokenizer in {where}"]


def _differ(a: Path, b: Path, vocabulary_a: dict[str, int], vocabulary_b: dict[str, int]) -> Problem:
    shared = vocabulary_a.keys() & vocabulary_b.keys()
    moved = sorted(token for token in shared if vocabulary_a[token] != vocabulary_b[token])
    only_a = sorted(vocabulary_a.keys() - shared)
    only_b = sorted(vocabulary_b.keys() - shared)
    found = f"{len(moved)} of {len(shared)} shared tokens have other rows; "
    found += f"{len(only_a)} tokens only in a, {len(only_b)} only in b"
    examples = listed([repr(token) for token in (moved or only_a or only_b)], 3)
    fields = (
        ("a", _file_read(a)),
        ("b", _file_read(b)),
        ("found", found),
        ("for example", examples),
    )
    fix = "merge models that share one tokenizer; rows of different tokens must not be mixed"
    return Problem(MismatchError, "the tokenizers differ", fields, fix)


def _file_read(folder: Path) -> Path:
    return folder / (TOKENIZER if (folder / TOKENIZER).is_file() else OLDER)
