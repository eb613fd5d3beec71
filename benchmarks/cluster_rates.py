"""What one machine does by itself, as the model of a shared merge needs it: reading, writing, kernels.

    python benchmarks/cluster_rates.py FOLDER

FOLDER has the models `a` and `b` of `checkpoints.py`. Prints JSON: bandwidths in GB/s, processor seconds per
GB, nanoseconds per element; and where reading and writing at once lies between both at full speed, 0, and one
after the other, 1. As many threads as a merge has read and write, pieces of the same size.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import NamedTuple, TypeVar

import numpy as np
from kernel_rates import best_rate, words
from processes import REST_S, drop_from_page_cache

from fusion_slerp import kernels
from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.dtypes import BF16
from fusion_slerp.engine.buffers import BufferPool
from fusion_slerp.hashes import tensor_hasher
from fusion_slerp.output.output_file import OutputFile
from fusion_slerp.planning.memory import READERS, WRITERS
from fusion_slerp.settings.merge_settings import available_cpus
from fusion_slerp.sources.positioned_io import open_for_reading, read_at

CHUNK_NBYTES = 2 * CHUNK_ELEMENTS

T = TypeVar("T")


REPETITIONS = 3
"""Of everything that uses the disk: virtual disks grant bursts, and others use them."""


class Cost(NamedTuple):
    """Of moving bytes.

    Attributes:
        rate: GB/s.
        cpu: Processor seconds per GB.
    """

    rate: float
    cpu: float


def reading(folders: list[Path]) -> Cost:
    """Reads all weight files once."""
    files = [file for folder in folders for file in sorted(folder.glob("*.safetensors"))]
    sources = [(open_for_reading(file), file.stat().st_size) for file in files]
    n_threads = available_cpus() + READERS
    buffers = BufferPool(CHUNK_NBYTES, n_threads)

    def read(piece: tuple[int, int, int]) -> None:
        source, start, nbytes = piece
        buffer = buffers.take()
        read_at(source, buffer[:nbytes].data, start)
        buffers.give(buffer)

    pieces = [
        (source, start, min(CHUNK_NBYTES, size - start))
        for source, size in sources
        for start in range(0, size, CHUNK_NBYTES)
    ]
    with ThreadPoolExecutor(n_threads) as threads:
        return _cost(lambda: list(threads.map(read, pieces)), sum(size for _, size in sources))


def writing(file: Path, nbytes: int) -> Cost:
    """Writes a file as a merge does, with its digest, and syncs it."""
    buffer = BufferPool(CHUNK_NBYTES, 1).take()
    buffer[:] = np.arange(CHUNK_NBYTES) % 251

    def write() -> None:
        digest, output = tensor_hasher(), OutputFile(file, nbytes, "auto")
        with ThreadPoolExecutor(WRITERS) as writers:
            for start in range(0, nbytes, CHUNK_NBYTES):
                piece = buffer[: min(CHUNK_NBYTES, nbytes - start)].data
                digest.update(piece)
                writers.submit(output.write, piece, start)
        output.close()
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())

    cost = _cost(write, nbytes)
    file.unlink()
    return cost


def _cost(work: Callable[[], object], nbytes: int) -> Cost:
    started, cpu = time.perf_counter(), time.process_time()
    work()
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    return Cost(nbytes / 1e9 / wall_s, cpu_s / (nbytes / 1e9))


def together(models: list[Path], file: Path, nbytes: int) -> float:
    """Seconds that reading and writing at once take."""
    started = time.perf_counter()
    with ThreadPoolExecutor(1) as thread:
        written = thread.submit(writing, file, nbytes)
        reading(models)
        written.result()
    return time.perf_counter() - started


def rested(work: Callable[[], T], *dropped: Path) -> list[T]:
    """What some work returns each time, after the disk came to rest; some folders are not in the cache."""
    found = []
    for _ in range(REPETITIONS):
        drop_from_page_cache(*dropped)
        os.sync()
        time.sleep(REST_S)
        found.append(work())
    return found


def median_of(costs: list[Cost]) -> Cost:
    """The medians of both."""
    return Cost(median(cost.rate for cost in costs), median(cost.cpu for cost in costs))


def rates(folder: Path) -> dict[str, float]:
    """The rates, most by their names in `cluster_running.Machine`."""
    models, file = [folder / "a", folder / "b"], folder / "written"
    nbytes = sum(each.stat().st_size for each in models[0].glob("*.safetensors"))
    cold = median_of(rested(lambda: reading(models), *models))
    cached = reading(models)
    written = median_of(rested(lambda: writing(file, nbytes)))
    read_s, write_s = 2 * nbytes / 1e9 / cold.rate, nbytes / 1e9 / written.rate
    both_s = median(rested(lambda: together(models, file, nbytes), *models))
    a, b = words(BF16, 1), words(BF16, 2)
    out = np.empty_like(a)
    gram = best_rate(lambda: kernels.gram((a, b)), CHUNK_ELEMENTS)
    total = best_rate(lambda: kernels.weighted_sum((a, b), (0.4, 0.7), out), CHUNK_ELEMENTS)
    return {
        "read": cold.rate,
        "read_cpu": cold.cpu,
        "cached": cached.rate,
        "cached_cpu": cached.cpu,
        "write": written.rate,
        "write_cpu": written.cpu,
        "slowdown": (both_s - max(read_s, write_s)) / min(read_s, write_s),
        "measure_ns": 1 / gram,
        "combine_ns": 1 / total,
    }


if __name__ == "__main__":
    print(json.dumps(rates(Path(sys.argv[1]))))
