"""Asks the system to read what comes next in a file, so that the disk works while processors compute.

The threads of a merge take turns at reading and computing, and while they combine a tensor that is in memory
already, nobody reads. Systems read ahead by themselves, but only behind a read, and less far.
"""

from __future__ import annotations

import os
from contextlib import suppress

AHEAD_NBYTES = 16 << 20
"""From the end of a read on. Twice as much and half as much were as fast (a virtual disk of 2 GB/s)."""

LEAST_NBYTES = 1 << 20
"""Reads that are smaller are of scattered rows, or of small files."""


class ReadAhead:
    """Knows how far each file was asked for: no part is asked for twice, even if it is read again."""

    def __init__(self) -> None:
        self._asked: dict[int, int] = {}

    def before(self, descriptor: int, start: int, nbytes: int) -> None:
        """Is called before each read of a file, from any thread; returns at once.

        Where the system cannot be asked, it does nothing.
        """
        end, asked = start + nbytes, self._asked.get(descriptor, 0)
        if nbytes < LEAST_NBYTES or end + AHEAD_NBYTES // 2 < asked or not hasattr(os, "posix_fadvise"):
            return
        first, last = max(end, asked), end + AHEAD_NBYTES
        self._asked[descriptor] = last
        with suppress(OSError):  # it is only advice: reading says what is wrong
            os.posix_fadvise(descriptor, first, last - first, os.POSIX_FADV_WILLNEED)
