"""Units in progress: the method's generator for each, and the measurements so far."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from fusion_slerp.chunks import Chunk, chunks_of
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.kernels import Words
from fusion_slerp.methods import Method
from fusion_slerp.methods.method import Unit
from fusion_slerp.passes.protocols import Counted, Counter, CountingCombine, Made, Measure, Steps
from fusion_slerp.planning.plan import BOX, Merge, TensorPlan
from fusion_slerp.sources.parts import Block
from fusion_slerp.sources.source import Source
from fusion_slerp.vocabulary.rows import NOBODY, Owners


class Total:
    """A total of parts that are added as they arrive, from any thread."""

    def __init__(self) -> None:
        self._folded: Any = None
        self._folding = threading.Lock()

    def fold(self, part: Any) -> None:
        """Adds the measurement of a chunk."""
        with self._folding:
            self._folded = part if self._folded is None else self._folded.join(part)

    def take(self) -> Any:
        """Returns the total, and starts over."""
        folded, self._folded = self._folded, None
        return folded


class UnitAtWork:
    """One unit of a tensor; parts may be added from any thread, everything else is for one thread.

    Args:
        owners: The labels of its sources.
        sources: The sources, in the same order.
        steps: The method's generator for it.
        chunks: The pieces in which it is measured.
        rows: For each source, its row for each row of the merged model, negative if the unit does not
            take it; None if it takes all rows in place.
    """

    def __init__(
        self,
        owners: Owners,
        sources: Sequence[Source],
        steps: Steps,
        chunks: Sequence[Chunk],
        rows: list[np.ndarray] | None = None,
    ) -> None:
        self.owners, self.sources, self.chunks, self.rows = owners, sources, chunks, rows
        self.measure: Measure | None = None
        self.total = Total()
        self._counts: dict[int, Future[np.ndarray]] = {}
        self._counting = threading.Lock()
        self._steps = steps
        self._made: Made | None = None
        self._counter: Counter | None = None
        self.advance(None)

    @property
    def made(self) -> Made:
        """The method's decision; available once measuring has ended."""
        assert self._made is not None, "still measuring"
        return self._made

    def n_rows(self) -> int:
        """The number of the merged model's rows that it makes."""
        return 0 if self.rows is None else int((self.rows[0] >= 0).sum())

    def value(self) -> Any:
        """Returns the measurement of all chunks.

        Raises:
            NotFiniteError: An element is infinite or NaN.
        """
        assert self.measure is not None, "nothing was measured"
        return self.measure.value(self.total.take())

    def advance(self, value: Any) -> None:
        """Passes the value of its measure to the method, which may then request another."""
        try:
            self.measure = self._steps.send(value)
        except StopIteration as end:
            self.measure, self._made = None, end.value
            combine = self.made.combine
            self._counter = combine.counter() if isinstance(combine, CountingCombine) else None

    def counted(self, words: Words, chunk: Chunk, computing: AbstractContextManager[Any]) -> Counted | None:
        """Returns the counts of a chunk and of all chunks before it; None if the decision needs none.

        It waits for the chunk before, whose task was started earlier, and passes the sum on to the next:
        after counting, unless the sum is there already and may save some of it. It computes only in the given
        context, and does not wait in it.
        """
        if self._counter is None:
            return None
        earlier = self._before(chunk[0]) if chunk[0] else None
        with computing:
            counts = self._counter(words, earlier.result() if earlier and earlier.done() else None)
        before = earlier.result() if earlier else np.zeros_like(counts)
        self._before(chunk[0] + chunk[1]).set_result(before + counts)
        return Counted(counts, before)

    def abort(self, chunk: Chunk, error: BaseException) -> None:
        """Releases the tasks that wait for the counts of a chunk, which will never come."""
        following = self._before(chunk[0] + chunk[1])
        if not following.done():
            following.set_exception(error)

    def _before(self, start: int) -> Future[np.ndarray]:
        """The counts of all chunks before an element, which the chunk before it will add up."""
        with self._counting:
            return self._counts.setdefault(start, Future())


def steps_of(method: Method, parameters: Any, granularity: str, unit: Unit) -> Steps:
    """Returns the method's generator for a tensor, or for each of its rows or columns."""
    if granularity == "tensor":
        return method.start(parameters, unit)
    from fusion_slerp.passes.units import by_column, by_row  # rarely needed: keeps small merges fast

    n = unit.width if granularity == "row" else unit.n_elements // unit.width

    def of_one() -> Steps:
        return method.start(parameters, unit._replace(n_elements=n, width=n))

    if granularity == "row":
        return by_row(of_one, unit.width, method.many(parameters))
    return by_column(of_one, unit.width)


def unit_of(tensor: TensorPlan) -> Unit:
    """Returns a tensor as one unit."""
    n = tensor.out.n_elements
    return Unit(tensor.out.name, n, tensor.width if len(tensor.out.shape) > 1 else n)


def units_of(tensor: TensorPlan, method: Method) -> list[UnitAtWork]:
    """Returns the units of a tensor: one, or one for each set of owners of its rows."""
    return list(_units(tensor, method)) if isinstance(tensor.work, Merge) else []


def _units(tensor: TensorPlan, method: Method) -> Iterator[UnitAtWork]:
    work = tensor.work
    assert isinstance(work, Merge), tensor.out.name
    groups = None if tensor.rows is None else tensor.rows.groups()
    if work.granularity == BOX:
        yield from _boxes(tensor, work, method)
        return
    chunks = tensor.chunks
    for owners, parameters in work.units.items():
        sources = [tensor.sources[label] for label in owners]
        rows, n = None, tensor.out.n_elements
        if tensor.rows is not None and groups is not None:
            n = int(groups[owners].sum()) * tensor.width
            rows = [np.where(groups[owners], tensor.rows.of[label], NOBODY) for label in owners]
        unit = unit_of(tensor)._replace(n_elements=n)
        yield UnitAtWork(owners, sources, steps_of(method, parameters, work.granularity, unit), chunks, rows)


def _boxes(tensor: TensorPlan, work: Merge, method: Method) -> Iterator[UnitAtWork]:
    """A unit for each matrix of a block, measured as a tensor of its own would be: to the same last digit."""
    ((owners, parameters),) = work.units.items()
    blocks = [source for label in owners if isinstance(source := tensor.sources[label], Block)]
    for boxes in zip(*(block.boxes for block in blocks), strict=True):
        n = boxes[0].n_elements
        unit = Unit(tensor.out.name, n, boxes[0].shape[-1], has_one_order=False)
        yield UnitAtWork(owners, boxes, method.start(parameters, unit), chunks_of(n))


def report_of(tensor: TensorPlan, owners: Owners = (), made: Made | None = None) -> TensorReport:
    """Returns the report of a tensor; `made` is the decision for its (largest) unit, None if it is copied."""
    rows = None if tensor.rows is None else tensor.rows.counts
    n, values = tensor.out.n_elements, tensor.values
    if made is None:
        why = getattr(tensor.work, "why", "integer")
        return TensorReport(tensor.out.name, str(tensor.work), n, values, why, rows=rows)
    made = made.after() if made.after else made
    norms = (
        dict(zip(owners, made.gram.norms, strict=False)) if made.gram else {}
    )  # differences: not the base's
    return TensorReport(tensor.out.name, made.rule, n, values, None, made.angle_deg, norms, rows)
