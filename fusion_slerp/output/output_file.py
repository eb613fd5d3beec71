"""A file being written at any offset, from any thread, past the page cache where that is possible.

Direct I/O, past the page cache, avoids a copy of every byte, leaves the cache to other programs, and leaves
little for the final fsync to do. It requires whole pages: the partial pages at the ends of a piece go through
the cache.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import threading
from pathlib import Path

from fusion_slerp.chunks import PAGE_NBYTES, DirectIO
from fusion_slerp.sources.positioned_io import reserve, write_at

log = logging.getLogger(__name__)

REFUSALS = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP)
"""Errors of file systems without direct I/O, or without it for such pieces."""


class OutputFile:
    """A new file with its space reserved. Once closed, it reopens for the next write.

    Raises (all methods):
        OSError: The disk is full or failing, the file exists, or with `"on"` has no direct I/O.
    """

    def __init__(self, path: Path, nbytes: int, direct_io: DirectIO) -> None:
        self._path = path
        self._required = direct_io == "on"
        self._wants_direct = direct_io != "off"
        self._cached: int | None = None
        self._direct: int | None = None
        self._retired: list[int] = []
        self._opening = threading.Lock()
        cached = self._open(os.O_CREAT | os.O_EXCL)
        try:
            reserve(cached, nbytes)
        except OSError:
            self.close()
            raise

    def write(self, data: memoryview, offset: int) -> None:
        """Writes all the data; directly if it has the same offset within a page in memory and in the file."""
        cached, direct = self._opened()
        if direct is None or (_address(data) - offset) % PAGE_NBYTES:
            write_at(cached, data, offset)
            return
        head = min(-offset % PAGE_NBYTES, data.nbytes)
        end = head + (data.nbytes - head) // PAGE_NBYTES * PAGE_NBYTES
        self._write_pages(cached, direct, data[head:end], offset + head)
        write_at(cached, data[:head], offset)
        write_at(cached, data[end:], offset + end)

    def sync(self) -> None:
        """Flushes everything written to disk."""
        os.fsync(self._opened()[0])

    def close(self) -> None:
        """Closes the file, while nothing writes to it; flushing it is left to `sync`."""
        for descriptor in (self._cached, self._direct, *self._retired):
            if descriptor is not None:
                os.close(descriptor)
        self._cached = self._direct = None
        self._retired = []

    def _opened(self) -> tuple[int, int | None]:
        with self._opening:
            cached = self._open() if self._cached is None else self._cached
            return cached, self._direct

    def _open(self, flags: int = 0) -> int:
        self._cached = os.open(self._path, os.O_WRONLY | getattr(os, "O_BINARY", 0) | flags, 0o666)
        try:
            self._direct = self._open_direct() if self._wants_direct else None
        except OSError:
            self.close()
            raise
        return self._cached

    def _write_pages(self, cached: int, direct: int, data: memoryview, offset: int) -> None:
        try:
            write_at(direct, data, offset)
        except OSError as error:
            if error.errno not in REFUSALS or self._required:
                raise
            self._give_up_direct(error)
            write_at(cached, data, offset)

    def _open_direct(self) -> int | None:
        try:
            if not hasattr(os, "O_DIRECT"):
                raise OSError(errno.EOPNOTSUPP, "this system has no O_DIRECT")
            return os.open(self._path, os.O_WRONLY | os.O_DIRECT)
        except OSError as error:
            if error.errno not in REFUSALS or self._required:
                raise
            self._give_up_direct(error)
            return None

    def _give_up_direct(self, error: OSError) -> None:
        log.debug("no direct I/O for %s (%s): writing through the page cache", self._path, error.strerror)
        self._wants_direct = False
        if self._direct is not None:  # other threads may be using it: closed with the file
            self._retired.append(self._direct)
            self._direct = None


def _address(data: memoryview) -> int:
    """The data's address in memory; 1 if it is unsuitable for direct writes."""
    if data.readonly or not data.nbytes:
        return 1  # never the start of a page
    return ctypes.addressof(ctypes.c_char.from_buffer(data))
