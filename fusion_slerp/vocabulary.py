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


def read_vocabulary(folder: Path) -> dict[str, int] | None:
    """Returns the map from token to row of a folder's tokenizer; None if it has none we can read.

    Reads tokenizer.json (BPE, WordPiece, Unigram), else vocab.json, each with its added tokens.
    """
    try:
        if (folder / TOKENIZER).is_file():
            return _from_tokenizer_json(_load(folder / TOKENIZER))
        if (folder / "vocab.json").is_file():
            added = folder / "added_tokens.json"
            return {**_load(folder / "vocab.json"), **(_load(added) if added.is_file() else {})}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return None


def _load(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _from_tokenizer_json(tokenizer: dict[str, Any]) -> dict[str, int]:
    vocab = tokenizer["model"]["vocab"]
    if isinstance(vocab, list):  # Unigram: [token, score] pairs, the row is the position
        vocab = {token: row for row, (token, _) in enumerate(vocab)}
    return {**vocab, **{token["content"]: token["id"] for token in tokenizer["added_tokens"]}}


def compare_vocabularies(a: Checkpoint, b: Checkpoint) -> list[Problem]:
    """Returns a problem if a token has different rows in the parents, or exists in one only."""
    vocabulary_a, vocabulary_b = read_vocabulary(a.folder), read_vocabulary(b.folder)
    if vocabulary_a is None or vocabulary_b is None or vocabulary_a == vocabulary_b:
        return []
    shared = vocabulary_a.keys() & vocabulary_b.keys()
    moved = sorted(token for token in shared if vocabulary_a[token] != vocabulary_b[token])
    only_a = sorted(vocabulary_a.keys() - shared)
    only_b = sorted(vocabulary_b.keys() - shared)
    found = f"{len(moved)} of {len(shared)} shared tokens have other rows; "
    found += f"{len(only_a)} tokens only in a, {len(only_b)} only in b"
    examples = listed([repr(token) for token in (moved or only_a or only_b)], 3)
    fields = (
        ("a", a.folder / TOKENIZER),
        ("b", b.folder / TOKENIZER),
        ("found", found),
        ("for example", examples),
    )
    fix = "merge models that share one tokenizer; rows of different tokens must not be mixed"
    return [Problem(MismatchError, "the tokenizers differ", fields, fix)]
