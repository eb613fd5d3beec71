"""Which folder the child's tokenizer files come from, and which files those are."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from fusion_slerp.checkpoint.folder import Checkpoint
from fusion_slerp.checkpoint.source import resolve
from fusion_slerp.errors import CheckpointError, Problem
from fusion_slerp.vocabulary import read_vocabulary

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "bpe.codes",
    "*.model",
    "*.tiktoken",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """Returns a folder's tokenizer and chat template files, by their path in it."""
    return matching_files(folder, TOKENIZER_FILES)


def matching_files(folder: Path, patterns: tuple[str, ...]) -> dict[str, Path]:
    """Returns the files of a model folder whose path in it matches a pattern."""
    inside = [*folder.glob("*"), *folder.glob("additional_chat_templates/*")]
    named = {path.relative_to(folder).as_posix(): path for path in inside if path.is_file()}
    return {
        name: path for name, path in named.items() if any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def choose_tokenizer(a: Checkpoint, b: Checkpoint, setting: str) -> tuple[Path, list[str]]:
    """Returns the folder that gives the child's tokenizer, and warnings.

    Args:
        a: Parent a.
        b: Parent b.
        setting: `"a"`, `"b"`, `"union"`, or a folder or hub id.

    Raises:
        CheckpointError: The folder does not exist, or was asked for and holds no tokenizer.
    """
    known = {"a": a.folder, "b": b.folder, a.source: a.folder, b.source: b.folder}
    if setting == "union":
        return _with_the_tokens_of_both(a, b)
    folder = known.get(setting) or resolve(setting, weights=False)[0]
    if not tokenizer_files(folder):
        if setting != "a":
            fields = (("tokenizer", setting), ("folder", folder), ("found", "no tokenizer files"))
            fix = "set tokenizer: a, or name a folder with a tokenizer"
            raise Problem(CheckpointError, "no tokenizer there", fields, fix).error()
        return folder, [f"{a.source} has no tokenizer files, so the child has none"]
    if setting in ("a", "b"):
        return folder, []
    vocabulary, rows = read_vocabulary(folder), read_vocabulary(a.folder)
    if vocabulary is not None and rows is not None and vocabulary != rows:
        return folder, [f"the tokenizer of {setting} gives tokens other rows than that of {a.source}"]
    return folder, []


def _with_the_tokens_of_both(a: Checkpoint, b: Checkpoint) -> tuple[Path, list[str]]:
    """Parent a's folder, unless only b has a tokenizer, or b's has all tokens of a's and more."""
    of_a, of_b = read_vocabulary(a.folder), read_vocabulary(b.folder)
    if of_a is not None and of_b is not None and of_a.keys() < of_b.keys():
        return b.folder, []
    if tokenizer_files(a.folder):
        return a.folder, []
    if tokenizer_files(b.folder):
        return b.folder, [f"{a.source} has no tokenizer files; the child has those of {b.source}"]
    return a.folder, [f"neither {a.source} nor {b.source} has tokenizer files, so the child has none"]
