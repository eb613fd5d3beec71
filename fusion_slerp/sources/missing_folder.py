"""What a message says of a folder that does not exist."""

from __future__ import annotations

import os
from pathlib import Path

from fusion_slerp.errors import nearest_name


def no_such_folder(near: Path | None) -> str:
    """Returns the words, with the folder that may have been meant."""
    return f"no such folder (did you mean {near.name!r}?)" if near else "no such folder"


def nearest_folder(folder: Path) -> Path | None:
    """Returns the folder next to a missing one whose name is most like its own; None if none is."""
    try:
        names = [name for name in os.listdir(folder.parent) if os.path.isdir(folder.parent / name)]
    except OSError:
        names = []
    name = nearest_name(folder.name, names)
    return folder.parent / name if name else None
