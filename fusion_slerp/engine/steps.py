"""The two ways in which tensors are processed by the threads: small neighbours together, or chunk by chunk.

A tensor that is larger than a chunk takes several rounds of tasks, one task per chunk: one round for each
measure that its method requests, then one that combines. Words of the first chunks are kept in memory between
the rounds as far as the memory budget allows; the others are read again.

A tensor's combining tasks are submitted some time after its last chunk has been measured. To keep the workers
busy in between, the next tensor's first chunks and at most one batch of small tensors are submitted first.

No thread waits for a buffer forever: workers take tasks in order, and a tensor's combining tasks come before
all others of the tasks that follow. When one of those begins, all chunks kept for the tensor before it have
been returned or are about to be. The few that come first are submitted when all combining tasks of earlier
tensors are done, and hold no more buffers than there are threads, and one for the batch. So one is left for
the tasks that combine. Buffers for results wait for writers only, and writers wait for no thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from fusion_slerp.chunks import Chunk, chunks_of_rows
from fusion_slerp.engine import batches, chunk_work
from fusion_slerp.engine.buffers import Buffer
from fusion_slerp.engine.chunk_work import Making
from fusion_slerp.engine.held_words import IN_PLACE
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.engine.threads import Threads
from fusion_slerp.engine.units import Total, UnitAtWork, report_of, units_of
from fusion_slerp.passes.protocols import Measure, NotFiniteError
from fusion_slerp.planning.amounts import MEASURING, writing
from fusion_slerp.planning.plan import BOX, TensorPlan
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.sources.source import Source
from fusion_slerp.vocabulary.rows import Owners
from fusion_slerp.waiting import result_of, wait_for

if TYPE_CHECKING:
    from fusion_slerp.engine.row_filler import RowFiller, Share

P = ParamSpec("P")
R = TypeVar("R")

OnBytes = Callable[[int, str, str], object]
"""Called in the calling thread with the number of bytes just read for a measure, or just written, the pass
(see `nbytes_by_pass`), and the name of the tensor, or of the first one of a batch."""

InEach = tuple[TensorPlan, ...]
"""A tensor, in each of the merged models that are made from one reading: as a rule one."""

Key = tuple[str, int, Owners, Measure | None]
"""What the value of a measure is remembered by: tensor, index of the unit, its sources' labels, measure."""

Measured = MutableMapping[Key, Any]
"""Values of measures: of merges of the same models, with the same units, that differ in coefficients; or by
another process of the same merge."""


class Batch:
    """Small neighbours: one task."""

    def __init__(self, group: Sequence[InEach], threads: Threads, settings: MergeSettings) -> None:
        position = group[0][0].out.position()
        self._first = group[0][0]
        self._future = threads.submit(position, batches.make, threads, group, settings.how)

    def finish(self, on_bytes: OnBytes) -> list[list[TensorReport]]:
        """Waits until all results are written; returns the reports of each tensor, for each merged model."""
        written, reports = result_of(self._future)
        for each in written:
            on_bytes(result_of(each), writing(self._first), self._first.out.name)
        return reports


class Round(NamedTuple):
    """A measure that is being taken.

    Attributes:
        key: What it is remembered by.
        units: The units that request it, one of each merged model; they have the same sources.
        keeps: Whether it keeps words of the first chunks.
        tasks: The index of each chunk, and its task: those submitted so far.
        others: Yields the remaining ones, submitting each.
    """

    key: Key
    units: list[UnitAtWork]
    keeps: bool
    tasks: list[tuple[int, Future[Buffer | None]]]
    others: Iterator[tuple[int, Future[Buffer | None]]]


