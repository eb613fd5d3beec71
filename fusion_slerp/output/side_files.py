"""Writes the files next to the weights, as `planning.side_files` chose them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from fusion_slerp.interruption import check_signals
from fusion_slerp.planning.private_paths import SideFile, without_paths
from fusion_slerp.planning.side_files import CONFIGS


def nbytes_of(file: SideFile) -> int:
    """The file's length in bytes."""
    return len(file) if isinstance(file, bytes) else file.stat().st_size


def write_side_files(files: Mapping[str, SideFile], folder: Path) -> None:
    """Writes contents only: copies get the modes of new files, not those of the originals."""
    for name, file in files.items():
        check_signals()
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(file, bytes):
            target.write_bytes(file)
        else:
            shutil.copyfile(file, target)


def remove_paths(folder: Path) -> None:
    """Removes the paths that no reader needs from the configs of a folder."""
    for file in folder.glob(CONFIGS):
        content = without_paths(file)
        if isinstance(content, bytes):
            file.write_bytes(content)
