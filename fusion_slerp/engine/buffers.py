"""Memory that is used again and again: page-aligned, as direct I/O needs it."""

from __future__ import annotations

from queue import LifoQueue

import numpy as np

from fusion_slerp.chunks import PAGE_NBYTES, whole_pages

Buffer = np.ndarray
"""uint8, starting at a page."""


class BufferPool:
    """`count` buffers of at least `nbytes` each, overwritten by each user.

    They are cut from one block, which lets the system use large pages; and the last one given
    back goes out first, so memory that is never needed is never touched.
    """

    def __init__(self, nbytes: int, count: int) -> None:
        size = whole_pages(nbytes)
        block = np.empty(size * count + PAGE_NBYTES, np.uint8)
        first = -block.ctypes.data % PAGE_NBYTES
        self._free: LifoQueue[Buffer] = LifoQueue()
        for start in range(first, first + size * count, size):
            self._free.put(block[start : start + size])

    def take(self) -> Buffer:
        """Returns a free buffer; waits for one if all are in use."""
        return self._free.get()

    def give(self, buffer: Buffer) -> None:
        """Takes a buffer back."""
        self._free.put(buffer)
