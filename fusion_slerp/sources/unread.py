"""Weight files that lie in a checkpoint's folder and are not read."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from fusion_slerp.errors import SHOWN_NAME, CheckpointError, Problem, listed, printable
from fusion_slerp.sources.conversions import ADAPTER
from fusion_slerp.sources.formats import FORMATS, NAMED, files_listed, is_plain_name, read_index
from fusion_slerp.sources.json_files import SMALL, read_json
from fusion_slerp.tensor_names import layer_of

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "consolidated*.pth", "*.gguf")
"""Weight files as they occur in checkpoint folders, including those that are never read."""

ADAPTER_WEIGHTS = "adapter_model"
"""The start of the name of an adapter's weights."""


def unread(folder: Path, used: Collection[str], named: str | None) -> list[str]:
    """Returns warnings about weight files and indexes that are not read, and about an adapter.

    Args:
        folder: The checkpoint's.
        used: The names of the files that are read, and of those that other warnings name.
        named: The weights that config.json names; None if it names none.
    """
    patterns = (*WEIGHTS, *(kind.index for kind in FORMATS))
    names = {path.name for pattern in patterns for path in folder.glob(pattern)}.difference(used)
    warnings = []
    if (folder / ADAPTER).is_file():
        warnings.append(_with_adapter(folder))
        names = {name for name in names if not name.startswith(ADAPTER_WEIGHTS)}
    reason = f" (config.json names {named}: {NAMED})" if named else ""
    return [*warnings, f"{folder}: not read: {listed(sorted(names))}{reason}"] if names else warnings


def _with_adapter(folder: Path) -> str:
    config: Any = None
    with suppress(OSError, ValueError):
        config = read_json(folder / ADAPTER, SMALL)
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    of_base = f" (made for {printable(base, SHOWN_NAME)})" if isinstance(base, str) else ""
    return (
        f"{folder}: {ADAPTER} next to the weights: with peft, transformers applies it{of_base} when it "
        "loads this folder; the merge takes the weights alone, and the merged model has no adapter"
    )


def fragment(folder: Path, single: str, stored: Collection[str]) -> list[Problem]:
    """Returns the problem with a single file that takes precedence over complete shards and holds less.

    Transformers would read the single file, and make up the rest. A file that lacks no more than one weight
    outside of the layers, or buffers, is another save of the same model: a tied head need not be stored.

    Args:
        folder: The checkpoint's.
        single: The name of the single file, which exists.
        stored: The names of its tensors.
    """
    for kind in FORMATS:
        index: Any = read_index(folder / kind.index) if os.path.isfile(folder / kind.index) else None
        files = files_listed(index)
        if not files or not all(is_plain_name(name) and os.path.isfile(folder / name) for name in files):
            continue
        lost = [name for name in index["weight_map"] if name not in stored and name.endswith(".weight")]
        is_part = index["weight_map"].keys() >= set(stored)
        if is_part and (len(lost) > 1 or any(map(layer_of, lost))):
            return [_fragment(folder, single, kind.index, lost)]
    return []


def _fragment(folder: Path, single: str, index: str, lost: list[str]) -> Problem:
    fields = (
        ("file", folder / single),
        (
            "found",
            f"it takes precedence over {index}, and lacks {len(lost)} of its weights: {listed(lost, 3)}",
        ),
    )
    fix = f"if the shards are the model, remove or rename {single}; else remove {index} and its shards"
    return Problem(CheckpointError, "a single file with a part of the weights", fields, fix)