class Large:
    """A tensor of several chunks, or with a row map: rounds of one task per chunk.

    Several merged models share the words and the measures.

    Args:
        in_each: The tensor in each merged model.
        threads: The threads.
        settings: The options of the merge, or of the first one.
        keep: Whether words of the first chunks are kept in memory between the rounds.
        measured: The values of measures of the same models; new ones are added. None to remember none.
    """

    def __init__(
        self,
        in_each: InEach,
        threads: Threads,
        settings: MergeSettings,
        keep: bool = True,
        measured: Measured | None = None,
    ) -> None:
        self._threads, self._settings, self._measured = threads, settings, measured
        self._makings = [Making(tensor, units_of(tensor, settings.how), None) for tensor in in_each]
        # Copies can be made in any chunks, so merged tensors decide.
        self._lead = max(self._makings, key=lambda making: len(making.units))
        self._chunks = self._lead.tensor.chunks
        # Boxes are measured in another order.
        keep = keep and len(self._lead.units) == 1 and not self._lead.is_block
        self._n_kept = threads.memory.kept_chunks if keep else 0
        self._kept: list[Buffer | None] = [None] * len(self._chunks)
        self._rounds = self._measure()
        self._is_combining = False
        self._written: list[Future[list[Future[int]]]] = []

    @property
    def is_measured(self) -> bool:
        """Whether something is to be measured before the tensor can be made."""
        return bool(self._rounds)

    def begin(self, n_tasks: int | None = None) -> None:
        """Submits tasks of the next measures: some of the first one's, or all that are not submitted yet."""
        for each in self._rounds[:1] if n_tasks else self._rounds:
            each.tasks.extend(islice(each.others, n_tasks))

    def decide(self, on_bytes: OnBytes) -> None:
        """Measures until every unit is decided."""
        while self._rounds:
            self.begin()
            for each in self._rounds:
                unit = each.units[0]
                itemsize = sum(source.words.itemsize for source in unit.sources)
                for i, task in each.tasks:
                    kept = result_of(task)
                    if each.keeps:
                        self._kept[i] = kept
                    on_bytes(unit.chunks[i][1] * itemsize, MEASURING, self._lead.tensor.out.name)
            for each in self._rounds:
                self._advance(each)
            self._rounds = self._measure()

    def combine(self, on_bytes: OnBytes) -> None:
        """Decides, then submits the tasks that make the tensor, if they are not submitted yet."""
        if self._is_combining:
            return
        self._is_combining = True
        self.decide(on_bytes)
        makings = [making._replace(filler=self._filler(making)) for making in self._makings]
        in_order = [self._lead, *self._makings]
        sources = {label: source for making in in_order for label, source in making.tensor.sources.items()}
        for chunk, kept in zip(self._chunks, self._kept, strict=True):
            held = None if kept is None else self._held(sources)
            task = chunk_work.produce, self._threads, makings, sources, chunk, kept, held
            self._written.append(self._submit(chunk, *task))

    def wait(self) -> None:
        """Waits until the tasks that make the tensor have ended, if they are submitted, in whatever way."""
        for future in self._written:
            wait_for(future)

    def finish(self, on_bytes: OnBytes) -> list[list[TensorReport]]:
        """Waits until all results are written; returns the tensor's reports, for each merged model."""
        for future in self._written:
            for written in result_of(future):
                on_bytes(result_of(written), writing(self._lead.tensor), self._lead.tensor.out.name)
        return [self.reports()]

    def reports(self) -> list[TensorReport]:
        """The tensor's report for each merged model."""
        return [_report(making) for making in self._makings]

    def _measure(self) -> list[Round]:
        """Returns a round of tasks for every measure that a unit requests and whose value is not known."""
        asked: dict[Key, list[UnitAtWork]] = {}
        for making in self._makings:
            for k, unit in enumerate(making.units):
                self._use_known(k, unit)
                if unit.measure is not None:
                    asked.setdefault(self._key(k, unit), []).append(unit)
        rounds: list[Round] = []
        for key, units in asked.items():
            keeps = self._n_kept > 0 and not rounds
            rounds.append(Round(key, units, keeps, [], self._tasks(units[0], keeps)))
        return rounds

    def _tasks(self, unit: UnitAtWork, keeps: bool) -> Iterator[tuple[int, Future[Buffer | None]]]:
        for i, chunk in enumerate(unit.chunks):
            keep = keeps and i < self._n_kept
            kept = self._kept[i] if keep else None
            task = chunk_work.measure, self._threads, self._lead.tensor, unit, chunk, kept, keep
            yield i, self._submit(chunk, *task)

    def _key(self, k: int, unit: UnitAtWork) -> Key:
        return self._lead.tensor.out.name, k, unit.owners, unit.measure

    def _use_known(self, k: int, unit: UnitAtWork) -> None:
        """Passes known values to a unit until it requests a measure whose value is not known."""
        if self._measured is None:
            return
        while unit.measure is not None and (key := self._key(k, unit)) in self._measured:
            unit.advance(self._measured[key])

    def _advance(self, finished: Round) -> None:
        try:
            value = finished.units[0].value()
        except NotFiniteError:
            unit = finished.units[0]
            raise chunk_work.unit_not_finite(self._threads, self._lead.tensor, unit) from None
        if self._measured is not None:
            self._measured[finished.key] = value
        for unit in finished.units:
            unit.advance(value)

    def _held(self, sources: Mapping[str, Source]) -> int | None:
        """What kept buffers hold: the words of the only unit."""
        (unit,) = self._lead.units
        if unit.rows is not None:
            return 0
        return IN_PLACE if tuple(sources) == unit.owners else None

    def _filler(self, making: Making) -> RowFiller | None:
        """Returns what makes the rows that are not merged, after measuring the mean if it is needed."""
        tensor, fill = making.tensor, self._settings.vocab_fill
        if tensor.rows is None:
            return None
        from fusion_slerp.engine.row_filler import RowFiller, shares_of

        shares = shares_of(tensor, making.units)
        sums = self._sums(tensor, shares) if tensor.needs_mean(fill) else None
        return RowFiller(tensor, shares, making.units, fill == "gradient", sums, self._threads.files)

    def _sums(self, tensor: TensorPlan, shares: Sequence[Share]) -> np.ndarray:
        from fusion_slerp.engine.row_filler import sums_of_rows

        total, threads, width = Total(), self._threads, tensor.width

        def add(chunk: Chunk) -> None:
            with threads.in_buffer() as buffer:
                total.fold(sums_of_rows(shares, threads.files, chunk, width, buffer))

        chunks = chunks_of_rows(tensor.out.n_elements, width)
        for future in [self._submit(chunk, add, chunk) for chunk in chunks]:
            result_of(future)
        return total.take().totals()

    def _submit(self, chunk: Chunk, task: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        return self._threads.submit(self._makings[0].tensor.out.position(chunk[0]), task, *args, **kwargs)


def _report(making: Making) -> TensorReport:
    """A tensor's report: of several units, that of the one with most rows, or of all boxes together."""
    tensor, units = making.tensor, making.units
    if not units:
        return report_of(tensor)
    if making.is_block and len(units) > 1:
        from fusion_slerp.passes.units import together

        return report_of(tensor, units[0].owners, together([unit.made for unit in units], BOX))
    unit = max(units, key=UnitAtWork.n_rows)
    return report_of(tensor, unit.owners, unit.made)
