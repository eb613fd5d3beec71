"""Units in progress: the method's generator for each, and the measurements so far."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fusion_slerp.chunks import Chunk, chunks_of
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.methods import Method
from fusion_slerp.passes.protocols import Made, Measure, Steps
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
        self._steps = steps
        self._made: Made | None = None
        self._send(None)

    @property
    def made(self) -> Made:
        """The method's decision; available once measuring has ended."""
        assert self._made is not None, "still measuring"
        return self._made

    def n_rows(self) -> int:
        """The number of the merged model's rows that it makes."""
        return 0 if self.rows is None else int((self.rows[0] >= 0).sum())

    def advance(self) -> None:
        """Passes the measurement of all chunks to the method, which may then request another measure.

        Raises:
            NotFiniteError: An element is infinite or NaN.
        """
        assert self.measure is not None, "nothing was measured"
        self._send(self.measure.value(self.total.take()))

    def _send(self, value: Any) -> None:
        try:
            self.measure = self._steps.send(value)
        except StopIteration as end:
            self.measure, self._made = None, end.value


def steps_of(method: Method, parameters: Any, granularity: str, width: int) -> Steps:
    """Returns the method's generator for a tensor, or for each of its rows or columns."""
    if granularity == "tensor":
        return method.steps(parameters)
    from fusion_slerp.passes.units import by_column, by_row  # rarely needed: keeps small merges fast

    of_each = by_row if granularity == "row" else by_column
    return of_each(lambda: method.steps(parameters), width)


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
        steps = steps_of(method, parameters, work.granularity, tensor.width)
        rows = None
        if tensor.rows is not None and groups is not None:
            rows = [np.where(groups[owners], tensor.rows.of[label], NOBODY) for label in owners]
        yield UnitAtWork(owners, sources, steps, chunks, rows)


def _boxes(tensor: TensorPlan, work: Merge, method: Method) -> Iterator[UnitAtWork]:
    """A unit for each matrix of a block, measured as a tensor of its own would be: to the same last digit."""
    ((owners, parameters),) = work.units.items()
    blocks = [source for label in owners if isinstance(source := tensor.sources[label], Block)]
    for boxes in zip(*(block.boxes for block in blocks), strict=True):
        yield UnitAtWork(owners, boxes, method.steps(parameters), chunks_of(boxes[0].n_elements))


def report_of(tensor: TensorPlan, owners: Owners = (), made: Made | None = None) -> TensorReport:
    """Returns the report of a tensor; `made` is the decision for its (largest) unit, None if it is copied."""
    rows = None if tensor.rows is None else tensor.rows.counts
    n, values = tensor.out.n_elements, tensor.values
    if made is None:
        why = getattr(tensor.work, "why", "integer")
        return TensorReport(tensor.out.name, str(tensor.work), n, values, why, rows=rows)
    made = made.after() if made.after else made
    norms = dict(zip(owners, made.gram.norms, strict=True)) if made.gram else {}
    return TensorReport(tensor.out.name, made.rule, n, values, None, made.angle_deg, norms, rows)
