"""How a file is recognised while its content is read in pieces."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FileState:
    """A file at one moment; the state changes when the file is written to or replaced.

    Attributes:
        nbytes: Its size.
        mtime_ns: When it was last written, in nanoseconds.
        inode: Device and inode: the same for all names of one file.
    """

    nbytes: int
    mtime_ns: int
    inode: tuple[int, int]


def state_of(file: Path | int) -> FileState:
    """Returns the state of a file, by name or open.

    Raises:
        OSError: There is no such file, or its state cannot be read.
    """
    stat = os.stat(file)
    return FileState(stat.st_size, stat.st_mtime_ns, (stat.st_dev, stat.st_ino))
