"""Reads elements of a stored tensor, contiguous or not, into the caller's memory."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from math import prod

import numpy as np

from fusion_slerp.errors import CheckpointError, Problem
from fusion_slerp.sources.header import REDOWNLOAD, TensorEntry
from fusion_slerp.sources.positioned_io import read_at
from fusion_slerp.sources.source import Piece

WINDOW_NBYTES = 1 << 23
"""The most that is mapped at a time where elements are scattered.

Everything else is read by calls, because a disk that fails under a mapping kills the process. Gathering by
calls, however, took 14 times as long (a transposed bfloat16 matrix of 4096 by 32064, from the page cache).
"""

Box = tuple[tuple[int, ...], int, int]
"""Indices of the first dimensions, and a range of the next one; the dimensions after it are whole."""


MANY_PIECES = 32
"""From this number on, the loop is compiled: a vocabulary in another order has a piece for every row."""


def read_pieces(descriptor: int, entry: TensorEntry, pieces: Sequence[Piece], raw: np.ndarray) -> None:
    """Fills parts of a buffer with elements from several parts of the tensor.

    Args:
        descriptor: The entry's file, open.
        entry: The tensor.
        pieces: The elements, and the destination of each piece.
        raw: uint8, contiguous.

    Raises:
        CheckpointError: The file cannot be read or has become shorter.
    """
    itemsize = entry.dtype.itemsize
    if entry.strides is not None:
        for start, count, first in pieces:
            read_elements(descriptor, entry, first, raw[start * itemsize : (start + count) * itemsize])
        return
    done = _read_many(descriptor, entry, pieces, raw) if len(pieces) >= MANY_PIECES else 0
    try:
        for start, count, first in pieces[done:]:
            part = raw.data[start * itemsize : (start + count) * itemsize]
            read_at(descriptor, part, entry.offset + first * itemsize)
    except (OSError, EOFError) as error:
        raise _failed(entry, error).error() from error


def _read_many(descriptor: int, entry: TensorEntry, pieces: Sequence[Piece], raw: np.ndarray) -> int:
    """Reads rows scattered over a file; returns how many, from the first on, were read completely."""
    if not hasattr(os, "pread"):
        return 0
    from fusion_slerp.sources.piece_reads import read_many

    targets, counts, starts = np.array(pieces, np.int64).T * entry.dtype.itemsize
    return read_many(descriptor, targets.copy(), counts.copy(), starts + entry.offset, raw)


def read_elements(descriptor: int, entry: TensorEntry, start: int, raw: np.ndarray) -> None:
    """Fills a buffer with consecutive elements of the flattened tensor.

    Elements that are not contiguous are gathered through a mapped window of the file, of a fixed size
    however large the tensor is.

    Args:
        descriptor: The entry's file, open.
        entry: The tensor.
        start: Index of the first element.
        raw: uint8, as long as the requested elements.

    Raises:
        CheckpointError: The file cannot be read or has become shorter.
    """
    try:
        if entry.strides is None:
            read_at(descriptor, raw.data, entry.offset + start * entry.dtype.itemsize)
        else:
            _gather(descriptor, entry, start, raw.view(f"u{entry.dtype.itemsize}"))
    except (OSError, EOFError) as error:
        raise _failed(entry, error).error() from error


def _failed(entry: TensorEntry, error: Exception) -> Problem:
    fields = (("file", entry.file), ("tensor", entry.name), ("found", error))
    return Problem(CheckpointError, "reading failed", fields, REDOWNLOAD)


def _gather(descriptor: int, entry: TensorEntry, start: int, out: np.ndarray) -> None:
    strides = entry.strides or ()
    for leading, first, last in _boxes(entry.shape, start, start + out.size):
        shape = (last - first, *entry.shape[len(leading) + 1 :])
        position = sum(i * step for i, step in zip((*leading, first), strides, strict=False))
        box, out = out[: prod(shape)].reshape(shape), out[prod(shape) :]
        _read_box(descriptor, entry.offset + position * out.itemsize, strides[len(leading) :], box)


def _boxes(shape: tuple[int, ...], start: int, stop: int, leading: tuple[int, ...] = ()) -> Iterator[Box]:
    """A range of the flattened tensor in order: the end of a row, whole rows, the start of a row."""
    row = prod(shape[1:])
    first, last = -(-start // row), stop // row
    if first > last:
        yield from _boxes(shape[1:], start - last * row, stop - last * row, (*leading, last))
        return
    if start < first * row:
        yield from _boxes(shape[1:], start - (first - 1) * row, row, (*leading, first - 1))
    if first < last:
        yield leading, first, last
    if last * row < stop:
        yield from _boxes(shape[1:], 0, stop - last * row, (*leading, last))


def _read_box(descriptor: int, offset: int, strides: tuple[int, ...], out: np.ndarray) -> None:
    """Maps the bytes from the first to the last element, or halves the box until they fit."""
    reach = [(n - 1) * step for n, step in zip(out.shape, strides, strict=True)]
    n_stored = 1 + sum(reach)
    if n_stored * out.itemsize <= WINDOW_NBYTES:
        stored = _mapped(descriptor, offset, n_stored, out.dtype)
        in_bytes = [step * out.itemsize for step in strides]
        out[...] = np.lib.stride_tricks.as_strided(stored, out.shape, in_bytes, writeable=False)
        return
    axis = reach.index(max(reach))
    half = out.shape[axis] // 2
    low, high = np.split(out, [half], axis)
    _read_box(descriptor, offset, strides, low)
    _read_box(descriptor, offset + half * strides[axis] * out.itemsize, strides, high)


def _mapped(descriptor: int, offset: int, count: int, dtype: np.dtype) -> np.ndarray:
    start = offset % mmap.ALLOCATIONGRANULARITY
    try:
        window = mmap.mmap(
            descriptor, start + count * dtype.itemsize, access=mmap.ACCESS_READ, offset=offset - start
        )
    except ValueError as error:  # checked here: an access after the file's end would kill the process
        raise EOFError(f"the file ends before byte {offset + count * dtype.itemsize}") from error
    return np.frombuffer(window, dtype, count, start)
