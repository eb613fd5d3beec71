"""What no merge can beat: reads both parents' weight files once and writes the child's bytes.

    python benchmarks/io_floor.py A B OUT

As many threads that read and that write as a merge has, pieces of the same size, the same way of
writing (room reserved, whole pages past the page cache, fsync at the end), and no arithmetic: the
bytes written are parent a's.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from fusion_slerp.engine.buffers import BufferPool
from fusion_slerp.output.output_file import OutputFile
from fusion_slerp.planning.memory import READERS, WAITING_RESULTS, WRITERS
from fusion_slerp.settings.merge_settings import available_cpus
from fusion_slerp.sources.positioned_io import open_for_reading, read_at

CHUNK_NBYTES = 2 << 20

Piece = tuple[list[int], OutputFile, int, int]
"""Descriptors of the models' files, the output, first byte and number of bytes."""


def floor(a: Path, b: Path, out: Path, *others: Path) -> None:
    """Reads every weight file of all models, and writes those of `a` to `out`."""
    out.mkdir()
    n_threads = available_cpus() + READERS
    scratches = BufferPool(CHUNK_NBYTES, n_threads)
    copies = BufferPool(CHUNK_NBYTES, n_threads + WRITERS * (1 + WAITING_RESULTS))
    outputs: list[OutputFile] = []
    with ThreadPoolExecutor(WRITERS) as writers, ThreadPoolExecutor(n_threads) as readers:

        def read(piece: Piece) -> Future[None]:
            (source, *sources), output, start, nbytes = piece
            scratch = scratches.take()
            for other in sources:
                read_at(other, scratch[:nbytes].data, start)
            scratches.give(scratch)
            copy = copies.take()
            read_at(source, copy[:nbytes].data, start)
            return writers.submit(write, output, copy, start, nbytes)

        def write(output: OutputFile, copy, start: int, nbytes: int) -> None:
            output.write(copy[:nbytes].data, start)
            copies.give(copy)

        for written in list(readers.map(read, _pieces([a, b, *others], out, outputs))):
            written.result()
    for output in outputs:
        output.close()
    for file in out.iterdir():
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())


def _pieces(models: list[Path], out: Path, outputs: list[OutputFile]) -> Iterator[Piece]:
    for file in sorted(models[0].glob("*.safetensors")):
        nbytes = file.stat().st_size
        sources = [open_for_reading(model / file.name) for model in models]
        outputs.append(OutputFile(out / file.name, nbytes, "auto"))
        for start in range(0, nbytes, CHUNK_NBYTES):
            yield sources, outputs[-1], start, min(CHUNK_NBYTES, nbytes - start)


if __name__ == "__main__":
    started = time.perf_counter()
    floor(*map(Path, sys.argv[1:]))
    print(f"engine_s={time.perf_counter() - started}")
