"""Schedules a plan's work on threads and hands the results to a sink.

Consecutive small tensors form one task: read once, measured, combined and written together. A
tensor larger than a chunk takes two rounds of tasks, one task per chunk: first all its
measurements, then all its combinations. While one is being combined, the next is being measured.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np

from fusion_slerp.execute.input_files import InputFiles
from fusion_slerp.execute.tensor_work import Chunk, TensorWork, chunks_of
from fusion_slerp.methods.slerp import CHUNK_ELEMENTS, Coefficients
from fusion_slerp.plan import MergePlan, TensorPlan
from fusion_slerp.report import TensorReport

LOOKAHEAD_CHUNKS = 16
"""How far measuring runs ahead of combining: small, so that the second read hits the page cache."""


class Sink(Protocol):
    """Where the child's bytes go."""

    def write(self, shard: int, offset: int, data: memoryview) -> None:
        """Takes bytes for an offset of a shard's data section, in any order, from any thread."""


def execute(
    plan: MergePlan, sink: Sink, on_bytes: Callable[[int], object] = lambda nbytes: None
) -> list[TensorReport]:
    """Merges every tensor of the plan into the sink.

    Memory: three chunks per thread, whatever the size of the model or of its tensors.

    Args:
        plan: What to do.
        sink: Where the results go.
        on_bytes: Called in the calling thread with the number of output bytes just finished.

    Returns:
        One report per tensor, in the plan's order.

    Raises:
        FusionSlerpError: A weight is not finite, a file cannot be read or written, or a result
            does not fit its type. Work under way is finished or cancelled before it is raised.
    """
    entries = [source for tensor in plan.tensors for source in tensor.sources]
    widths = {e.dtype.itemsize for e in entries} | {t.out.dtype.itemsize for t in plan.tensors}
    with (
        InputFiles({entry.file for entry in entries}) as inputs,
        ThreadPoolExecutor(plan.settings.n_threads, "fusion_slerp") as pool,
    ):
        work = TensorWork(inputs, plan.settings, widest=max(widths, default=1))
        try:
            return list(_run(plan, work, sink, pool, on_bytes))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _run(
    plan: MergePlan,
    work: TensorWork,
    sink: Sink,
    pool: ThreadPoolExecutor,
    on_bytes: Callable[[int], object],
) -> Iterator[TensorReport]:
    under_way: deque[_Batch | _Large] = deque()
    for group in _groups(plan.tensors):
        step = _Large(group[0], work, sink) if _is_large(group[0]) else _Batch(group, work, sink)
        step.start(pool)
        under_way.append(step)
        while len(under_way) > 2 and sum(s.n_chunks for s in under_way) > LOOKAHEAD_CHUNKS:
            yield from under_way.popleft().finish(pool, on_bytes)
    while under_way:
        yield from under_way.popleft().finish(pool, on_bytes)


def _is_large(tensor: TensorPlan) -> bool:
    return tensor.a.n_elements > CHUNK_ELEMENTS


def _groups(tensors: Sequence[TensorPlan]) -> Iterator[list[TensorPlan]]:
    """Runs of neighbours in one file that fill at most a chunk; large tensors stay alone."""
    group: list[TensorPlan] = []
    filled = 0
    for tensor in tensors:
        fits = filled + tensor.a.n_elements <= CHUNK_ELEMENTS
        if group and not (fits and group[-1].out.shard == tensor.out.shard):
            yield group
            group, filled = [], 0
        group.append(tensor)
        filled += tensor.a.n_elements
    if group:
        yield group


class _Batch:
    """Small neighbours: one task."""

    n_chunks = 1

    def __init__(self, tensors: list[TensorPlan], work: TensorWork, sink: Sink) -> None:
        self._tensors, self._work, self._sink = tensors, work, sink

    def start(self, pool: ThreadPoolExecutor) -> None:
        self._future = pool.submit(self._merge)

    def finish(self, pool: ThreadPoolExecutor, on_bytes: Callable[[int], object]) -> list[TensorReport]:
        reports = self._future.result()
        on_bytes(sum(tensor.out.nbytes for tensor in self._tensors))
        return reports

    def _merge(self) -> list[TensorReport]:
        out = self._work.buffer("out")
        first = self._tensors[0].out
        reports, filled = [], 0
        for tensor in self._tensors:
            end = filled + tensor.out.nbytes
            reports.append(self._work.whole(tensor, out[filled:end]))
            filled = end
        self._sink.write(first.shard, first.offset, out[:filled].data)
        return reports


class _Large:
    """One tensor of several chunks: a task per chunk to measure, then a task per chunk to write."""

    def __init__(self, tensor: TensorPlan, work: TensorWork, sink: Sink) -> None:
        self._tensor, self._work, self._sink = tensor, work, sink
        self._chunks = chunks_of(tensor)
        self.n_chunks = len(self._chunks)

    def start(self, pool: ThreadPoolExecutor) -> None:
        measured = self._chunks if self._tensor.action == "merge" else []
        self._sums: list[Future[tuple[float, float, float]]] = [
            pool.submit(self._work.measure, self._tensor, chunk) for chunk in measured
        ]

    def finish(self, pool: ThreadPoolExecutor, on_bytes: Callable[[int], object]) -> list[TensorReport]:
        sums = [future.result() for future in self._sums]
        found, report = self._work.decide(self._tensor, sums)
        written = [pool.submit(self._produce, chunk, found) for chunk in self._chunks]
        for future in written:
            on_bytes(future.result())
        return [report]

    def _produce(self, chunk: Chunk, found: Coefficients | None) -> int:
        start, count = chunk
        place = self._tensor.out
        out: np.ndarray = self._work.buffer("out")[: count * place.dtype.itemsize]
        self._work.produce(self._tensor, chunk, found, out)
        self._sink.write(place.shard, place.offset + start * place.dtype.itemsize, out.data)
        return out.nbytes
