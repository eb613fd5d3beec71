"""Opens and reads files of a checkpoint, provided that they are regular files of bounded size."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fusion_slerp.errors import CheckpointError, Problem

BLOCK_NBYTES = 1 << 20

SPECIAL = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""Kinds that are neither files nor folders."""


@contextmanager
def reading_models() -> Iterator[None]:
    """Turns the operating system's error for a file that cannot be read into ours.

    Raises:
        CheckpointError: The disk fails, or permissions forbid it.
    """
    try:
        yield
    except OSError as error:
        fields = (("file", error.filename), ("found", error.strerror))
        fix = "check the disk and the file's permissions, or copy it again"
        raise Problem(CheckpointError, "a model's file cannot be read", fields, fix).error() from error


class NotRegularError(OSError):
    """There is something else in place of a file; `strerror` names it."""


@contextmanager
def open_regular(file: Path) -> Iterator[BinaryIO]:
    """Opens a regular file for reading; any other kind is refused without waiting for it.

    Raises:
        NotRegularError: It is a pipe, a socket or a device.
        OSError: It does not exist, is a folder, or cannot be read.
    """
    check_regular(os.stat(file).st_mode)  # opening a device can change its state
    with open(file, "rb", opener=_open_without_waiting) as stream:
        check_regular(os.fstat(stream.fileno()).st_mode)
        yield stream


def read_regular(file: Path, max_nbytes: int) -> bytes:
    """Returns the content of a regular file.

    Raises:
        ValueError: It is larger than the limit; nothing was read.
        OSError: As `open_regular`.
    """
    with open_regular(file) as stream:
        check_size(os.fstat(stream.fileno()).st_size, max_nbytes)
        content = stream.read(max_nbytes + 1)  # a file that is being written to may grow
    check_size(len(content), max_nbytes)
    return content


def equal_files(one: Path, other: Path, max_nbytes: int) -> bool:
    """Whether two regular files have the same bytes; files larger than the limit count as different."""
    with open_regular(one) as first, open_regular(other) as second:
        sizes = {os.fstat(stream.fileno()).st_size for stream in (first, second)}
        if len(sizes) > 1 or max(sizes) > max_nbytes:
            return False
        while block := first.read(BLOCK_NBYTES):
            if block != second.read(BLOCK_NBYTES):
                return False
        return not second.read(1)


def check_regular(mode: int) -> None:
    """Raises NotRegularError unless the mode is that of a file or a folder."""
    kind = stat.S_IFMT(mode)
    if kind != stat.S_IFREG and kind != stat.S_IFDIR:
        raise NotRegularError(0, f"{SPECIAL.get(kind, 'something else')} in place of a file")


def check_size(nbytes: int, max_nbytes: int) -> None:
    """Raises ValueError if there are more bytes than the limit."""
    if nbytes > max_nbytes:
        raise ValueError(f"{nbytes} bytes; {max_nbytes} is the limit")


def _open_without_waiting(path: str, flags: int) -> int:
    # A pipe that replaces the file after the check would wait forever for its writer.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
