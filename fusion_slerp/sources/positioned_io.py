"""Reads and writes at an offset of an open file, from any thread, with the caller's memory.

Where the system has no positioned calls (Windows), a lock around seek-and-transfer takes their place.
"""

from __future__ import annotations

import errno
import os
import threading

_seek_lock = threading.Lock()


def open_for_reading(file: os.PathLike[str]) -> int:
    """Returns a descriptor for binary reading."""
    return os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0))


def read_at(descriptor: int, buffer: memoryview, offset: int) -> None:
    """Fills the whole buffer from the file.

    Raises:
        EOFError: The file ends before the buffer is full.
        OSError: The read failed.
    """
    while (n := _read_some(descriptor, buffer, offset)) < buffer.nbytes:
        if n == 0:
            raise EOFError(f"the file ends at byte {offset}, {buffer.nbytes} bytes too early")
        buffer = buffer[n:]
        offset += n


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """Writes all the data; raises OSError if the disk does not accept it."""
    while data.nbytes:
        n = _write_some(descriptor, data, offset)
        data = data[n:]
        offset += n


def reserve(descriptor: int, nbytes: int) -> None:
    """Reserves disk space for a file, so that a full disk is noticed at once and not an hour later.

    Does nothing if the system or the file system does not support it.

    Raises:
        OSError: There is not enough space.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, nbytes)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def _read_some(descriptor: int, buffer: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [buffer], offset)
    with _seek_lock:
        os.lseek(descriptor, offset, os.SEEK_SET)
        data = os.read(descriptor, buffer.nbytes)
    buffer[: len(data)] = data
    return len(data)


def _write_some(descriptor: int, data: memoryview, offset: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, offset)
    with _seek_lock:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.write(descriptor, data)
