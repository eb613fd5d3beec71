"""Which files come along beside the weights, byte for byte, and the one that may change.

Nothing is re-serialised: today's transformers rewrites config.json so that older readers get a
wrong rope_theta, and tokenizers that they refuse.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusion_slerp.checkpoint.folder import CONFIG, Checkpoint
from fusion_slerp.tokenizer import matching_files, tokenizer_files

MODEL_FILES = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "*_preprocessor_config.json",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
    "COPYING*",
    "USE_POLICY*",
)


def side_files(a: Checkpoint, tokenizer: Path) -> dict[str, Path]:
    """Returns the files to copy, by their path in the child.

    Args:
        a: Parent a; gives everything but the tokenizer.
        tokenizer: The folder whose tokenizer files the child gets.
    """
    patterns = MODEL_FILES + (("*.py",) if needs_code(a, tokenizer) else ())
    chosen = matching_files(a.folder, patterns)
    chosen.update(tokenizer_files(tokenizer))
    return dict(sorted(chosen.items()))


def needs_code(a: Checkpoint, tokenizer: Path) -> bool:
    """Whether the config or the tokenizer names classes in the folder's own Python files."""
    return "auto_map" in a.config or "auto_map" in _json(tokenizer / "tokenizer_config.json")


def _json(file: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def copy_side_files(files: Mapping[str, Path], folder: Path) -> None:
    """Copies contents only: the copies get the modes of new files, not those of the originals."""
    for name, source in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def write_config(a: Checkpoint, changes: Mapping[str, Any], folder: Path) -> None:
    """Writes the child's config.json: parent a's bytes, or with some keys changed.

    Args:
        a: Parent a.
        changes: New values. `dtype` replaces either of its spellings; each key is replaced
            wherever the config has it, nested configs included, or added at the top.
        folder: Where the child is made.
    """
    source = a.folder / CONFIG
    if not changes:
        shutil.copyfile(source, folder / CONFIG)
        return
    config = json.loads(source.read_text(encoding="utf-8"))
    for key, value in changes.items():
        spellings = ("torch_dtype", "dtype") if key == "dtype" else (key,)
        if not _replace(config, spellings, value):
            config[spellings[0]] = value  # of dtype, the spelling that older and newer transformers read
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _replace(config: dict[str, Any], keys: Sequence[str], value: object) -> bool:
    """Sets the keys wherever the config has one; returns whether it had."""
    found = False
    for key, old in config.items():
        if key in keys:
            config[key] = value
            found = True
        elif isinstance(old, dict):
            found = _replace(old, keys, value) or found
    return found
