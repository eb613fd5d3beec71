"""Parts of stored tensors, and tensors made of several: how another layout stores the matrices of experts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from fusion_slerp.dtypes import DType
from fusion_slerp.sources.header import TensorEntry
from fusion_slerp.sources.source import Extent, Piece


def part_of(
    entry: TensorEntry, name: str, first: int, shape: tuple[int, ...], strides: Sequence[int]
) -> TensorEntry:
    """Returns a part of a stored tensor as a tensor of its own.

    Args:
        entry: The tensor.
        name: The part's name in messages.
        first: Elements from the start of the tensor's data to the part's first.
        shape: The part's.
        strides: Elements from one index to the next, by dimension.
    """
    offset = entry.offset + first * entry.dtype.itemsize
    nbytes = prod(shape) * entry.dtype.itemsize
    own = None if tuple(strides) == contiguous(shape) else tuple(strides)
    return TensorEntry(name, entry.dtype, shape, entry.file, offset, nbytes, own)


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the strides of a tensor without holes, in elements."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * size)
    return tuple(reversed(strides)) if shape else ()


def transposed(entry: TensorEntry) -> TensorEntry:
    """Returns the same elements with the dimensions in the opposite order."""
    strides = entry.strides or contiguous(entry.shape)
    return part_of(entry, entry.name, 0, entry.shape[::-1], strides[::-1])


@dataclass(frozen=True, slots=True)
class Block:
    """One expert's part of a tensor in which its matrices are not contiguous: transposed, or alternating.

    Attributes:
        name: Its name in messages.
        shape: Its dimensions.
        boxes: The matrices in it as tensors of their own, rows first.
        run: It holds this many elements of each box in turn.
        is_transposed: Whether it holds the boxes' columns.
        stored: Its elements in their order, if they are all parts of one stored tensor; else None.
    """

    name: str
    shape: tuple[int, ...]
    boxes: tuple[TensorEntry, ...]
    run: int
    is_transposed: bool
    stored: TensorEntry | None = None

    @property
    def dtype(self) -> DType:
        """The boxes' type."""
        return self.boxes[0].dtype

    @property
    def words(self) -> DType:
        """The type that is delivered: the stored type."""
        return self.dtype

    @property
    def n_elements(self) -> int:
        """Number of elements."""
        return sum(box.n_elements for box in self.boxes)

    @property
    def nbytes(self) -> int:
        """Bytes of all boxes."""
        return sum(box.nbytes for box in self.boxes)

    @property
    def period(self) -> int:
        """After this many elements it returns to the first box."""
        return self.run * len(self.boxes)

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        """The stored tensors that it is made from."""
        return self.boxes if self.stored is None else (self.stored,)

    def extents(self, pieces: Sequence[Piece]) -> Sequence[Extent]:
        """The elements of each box that some pieces are made from, one piece after the other."""
        if self.stored is not None:
            return (Extent(self.stored, pieces),)
        return [Extent(self._turned(box), list(self._needed(i, pieces))) for i, box in enumerate(self.boxes)]

    def decode(self, raw: Sequence[np.ndarray], pieces: Sequence[Piece], out: np.ndarray) -> None:
        """Writes the pieces to `out`, uint8, from the bytes of each extent."""
        word = f"u{self.dtype.itemsize}"
        target, boxes = out.view(word), [each.view(word) for each in raw]
        if self.stored is not None:
            for start, count, _ in pieces:
                target[start : start + count] = boxes[0][start : start + count]
            return
        needed = [list(self._needed(i, pieces)) for i in range(len(boxes))]
        for k, (start, count, first) in enumerate(pieces):
            before = first % self.period
            n_periods = -(-(before + count) // self.period)
            whole = np.empty((n_periods, len(boxes), self.run), word)
            for i, words in enumerate(boxes):
                at, n, position = needed[i][k]
                skipped = position - first // self.period * self.run
                of_box = np.empty(n_periods * self.run, word)
                of_box[skipped : skipped + n] = words[at : at + n]
                whole[:, i] = of_box.reshape(n_periods, self.run)
            target[start : start + count] = whole.reshape(-1)[before : before + count]

    def _turned(self, box: TensorEntry) -> TensorEntry:
        return transposed(box) if self.is_transposed else box

    def _needed(self, i: int, pieces: Sequence[Piece]) -> Iterable[Piece]:
        """The elements of a box in each piece: always neighbours."""
        start = 0
        for _, count, first in pieces:
            begin, end = self._before(i, first), self._before(i, first + count)
            yield start, end - begin, begin
            start += end - begin

    def _before(self, i: int, position: int) -> int:
        """The number of elements of a box before a position."""
        periods, rest = divmod(position, self.period)
        return periods * self.run + min(max(rest - i * self.run, 0), self.run)
