"""What is readable in a folder that cannot be merged: a damaged or quantised model, or an adapter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from fusion_slerp.errors import CheckpointError, FusionSlerpError, Problem
from fusion_slerp.sources.file_state import FileState, state_of
from fusion_slerp.sources.folder import CONFIG, Checkpoint, open_checkpoint
from fusion_slerp.sources.formats import (
    MAX_SHARDS,
    SAFETENSORS,
    TORCH,
    choose,
    files_listed,
    named_weights,
    read_index,
)
from fusion_slerp.sources.header import REDOWNLOAD, TensorEntry
from fusion_slerp.sources.json_files import SMALL, read_json
from fusion_slerp.sources.opening import resolve
from fusion_slerp.sources.unread import WEIGHTS

Problems = tuple[Problem | FusionSlerpError, ...]


def open_anything(source: str) -> tuple[Checkpoint, Problems]:
    """Returns what is readable of a model, and everything that prevents a merge.

    Args:
        source: A folder or a Hub id. Files may be links that lead out of the folder.

    Raises:
        CheckpointError: There is no such folder, and the Hub does not provide it.
    """
    folder, revision = resolve(source, follow_links=True)
    try:
        return open_checkpoint(folder, source, revision), ()
    except CheckpointError as error:
        tensors, files, damaged = _read_files(folder)
        known = error.problems or (error,)
        new = [problem for problem in damaged if str(problem) not in set(map(str, known))]
        checkpoint = Checkpoint(source, folder, revision, json_object(folder / CONFIG), tensors, (), files)
        return checkpoint, (*known, *new)


def weight_files(folder: Path) -> dict[str, int]:
    """Returns the bytes of every weight file in a folder by name, including formats that are not read."""
    patterns = (*WEIGHTS, "adapter_model*.bin")
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return {path.name: path.stat().st_size for path in paths[:MAX_SHARDS]}


def json_object(file: Path) -> dict[str, Any]:
    """Returns the object in a small JSON file; empty if it cannot be read."""
    try:
        value = read_json(file, SMALL)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _read_files(folder: Path) -> tuple[dict[str, TensorEntry], dict[Path, FileState], list[Any]]:
    """The tensors of all readable weight files, the files' states, and what is wrong with the others."""
    tensors: dict[str, TensorEntry] = {}
    files: dict[Path, FileState] = {}
    problems: list[Problem | FusionSlerpError] = []
    for file in islice(_files_to_read(folder), MAX_SHARDS):
        kind = SAFETENSORS if file.suffix == ".safetensors" else TORCH
        try:
            state = state_of(file)
            tensors |= {entry.name: entry for entry in kind.read(file)}
            files[file] = state
        except CheckpointError as error:
            problems += error.problems or (error,)
        except OSError as error:
            fields = (("file", file), ("found", error.strerror))
            problems.append(Problem(CheckpointError, "cannot read a weight file", fields, REDOWNLOAD))
    return tensors, files, problems


def _files_to_read(folder: Path) -> Iterator[Path]:
    """The files that a merge would read, or else all files of the first format that occurs."""
    choice = choose(
        lambda name: os.path.lexists(folder / name),
        lambda name: files_listed(read_index(folder / name)),
        named_weights(json_object(folder / CONFIG)),
    )
    listed = [folder / name for name in choice.files if Path(name).name == name] if choice else []
    present = [file for file in listed if file.is_file()]
    for pattern in () if present else ("*.safetensors", "pytorch_model*.bin", "adapter_model*.bin"):
        present = present or sorted(path for path in folder.glob(pattern) if path.is_file())
    yield from present
