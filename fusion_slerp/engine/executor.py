"""Schedules a plan's work on threads and hands the results to a sink.

Worker threads read, measure and combine, not more of them computing at a time than `threads`
says; writer threads wait for the sink. Consecutive small
tensors form a batch: read once, measured, combined and written together. A tensor larger than a
chunk takes two rounds of tasks, one task per chunk: all its measurements, then all its
combinations. Measured chunks stay in memory for the second round as far as the memory budget
goes; the rest is read again.

Why nobody waits for a buffer for ever: workers take tasks in order, and a tensor's combinations
stand before the next tensor's measurements. So when a worker measures, all chunks that the tensor
before kept are given back or about to be, and there are buffers for the ones it will keep.
Buffers of results wait for writers only, and writers wait for nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import ParamSpec, Protocol, TypeVar

from fusion_slerp.chunks import CHUNK_ELEMENTS, Chunk
from fusion_slerp.engine.buffers import Buffer, Buffers
from fusion_slerp.engine.output_digests import OutputDigests
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.engine.tensor_work import Measured, Result, TensorWork
from fusion_slerp.engine.vector_steps import Columns, Rows
from fusion_slerp.planning.layout import Place
from fusion_slerp.planning.memory import MAX_BATCH, STEPS_UNDER_WAY, WRITERS
from fusion_slerp.planning.plan import MergePlan, TensorPlan
from fusion_slerp.sources.open_files import InputFiles

BEFORE_ALL: Place = (-1, 0)

P = ParamSpec("P")
R = TypeVar("R")


class Sink(Protocol):
    """Where the child's bytes go."""

    def write(self, shard: int, offset: int, data: memoryview) -> None:
        """Takes bytes for an offset of a shard's data section, in any order, from any thread."""

    def finish(self, shard: int) -> None:
        """Is told, from any thread, that a shard has all its bytes."""


