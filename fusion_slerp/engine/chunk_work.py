"""A worker thread's tasks for one chunk of a tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np

from fusion_slerp import kernels
from fusion_slerp.chunks import Chunk
from fusion_slerp.engine.buffers import Buffer
from fusion_slerp.engine.failures import are_finite, not_finite, refuse_difference, refuse_overflow
from fusion_slerp.engine.reader import read, rows_in, split
from fusion_slerp.engine.threads import Threads
from fusion_slerp.engine.units import UnitAtWork
from fusion_slerp.errors import FusionSlerpError
from fusion_slerp.kernels import Words
from fusion_slerp.passes.protocols import NotFiniteError
from fusion_slerp.planning.plan import BOX, CopyIfEqual, Merge, TensorPlan
from fusion_slerp.sources.parts import Block

if TYPE_CHECKING:
    from fusion_slerp.engine.row_filler import RowFiller


def measure(
    threads: Threads, tensor: TensorPlan, unit: UnitAtWork, chunk: Chunk, kept: Buffer | None, keep: bool
) -> Buffer | None:
    """Measures one chunk of a unit and adds it to the total.

    Args:
        threads: For buffers and files.
        tensor: The tensor.
        unit: The unit.
        chunk: The chunk.
        kept: The buffer that still holds its words from an earlier pass; None reads them.
        keep: Whether the words are kept for the next pass.

    Returns:
        The buffer that holds the words, if they are kept.
    """
    assert unit.measure is not None, tensor.out.name
    buffer = threads.ins.take() if kept is None else kept
    try:
        words = _words(threads, tensor, unit, chunk, buffer, kept is not None)
        with threads.computing:
            part = unit.measure.part(words, chunk[0])
        unit.total.fold(part)
    except BaseException:
        threads.ins.give(buffer)
        raise
    if keep:
        return buffer
    threads.ins.give(buffer)
    return None


def produce(
    threads: Threads,
    tensor: TensorPlan,
    units: Sequence[UnitAtWork],
    chunk: Chunk,
    kept: Buffer | None,
    filler: RowFiller | None,
) -> Future[int]:
    """Makes one chunk of the merged model's tensor and passes it to a writer.

    Args:
        threads: For buffers and files.
        tensor: The tensor.
        units: Its units, decided; none for a copy.
        chunk: The chunk.
        kept: The buffer that holds the words of the only unit, if they were kept; it is returned to the pool.
        filler: Makes the rows that are not merged, in a tensor with a row map.

    Raises:
        OutputError: A value does not fit the output type.
        MismatchError: A tensor that must be equal in all models differs.
    """
    if tensor.is_verbatim:
        return _move(threads, tensor, chunk)
    itemsize = tensor.out.dtype.itemsize
    is_block = isinstance(tensor.work, Merge) and tensor.work.granularity == BOX
    buffer = threads.ins.take() if kept is None else kept
    try:
        with threads.result(tensor.out, chunk[0] * itemsize, chunk[1] * itemsize) as result:
            if is_block:
                _produce_block(threads, tensor, units, chunk, buffer, result.data)
            for i, unit in enumerate(() if is_block else units):
                words = _words(threads, tensor, unit, chunk, buffer, kept is not None)
                before = unit.counts_before(words, chunk, threads.computing)
                with threads.computing:
                    _combine(threads, tensor, unit, words, chunk, before, result.data, is_first=i == 0)
            if not units and tensor.rows is None:
                words = read(threads.files, [*tensor.sources.values()], None, chunk, tensor.width, buffer)
                with threads.computing:
                    copy_words(tensor, words, chunk[0], result.data)
            if filler is not None:
                out = result.data.view(tensor.out.dtype.word)
                refuse_overflow(tensor, filler.fill(chunk, buffer, out))
    except BaseException as error:
        for unit in units:
            unit.abort(_part_of_unit(chunk, units) if is_block else chunk, error)
        raise
    finally:
        threads.ins.give(buffer)
    return threads.write(result)


def _move(threads: Threads, tensor: TensorPlan, chunk: Chunk) -> Future[int]:
    """Reads a chunk of a stored tensor into the memory from which it is written."""
    (source,), itemsize = tensor.sources.values(), tensor.out.dtype.itemsize
    with threads.result(tensor.out, chunk[0] * itemsize, chunk[1] * itemsize) as result:
        threads.files.read(source, [(0, chunk[1], chunk[0])], result.data)
    return threads.write(result)


def _produce_block(
    threads: Threads,
    tensor: TensorPlan,
    units: Sequence[UnitAtWork],
    chunk: Chunk,
    buffer: Buffer,
    data: np.ndarray,
) -> None:
    """Makes a chunk in which the units take turns, and whose elements are in the stored order."""
    sources = [tensor.sources[label] for label in units[0].owners]
    words = read(threads.files, sources, None, chunk, tensor.width, buffer)
    block = sources[0]
    assert isinstance(block, Block), tensor.out.name
    out = data.view(tensor.out.dtype.word)
    turns = -1, len(units), block.run if len(units) > 1 else chunk[1]
    for i, unit in enumerate(units):
        with threads.computing:
            own = [np.ascontiguousarray(each.reshape(turns)[:, i]).reshape(-1) for each in words]
        part = _part_of_unit(chunk, units)
        before = unit.counts_before(own, part, threads.computing)
        with threads.computing:
            target = np.empty(part[1], out.dtype)
            _into(threads, tensor, unit, own, target, part[0], before)
            out.reshape(turns)[:, i] = target.reshape(-1, turns[2])


def _part_of_unit(chunk: Chunk, units: Sequence[UnitAtWork]) -> Chunk:
    """The elements of each unit in a chunk in which they take turns."""
    return chunk[0] // len(units), chunk[1] // len(units)


def unit_not_finite(threads: Threads, tensor: TensorPlan, unit: UnitAtWork) -> FusionSlerpError:
    """Reads a unit again and returns the error that says where it is not finite, and how often."""
    sources = dict(zip(unit.owners, unit.sources, strict=True))

    def chunks() -> Iterator[Words]:
        with threads.in_buffer() as buffer:
            for chunk in unit.chunks:
                yield _words(threads, tensor, unit, chunk, buffer, False)

    return not_finite(sources, chunks())


def _words(
    threads: Threads, tensor: TensorPlan, unit: UnitAtWork, chunk: Chunk, buffer: Buffer, is_read: bool
) -> Words:
    if is_read:
        return split(unit.sources, chunk[1], buffer)
    return read(threads.files, unit.sources, unit.rows, chunk, tensor.width, buffer)


def _combine(
    threads: Threads,
    tensor: TensorPlan,
    unit: UnitAtWork,
    words: Words,
    chunk: Chunk,
    before: np.ndarray | None,
    data: np.ndarray,
    is_first: bool,
) -> None:
    """Writes a unit's part of a chunk: the first unit writes all of it, the others overwrite their rows."""
    out = data.view(tensor.out.dtype.word)
    target = out if is_first else np.empty_like(out)
    _into(threads, tensor, unit, words, target, chunk[0], before)
    if not is_first:
        assert unit.rows is not None, "only rows make several units"
        here = rows_in(chunk, tensor.width)
        offset = chunk[0] - here.start * tensor.width
        mask = np.repeat(unit.rows[0][here] >= 0, tensor.width)[offset : offset + chunk[1]]
        out[mask] = target[mask]


def _into(
    threads: Threads,
    tensor: TensorPlan,
    unit: UnitAtWork,
    words: Words,
    target: np.ndarray,
    start: int,
    before: np.ndarray | None,
) -> None:
    """Writes a unit's result; raises if it is not finite, and says whose fault that is."""
    try:
        n_bad = unit.made.combine.into(words, target, start, before)
    except NotFiniteError:
        raise unit_not_finite(threads, tensor, unit) from None
    if n_bad and not are_finite(words):  # not noticed earlier by a method that measures nothing
        raise unit_not_finite(threads, tensor, unit)
    refuse_overflow(tensor, n_bad)


def copy_words(tensor: TensorPlan, words: Words, start: int, out: np.ndarray) -> None:
    """Copies a piece that begins at element `start`, converted if its type changes."""
    if isinstance(tensor.work, CopyIfEqual):
        refuse_difference(tensor, words, start)
    (source, *_), (first, *_) = tensor.sources.values(), words
    if source.words == tensor.out.dtype:
        out[:] = first.view(np.uint8)
    else:
        refuse_overflow(tensor, kernels.convert(first, out.view(tensor.out.dtype.word)))
