"""A worker thread's tasks for one chunk of a tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fusion_slerp import kernels
from fusion_slerp.chunks import Chunk
from fusion_slerp.engine.buffers import Buffer
from fusion_slerp.engine.failures import are_finite, not_finite, refuse_difference, refuse_overflow
from fusion_slerp.engine.held_words import HeldWords
from fusion_slerp.engine.reader import read, rows_in, split
from fusion_slerp.engine.threads import Threads
from fusion_slerp.engine.units import UnitAtWork
from fusion_slerp.errors import FusionSlerpError
from fusion_slerp.interruption import check_signals
from fusion_slerp.kernels import Words
from fusion_slerp.passes.protocols import Counted, NotFiniteError
from fusion_slerp.planning.plan import BOX, CopyIfEqual, Merge, TensorPlan
from fusion_slerp.sources.parts import Block
from fusion_slerp.sources.source import Source

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


class Making(NamedTuple):
    """A tensor that is being made for one merged model.

    Attributes:
        tensor: The tensor.
        units: Its units, decided; none for a copy.
        filler: Makes the rows that are not merged, in a tensor with a row map.
    """

    tensor: TensorPlan
    units: Sequence[UnitAtWork]
    filler: RowFiller | None

    @property
    def is_block(self) -> bool:
        """Whether the units take turns in the stored order."""
        return isinstance(self.tensor.work, Merge) and self.tensor.work.granularity == BOX


def produce(
    threads: Threads,
    makings: Sequence[Making],
    sources: Mapping[str, Source],
    chunk: Chunk,
    kept: Buffer | None,
    held: int | None,
) -> list[Future[int]]:
    """Makes one chunk of a tensor, for every merged model, and passes it to a writer.

    Args:
        threads: For buffers and files.
        makings: The tensor in each merged model.
        sources: The sources of all of these, by label.
        chunk: The chunk.
        kept: The buffer that holds words of an earlier pass; it is returned to the pool.
        held: Which words these are; see `HeldWords`.

    Raises:
        OutputError: A value does not fit the output type.
        MismatchError: A tensor that must be equal in all models differs.
    """
    tensor = makings[0].tensor
    if len(makings) == 1 and tensor.is_verbatim:
        return [_move(threads, tensor, chunk)]
    buffer = kept
    try:
        buffer = threads.ins.take() if buffer is None else buffer
        words = HeldWords(threads.files, sources, chunk, tensor.width, buffer, held)
        return [_make(threads, making, words) for making in makings]
    except BaseException as error:
        for making in makings:
            for unit in making.units:
                unit.abort(_part_of_unit(chunk, making.units) if making.is_block else chunk, error)
        raise
    finally:
        if buffer is not None:
            threads.ins.give(buffer)


def _make(threads: Threads, making: Making, words: HeldWords) -> Future[int]:
    """Makes a chunk for one merged model."""
    tensor, units, chunk = making.tensor, making.units, words.chunk
    itemsize = tensor.out.dtype.itemsize
    with threads.result(tensor.out, chunk[0] * itemsize, chunk[1] * itemsize) as result:
        if making.is_block:
            _produce_block(threads, tensor, units, chunk, words.of(units[0].owners), result.data)
        else:
            for k, unit in enumerate(units):
                own = words.of_unit(k, unit)
                counted = unit.counted(own, chunk, threads.computing)
                with threads.computing:
                    _combine(threads, tensor, unit, own, chunk, counted, result.data, is_first=k == 0)
        if not units and tensor.rows is None:
            own = words.of([*tensor.sources])
            with threads.computing:
                copy_words(tensor, own, chunk[0], result.data)
        if making.filler is not None:
            out = result.data.view(tensor.out.dtype.word)
            refuse_overflow(tensor, making.filler.fill(chunk, words.scratch(), out))
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
    words: Words,
    data: np.ndarray,
) -> None:
    """Makes a chunk in which the units take turns, and whose elements are in the stored order."""
    block = tensor.sources[units[0].owners[0]]
    assert isinstance(block, Block), tensor.out.name
    out = data.view(tensor.out.dtype.word)
    turns = -1, len(units), block.run if len(units) > 1 else chunk[1]
    for i, unit in enumerate(units):
        with threads.computing:
            own = [np.ascontiguousarray(each.reshape(turns)[:, i]).reshape(-1) for each in words]
        part = _part_of_unit(chunk, units)
        counted = unit.counted(own, part, threads.computing)
        with threads.computing:
            target = np.empty(part[1], out.dtype)
            _into(threads, tensor, unit, own, target, part[0], counted)
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
                check_signals()
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
    counted: Counted | None,
    data: np.ndarray,
    is_first: bool,
) -> None:
    """Writes a unit's part of a chunk: the first unit writes all of it, the others overwrite their rows."""
    out = data.view(tensor.out.dtype.word)
    target = out if is_first else np.empty_like(out)
    _into(threads, tensor, unit, words, target, chunk[0], counted)
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
    counted: Counted | None,
) -> None:
    """Writes a unit's result; raises if it is not finite, and says whose fault that is."""
    try:
        n_bad = unit.made.combine.into(words, target, start, counted)
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
