"""A worker thread's task for a batch of small tensors: neighbours in a file that fill at most one chunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from itertools import groupby
from typing import NamedTuple

import numpy as np

from fusion_slerp.engine.buffers import Buffer
from fusion_slerp.engine.chunk_work import copy_words
from fusion_slerp.engine.failures import are_finite, not_finite, refuse_overflow
from fusion_slerp.engine.reader import as_words, read_batch
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.engine.threads import Threads
from fusion_slerp.engine.units import report_of, unit_of
from fusion_slerp.kernels import Table, Words
from fusion_slerp.methods import Method
from fusion_slerp.passes.many import combine_many, drive_many
from fusion_slerp.passes.protocols import Made
from fusion_slerp.planning.plan import Merge, TensorPlan


def make(
    threads: Threads, group: Sequence[Sequence[TensorPlan]], method: Method
) -> tuple[list[Future[int]], list[list[TensorReport]]]:
    """Makes tensors, for every merged model, and passes them to a writer; reads each source model once.

    Args:
        threads: For buffers and files.
        group: Each tensor, in each of the merged models.
        method: Their method.

    Returns:
        What is being written, and the reports of each tensor, for each merged model.
    """
    by_child = [*zip(*group, strict=True)]
    if len(by_child) == 1 and all(tensor.is_verbatim for (tensor,) in group):
        return [_moved(threads, by_child[0])], [[report_of(tensor)] for (tensor,) in group]
    written, reports = [], []
    with threads.in_buffer() as buffer:
        for tensors, read in zip(by_child, _read(threads, group, buffer), strict=True):
            nbytes = sum(tensor.out.nbytes for tensor in tensors)
            with threads.result(tensors[0].out, 0, nbytes) as result, threads.computing:
                reports.append([r for run in _runs(read) for r in _made(run, method, result.data)])
            written.append(threads.write(result))
    return written, [list(each) for each in zip(*reports, strict=True)]


def _moved(threads: Threads, tensors: Sequence[TensorPlan]) -> Future[int]:
    """Reads copies into the memory from which they are written."""
    with threads.result(tensors[0].out, 0, sum(tensor.out.nbytes for tensor in tensors)) as result:
        sources = [source for tensor in tensors for source in tensor.sources.values()]
        threads.files.read_in_turn(sources, result.data)
    return threads.write(result)


def measure(threads: Threads, group: Sequence[Sequence[TensorPlan]], method: Method) -> list[TensorReport]:
    """Measures the tensors of one merged model without writing anything."""
    with threads.in_buffer() as buffer:
        (read,) = _read(threads, group, buffer)
        with threads.computing:
            return [report for run in _runs(read) for report in _measured(run, method)]


class _Read(NamedTuple):
    """A tensor whose words are in memory.

    Attributes:
        tensor: The tensor.
        offsets: Offsets of its sources in the buffer.
        start: Its offset in the batch's result.
        buffer: The memory.
    """

    tensor: TensorPlan
    offsets: list[int]
    start: int
    buffer: Buffer

    @property
    def words(self) -> list[np.ndarray]:
        """The words of every source."""
        sources = self.tensor.sources.values()
        return [
            as_words(self.buffer[offset : offset + source.nbytes], source)
            for source, offset in zip(sources, self.offsets, strict=True)
        ]

    @property
    def kind(self) -> tuple[str, ...]:
        """The key of tensors that are processed together: their types, if they are merged."""
        if not isinstance(self.tensor.work, Merge):
            return ()
        words = [source.words.word for source in self.tensor.sources.values()]
        return (*words, self.tensor.out.dtype.word)

    def out(self, data: np.ndarray) -> np.ndarray:
        """Its part of the batch's result, uint8."""
        return data[self.start : self.start + self.tensor.out.nbytes]


def _read(threads: Threads, group: Sequence[Sequence[TensorPlan]], buffer: Buffer) -> list[list[_Read]]:
    """Reads what all merged models need; returns the tensors of each."""
    sources = [{k: v for tensor in each for k, v in tensor.sources.items()} for each in group]
    by_tensor = read_batch(threads.files, [[*each.values()] for each in sources], buffer)
    offsets = [dict(zip(each, found, strict=True)) for each, found in zip(sources, by_tensor, strict=True)]
    return [
        [
            _Read(tensor, [found[k] for k in tensor.sources], tensor.out.offset - child[0].out.offset, buffer)
            for tensor, found in zip(child, offsets, strict=True)
        ]
        for child in zip(*group, strict=True)
    ]


def _runs(read: Sequence[_Read]) -> Iterator[list[_Read]]:
    """Yields neighbours that are processed together."""
    for _, run in groupby(read, lambda each: each.kind):
        yield list(run)


def _made(run: Sequence[_Read], method: Method, data: np.ndarray) -> list[TensorReport]:
    if not run[0].kind:
        for each in run:
            copy_words(each.tensor, each.words, 0, each.out(data))
        return [report_of(each.tensor) for each in run]
    made = _decided(run, method)
    address = data.ctypes.data
    starts = [[address + each.start] for each in run]

    def one(i: int) -> tuple[Words, np.ndarray]:
        out = run[i].out(data)
        return run[i].words, out.view(run[i].tensor.out.dtype.word)

    n_bad = combine_many(made, _table(run, run[0].kind, starts), one)
    for each, count in zip(run, n_bad, strict=True):
        if count and not are_finite(each.words):  # not noticed earlier by a method that measures nothing
            raise not_finite(each.tensor.sources, [each.words])
        refuse_overflow(each.tensor, count)
    return [_report(each, decided) for each, decided in zip(run, made, strict=True)]


def _measured(run: Sequence[_Read], method: Method) -> list[TensorReport]:
    if not run[0].kind:
        return [report_of(each.tensor) for each in run]
    return [_report(each, made) for each, made in zip(run, _decided(run, method), strict=True)]


def _report(read: _Read, made: Made) -> TensorReport:
    return report_of(read.tensor, tuple(read.tensor.sources), made)


def _decided(run: Sequence[_Read], method: Method) -> list[Made]:
    """The method's decisions for tensors of one kind."""
    works = [each.tensor.work for each in run]
    parameters = [next(iter(work.units.values())) for work in works if isinstance(work, Merge)]
    steps = [method.start(p, unit_of(each.tensor)) for p, each in zip(parameters, run, strict=True)]
    outcomes = drive_many(steps, _table(run, run[0].kind[:-1]), lambda i: run[i].words)
    for each, outcome in zip(run, outcomes, strict=True):
        if not isinstance(outcome, Made):
            raise not_finite(each.tensor.sources, [each.words])
    return [outcome for outcome in outcomes if isinstance(outcome, Made)]


def _table(run: Sequence[_Read], dtypes: tuple[str, ...], outs: list[list[int]] | None = None) -> Table:
    """The tensors' words in memory; the buffer must not move."""
    base = run[0].buffer.ctypes.data
    rows = [
        [each.tensor.out.n_elements, *(base + offset for offset in each.offsets), *(outs[i] if outs else ())]
        for i, each in enumerate(run)
    ]
    return Table(np.array(rows, np.int64), dtypes)
