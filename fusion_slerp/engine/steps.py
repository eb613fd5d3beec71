"""The two ways in which tensors are processed by the threads: small neighbours together, or chunk by chunk.

A tensor that is larger than a chunk takes several rounds of tasks, one task per chunk: one round for each
measure that its method requests, then one that combines. Words of the first chunks are kept in memory between
the rounds as far as the memory budget allows; the others are read again.

No thread waits for a buffer forever: workers take tasks in order, only one tensor at a time is being
measured, and its combining tasks come before the next tensor's measuring tasks. So when a worker measures,
all chunks kept for the previous tensor have been returned or are about to be, and there are buffers for those
that it will keep. Buffers for results wait for writers only, and writers wait for no thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import numpy as np

from fusion_slerp.chunks import Chunk, chunks_of_rows
from fusion_slerp.engine import batches, chunk_work
from fusion_slerp.engine.buffers import Buffer
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.engine.threads import Threads
from fusion_slerp.engine.units import Total, UnitAtWork, report_of, units_of
from fusion_slerp.passes.protocols import NotFiniteError
from fusion_slerp.planning.plan import BOX, Merge, TensorPlan
from fusion_slerp.settings.merge_settings import MergeSettings

if TYPE_CHECKING:
    from fusion_slerp.engine.row_filler import RowFiller, Share

P = ParamSpec("P")
R = TypeVar("R")

OnBytes = Callable[[int], object]
"""Called in the calling thread with the number of bytes just read for a measure, or just written."""


class Batch:
    """Small neighbours: one task."""

    def __init__(self, tensors: Sequence[TensorPlan], threads: Threads, settings: MergeSettings) -> None:
        position = tensors[0].out.position()
        self._future = threads.submit(position, batches.make, threads, tensors, settings.how)

    def combine(self, on_bytes: OnBytes) -> None:
        """Does nothing: combining is part of the one task."""

    def finish(self, on_bytes: OnBytes) -> list[TensorReport]:
        """Waits until all results are written; returns the reports."""
        written, reports = self._future.result()
        on_bytes(written.result())
        return reports


class Large:
    """A tensor of several chunks, or with a row map: rounds of one task per chunk.

    Measuring begins at once.

    Args:
        tensor: The tensor.
        threads: The threads.
        settings: The options of the merge.
        keep: Whether words of the first chunks are kept in memory between the rounds.
    """

    def __init__(
        self, tensor: TensorPlan, threads: Threads, settings: MergeSettings, keep: bool = True
    ) -> None:
        self._tensor, self._threads, self._settings = tensor, threads, settings
        self._chunks = tensor.chunks
        self._units = units_of(tensor, settings.how)
        self._is_block = isinstance(tensor.work, Merge) and tensor.work.granularity == BOX
        keep = keep and len(self._units) == 1 and not self._is_block  # boxes are measured in another order
        self._n_kept = threads.memory.kept_chunks if keep else 0
        self._kept: list[Buffer | None] = [None] * len(self._chunks)
        self._round = self._measure()
        self._written: list[Future[Future[int]]] = []

    def decide(self, on_bytes: OnBytes) -> None:
        """Measures until every unit is decided."""
        while self._round:
            for i, unit, future in self._round:
                kept = future.result()
                if self._n_kept:
                    self._kept[i] = kept
                on_bytes(unit.chunks[i][1] * sum(source.words.itemsize for source in unit.sources))
            for unit in self._units:
                self._advance(unit)
            self._round = self._measure()

    def combine(self, on_bytes: OnBytes) -> None:
        """Decides, then submits the tasks that make the tensor."""
        self.decide(on_bytes)
        filler = self._filler()
        self._written = [
            self._submit(
                chunk, chunk_work.produce, self._threads, self._tensor, self._units, chunk, kept, filler
            )
            for chunk, kept in zip(self._chunks, self._kept, strict=True)
        ]

    def finish(self, on_bytes: OnBytes) -> list[TensorReport]:
        """Waits until all results are written; returns the report."""
        for future in self._written:
            on_bytes(future.result().result())
        return [self.report()]

    def report(self) -> TensorReport:
        """The tensor's report: of several units, that of the one with most rows, or of all boxes together."""
        if not self._units:
            return report_of(self._tensor)
        if self._is_block and len(self._units) > 1:
            from fusion_slerp.passes.units import together

            made = together([unit.made for unit in self._units], BOX)
            return report_of(self._tensor, self._units[0].owners, made)
        unit = max(self._units, key=UnitAtWork.n_rows)
        return report_of(self._tensor, unit.owners, unit.made)

    def _measure(self) -> list[tuple[int, UnitAtWork, Future[Buffer | None]]]:
        """Submits a round of tasks for every unit that requests a measure."""
        return [
            (
                i,
                unit,
                self._submit(
                    chunk,
                    chunk_work.measure,
                    *(self._threads, self._tensor, unit, chunk, self._kept_at(i), i < self._n_kept),
                ),
            )
            for unit in self._units
            if unit.measure is not None
            for i, chunk in enumerate(unit.chunks)
        ]

    def _kept_at(self, i: int) -> Buffer | None:
        return self._kept[i] if i < self._n_kept else None

    def _advance(self, unit: UnitAtWork) -> None:
        if unit.measure is None:
            return
        try:
            unit.advance()
        except NotFiniteError:
            raise chunk_work.unit_not_finite(self._threads, self._tensor, unit) from None

    def _filler(self) -> RowFiller | None:
        """Returns what makes the rows that are not merged, after measuring the mean if it is needed."""
        tensor, fill = self._tensor, self._settings.vocab_fill
        if tensor.rows is None:
            return None
        from fusion_slerp.engine.row_filler import RowFiller, shares_of

        shares = shares_of(tensor, self._units)
        sums = self._sums(shares) if tensor.needs_mean(fill) else None
        return RowFiller(tensor, shares, self._units, fill == "gradient", sums, self._threads.files)

    def _sums(self, shares: Sequence[Share]) -> np.ndarray:
        from fusion_slerp.engine.row_filler import sums_of_rows

        total, threads, width = Total(), self._threads, self._tensor.width

        def add(chunk: Chunk) -> None:
            with threads.in_buffer() as buffer:
                total.fold(sums_of_rows(shares, threads.files, chunk, width, buffer))

        chunks = chunks_of_rows(self._tensor.out.n_elements, width)
        for future in [self._submit(chunk, add, chunk) for chunk in chunks]:
            future.result()
        return total.take().totals()

    def _submit(self, chunk: Chunk, task: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        return self._threads.submit(self._tensor.out.position(chunk[0]), task, *args, **kwargs)