@dataclass(frozen=True, slots=True)
class FinishedFile:
    """A weight file that has all its bytes.

    Attributes:
        shard: Its index.
        digest: Of the whole file, header included.
        reports: What happened to its tensors, with their digests.
    """

    shard: int
    digest: str
    reports: tuple[TensorReport, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of a merge to prove it later, and to go on after an interruption.

    Attributes:
        digests: Takes the child's bytes.
        on_file: Called from a writer's thread after the sink has finished a file.
    """

    digests: OutputDigests
    on_file: Callable[[FinishedFile], object]


def execute(
    plan: MergePlan,
    sink: Sink,
    on_bytes: Callable[[int], object] = lambda nbytes: None,
    record: Record | None = None,
) -> list[TensorReport]:
    """Merges every tensor of the plan into the sink.

    Memory: the buffers of `plan.memory`, whatever the size of the model or of its tensors.

    Args:
        plan: What to do.
        sink: Where the results go.
        on_bytes: Called in the calling thread with the number of output bytes just finished.
        record: Takes digests of all that is written; None spares them.

    Returns:
        One report per tensor, in the plan's order.

    Raises:
        FusionSlerpError: A weight is not finite, a file cannot be read or written, a result does not
            fit its type, or a parent changed meanwhile. Work under way is finished or cancelled
            before it is raised.
    """
    with (
        InputFiles.of(plan) as inputs,
        ThreadPoolExecutor(WRITERS, "fusion_slerp writer") as writers,
        ThreadPoolExecutor(plan.memory.workers, "fusion_slerp worker") as workers,
    ):
        crew = Crew(plan, inputs, sink, (workers, writers), record)
        try:
            reports = list(crew.file_by_file(_run(plan, crew, on_bytes)))
            inputs.check_unchanged()
        except BaseException:
            crew.abort(BEFORE_ALL)
            workers.shutdown(wait=True, cancel_futures=True)
            raise
        return reports


def _run(plan: MergePlan, crew: Crew, on_bytes: Callable[[int], object]) -> Iterator[TensorReport]:
    crew.submit(BEFORE_ALL, crew.work.prepare, plan.tensors)
    under_way: deque[_Batch | _Large | Rows | Columns] = deque()
    for tensors in _groups(plan.tensors):
        step = _step(tensors, crew)
        if under_way:
            under_way[-1].combine()
        while len(under_way) >= STEPS_UNDER_WAY:
            yield from under_way.popleft().finish(on_bytes)
        step.start()
        under_way.append(step)
    if under_way:
        under_way[-1].combine()
    while under_way:
        yield from under_way.popleft().finish(on_bytes)


def _step(tensors: list[TensorPlan], crew: Crew) -> _Batch | _Large | Rows | Columns:
    by_vector = {"row": Rows, "column": Columns}.get(tensors[0].granularity)
    if by_vector:
        return by_vector(tensors[0], crew)
    return _Large(tensors[0], crew) if _is_large(tensors[0]) else _Batch(tensors, crew)


def _is_large(tensor: TensorPlan) -> bool:
    return tensor.granularity != "tensor" or tensor.out.n_elements > CHUNK_ELEMENTS or tensor.rows is not None


def _groups(tensors: Sequence[TensorPlan]) -> Iterator[list[TensorPlan]]:
    """Runs of neighbours in one file that fill at most a chunk; large tensors stay alone."""
    group: list[TensorPlan] = []
    filled = 0
    for tensor in tensors:
        n = tensor.out.n_elements
        alone = _is_large(tensor) or (bool(group) and _is_large(group[0]))
        fits = not alone and filled + n <= CHUNK_ELEMENTS and len(group) < MAX_BATCH
        if group and not (fits and tensor.out.follows(group[-1].out)):
            yield group
            group, filled = [], 0
        group.append(tensor)
        filled += n
    if group:
        yield group


class Crew:
    """The threads, what they work on, and where the results go."""

    def __init__(
        self,
        plan: MergePlan,
        inputs: InputFiles,
        sink: Sink,
        threads: tuple[ThreadPoolExecutor, ThreadPoolExecutor],
        record: Record | None,
    ) -> None:
        self._plan, self._inputs, self._sink, self._record = plan, inputs, sink, record
        self._workers, self._writers = threads
        self._buffers = Buffers(plan.memory)
        self.work = TensorWork(inputs, plan.settings, self._buffers, plan.memory.threads)
        self.kept_chunks = plan.memory.kept_chunks

    def submit(self, place: Place, task: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Hands a task to the workers; if it fails, nobody waits for the bytes at a place any longer."""

        def run() -> R:
            try:
                return task(*args, **kwargs)
            except BaseException:
                self.abort(place)
                raise

        return self._workers.submit(run)

    def abort(self, place: Place) -> None:
        """Releases the threads that wait for the bytes at a place, which will not come."""
        if self._record:
            self._record.digests.abort(place)

    def file_by_file(self, reports: Iterator[TensorReport]) -> Iterator[TensorReport]:
        """Finishes each file when the last of its tensors is reported; passes the reports on, completed."""
        finishing: list[Future[list[TensorReport]]] = []
        of_file: list[TensorReport] = []
        following = [*(tensor.out.shard for tensor in self._plan.tensors), None][1:]
        for tensor, report, next_shard in zip(self._plan.tensors, reports, following, strict=True):
            of_file.append(report)
            if tensor.out.shard != next_shard:
                for finished in filter(Future.done, finishing):
                    finished.result()  # one that failed ends the merge now, not when all is done
                finishing.append(self._writers.submit(self._finish, tensor.out.shard, of_file))
                of_file = []
        for finished in finishing:
            yield from finished.result()

    def _finish(self, shard: int, reports: list[TensorReport]) -> list[TensorReport]:
        self._sink.finish(shard)
        if self._record is None:
            return reports
        self._inputs.check_unchanged()  # what is noted as finished has to be of the parents that were planned
        digests = self._record.digests.tensors(shard)
        complete = [replace(report, digest=digests[report.name]) for report in reports]
        file = FinishedFile(shard, self._record.digests.file(shard), tuple(complete))
        self._record.on_file(file)
        return complete

    def write(self, result: Result) -> Future[int]:
        """Hands a result to a writer, which gives the buffer back; its number of bytes is promised."""
        if self._record:
            try:
                self._record.digests.add(result.shard, result.offset, result.data)
            except BaseException:
                self.give_back(result)
                raise
        return self._writers.submit(self._write, result)

    def give_back(self, result: Result) -> None:
        """Gives the buffer of a result back that will not be written."""
        self._buffers.outs.give(result.buffer)

    def _write(self, result: Result) -> int:
        try:
            self._sink.write(result.shard, result.offset, result.data.data)
        finally:
            self._buffers.outs.give(result.buffer)
        return result.data.nbytes


class _Batch:
    """Small neighbours: one task."""

    def __init__(self, tensors: list[TensorPlan], crew: Crew) -> None:
        self._tensors, self._crew = tensors, crew

    def start(self) -> None:
        self._future = self._crew.submit(self._tensors[0].out.place(), self._merge)

    def combine(self) -> None:
        """Nothing: it is part of the one task."""

    def finish(self, on_bytes: Callable[[int], object]) -> list[TensorReport]:
        written, reports = self._future.result()
        on_bytes(written.result())
        return reports

    def _merge(self) -> tuple[Future[int], list[TensorReport]]:
        result, reports = self._crew.work.batch(self._tensors)
        return self._crew.write(result), reports


class _Large:
    """A tensor of several chunks or with a row map: a task per chunk to measure, then one to combine."""

    def __init__(self, tensor: TensorPlan, crew: Crew) -> None:
        self._tensor, self._crew = tensor, crew
        self._chunks = tensor.chunks

    def start(self) -> None:
        crew = self._crew
        chunks = self._chunks if self._tensor.action == "merge" else []
        self._measured: list[Future[Measured]] = [
            crew.submit(
                self._tensor.out.place(), crew.work.measure, self._tensor, chunk, i < crew.kept_chunks
            )
            for i, chunk in enumerate(chunks)
        ]

    def combine(self) -> None:
        crew = self._crew
        measured = [future.result() for future in self._measured]
        found, self._report = crew.work.decide(self._tensor, [m.sums for m in measured])
        filler = crew.work.filler(self._tensor, found)
        kept = [m.kept for m in measured] or [None] * len(self._chunks)

        def make(chunk: Chunk, kept: Buffer | None) -> Future[int]:
            return crew.write(crew.work.produce(self._tensor, chunk, found, kept, filler))

        out = self._tensor.out
        self._combined = [
            crew.submit(out.place(chunk[0]), make, chunk, buffer)
            for chunk, buffer in zip(self._chunks, kept, strict=True)
        ]

    def finish(self, on_bytes: Callable[[int], object]) -> list[TensorReport]:
        for combined in self._combined:
            on_bytes(combined.result().result())
        return [self._report]
