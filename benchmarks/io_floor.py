"""What no merge can beat: reads both parents' weight files once and writes the child's bytes.

    python benchmarks/io_floor.py A B OUT

The same number of threads as a merge takes, the same size of a read, the same writing (reserved
room, buffered writes, fsync at the end). The bytes written are parent a's.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from mmap import mmap
from pathlib import Path

CHUNK_NBYTES = 2 << 20

_own = threading.local()
"""Each thread's buffer, used again and again: memory that is new costs more than the copying."""


def floor(a: Path, b: Path, out: Path) -> None:
    """Reads every weight file of `a` and `b`, and writes those of `a` to `out`."""
    out.mkdir()
    n_threads = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(n_threads) as pool:
        futures = []
        for file in sorted(a.glob("*.safetensors")):
            source, other = (os.open(parent / file.name, os.O_RDONLY) for parent in (a, b))
            target = os.open(out / file.name, os.O_WRONLY | os.O_CREAT)
            nbytes = file.stat().st_size
            os.posix_fallocate(target, 0, nbytes)
            for start in range(0, nbytes, CHUNK_NBYTES):
                futures.append(pool.submit(_move, source, other, target, start))
        for future in futures:
            future.result()
    for file in out.iterdir():
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())


def _move(source: int, other: int, target: int, start: int) -> None:
    if not hasattr(_own, "buffer"):
        _own.buffer = memoryview(mmap(-1, CHUNK_NBYTES))
    os.preadv(other, [_own.buffer], start)
    nbytes = os.preadv(source, [_own.buffer], start)
    os.pwrite(target, _own.buffer[:nbytes], start)


if __name__ == "__main__":
    floor(*map(Path, sys.argv[1:4]))
