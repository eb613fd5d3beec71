"""What a file is recognised by while its content is read in pieces."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FileState:
    """A file at one moment; writing to it, or putting another in its place, changes the state.

    Attributes:
        nbytes: Its size.
        mtime_ns: When it was last written, in nanoseconds.
        place: Device and inode: the same for all names of one file.
    """

    nbytes: int
    mtime_ns: int
    place: tuple[int, int]


def state_of(file: Path | int) -> FileState:
    """Returns the state of a file, by name or open.

    Raises:
        OSError: There is none, or it cannot be asked.
    """
    found = os.stat(file)
    return FileState(found.st_size, found.st_mtime_ns, (found.st_dev, found.st_ino))
