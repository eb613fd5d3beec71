"""Whether the rows of two embeddings stand for the same tokens.

Reads tokenizer files as data; no tokenizer library is needed and no code of theirs runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fusion_slerp.checkpoint.folder import Checkpoint
from fusion_slerp.errors import MismatchError, Problem, listed
from fusion_slerp.rows import RowRun, TokensOf, align_rows
from fusion_slerp.sentencepiece_model import read_pieces

TOKENIZER = "tokenizer.json"
OLDER = ("vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")
"""Files of the tokens' rows where there is no tokenizer.json, in the order of preference."""

MAX_NBYTES = 200_000_000
"""No tokenizer is larger; a larger file is not read."""

VOCABULARY_FILES = (
    TOKENIZER,
    "vocab.json",
    "added_tokens.json",
    "vocab.txt",
    "*.model",
    "*.tiktoken",
    "tekken.json",
)
"""What decides on a token's row, in the formats that are read and in those that are not."""


def read_vocabulary(folder: Path) -> dict[str, int] | None:
    """Returns the map from token to row of a folder's tokenizer; None if it has none we can read.

    Reads tokenizer.json (BPE, WordPiece, Unigram), else vocab.json, vocab.txt (WordPiece: a token
    per line) or a SentencePiece model, each with its added tokens.
    """
    file = vocabulary_file(folder)
    try:
        if file is None or file.stat().st_size > MAX_NBYTES:
            return None
        if file.name == TOKENIZER:
            return _from_tokenizer_json(_load(file))
        return {**_READERS[file.suffix](file), **_added(folder)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def vocabulary_file(folder: Path) -> Path | None:
    """The file that `read_vocabulary` reads; None if there is none."""
    return next((folder / name for name in (TOKENIZER, *OLDER) if (folder / name).is_file()), None)


def _from_lines(file: Path) -> dict[str, int]:
    lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    return {token.rstrip("\r"): row for row, token in enumerate(lines)}


def _from_pieces(file: Path) -> dict[str, int]:
    return {token: row for row, token in enumerate(read_pieces(file.read_bytes()))}


def _added(folder: Path) -> dict[str, int]:
    """Tokens that files beside the vocabulary add to it."""
    config, tokens = folder / "tokenizer_config.json", folder / "added_tokens.json"
    decoder = _load(config).get("added_tokens_decoder", {}) if config.is_file() else {}
    added = {token["content"]: int(row) for row, token in decoder.items()}
    return {**added, **(_load(tokens) if tokens.is_file() else {})}


def _load(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


_READERS = {".json": _load, ".txt": _from_lines, ".model": _from_pieces}


def _from_tokenizer_json(tokenizer: dict[str, Any]) -> dict[str, int]:
    vocab = tokenizer["model"]["vocab"]
    if isinstance(vocab, list):  # Unigram: [token, score] pairs, the row is the position
        vocab = {token: row for row, (token, _) in enumerate(vocab)}
    return {**vocab, **{token["content"]: token["id"] for token in tokenizer["added_tokens"]}}


def compare_vocabularies(
    a: Checkpoint, b: Checkpoint, n_rows: tuple[int, int] | None = None, tokens_of: TokensOf = "union"
) -> tuple[tuple[RowRun, ...] | None, list[Problem], list[str]]:
    """Compares the rows of every token.

    Args:
        a: Parent a.
        b: Parent b.
        n_rows: Rows of their embeddings; None if there are none, or heads of other lengths.
        tokens_of: Whose tokens the child has.

    Returns:
        The runs of the child's rows, or None where all rows are merged in place; a problem if a
        token's row cannot be told; and what the user should know.
    """
    vocabulary_a, vocabulary_b = read_vocabulary(a.folder), read_vocabulary(b.folder)
    if vocabulary_a is None or vocabulary_b is None:
        unread = [p.folder for p, v in ((a, vocabulary_a), (b, vocabulary_b)) if v is None]
        return None, [], _not_compared(a.folder, b.folder, unread)
    if vocabulary_a == vocabulary_b and (n_rows is None or n_rows[0] == n_rows[1]):
        return None, [], []
    runs = align_rows(vocabulary_a, vocabulary_b, *n_rows, tokens_of) if n_rows else None
    if runs is None:
        return None, [_differ(a.folder, b.folder, vocabulary_a, vocabulary_b)], []
    return runs, [], [_aligned(a, b, n_rows or (0, 0), runs)]


def _aligned(a: Checkpoint, b: Checkpoint, n_rows: tuple[int, int], runs: tuple[RowRun, ...]) -> str:
    counts = {source: sum(run.count for run in runs if run.source == source) for source in ("both", "a", "b")}
    copied = [f"{counts[s]} copied from {p.source}" for s, p in (("a", a), ("b", b)) if counts[s]]
    told = ", ".join([f"{counts['both']} rows merged", *copied])
    return f"vocabularies of {n_rows[0]} and {n_rows[1]} rows: {told}"


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
        ("a", vocabulary_file(a)),
        ("b", vocabulary_file(b)),
        ("found", found),
        ("for example", examples),
    )
    fix = "merge models that share one tokenizer; rows of different tokens must not be mixed"
    if not moved and only_a and only_b:
        fix = "set tokenizer: a or tokenizer: b, so that the child keeps the tokens of one parent"
    return Problem(MismatchError, "the tokenizers differ", fields, fix)
