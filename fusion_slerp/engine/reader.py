"""Brings a chunk of both parents into a buffer, side by side, each element beside its counterpart.

Where the vocabularies differ, an embedding's rows are gathered: in the order of the child, merged rows
from wherever a parent has them, and zeros in place of all others. Zeros add nothing to a sum, so a chunk
measures its merged rows alone, and it does so in the same order whatever the parents' order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fusion_slerp.chunks import Chunk, aligned
from fusion_slerp.engine.buffers import Buffer
from fusion_slerp.planning.plan import TensorPlan
from fusion_slerp.sources.elements import Piece
from fusion_slerp.sources.header import TensorEntry
from fusion_slerp.sources.open_files import InputFiles
from fusion_slerp.vocabulary.rows import NOBODY, runs

Words = Sequence[np.ndarray]
"""The words of one piece of a tensor in each source: parent a's, parent b's, or both."""


class PairReader:
    """Reads what a plan's tensors are made from; every method may be called from any thread."""

    def __init__(self, inputs: InputFiles) -> None:
        self._inputs = inputs

    def read(self, tensor: TensorPlan, chunk: Chunk, buffer: Buffer) -> Words:
        """The words of a chunk of the tensor's sources, in a caller's buffer; see `split`."""
        words = split(tensor, chunk[1], buffer)
        if tensor.rows is None:
            for source, view in zip(tensor.sources, words, strict=True):
                self._inputs.read(source, *chunk, view.view(np.uint8))
            return words
        part = tensor.rows[rows_in(chunk, tensor.a.row_elements)]
        for source, rows, view in zip(tensor.sources, (part.a, part.b), words, strict=True):
            gather(self._inputs, source, np.where(part.merged, rows, NOBODY), chunk, view)
        return words

    def read_batch(self, tensors: Sequence[TensorPlan], buffer: Buffer) -> list[list[np.ndarray]]:
        """The words of whole small tensors, each parent's read together."""
        sources = [tensor.sources for tensor in tensors]
        first = [entries[0] for entries in sources]
        second = [entries[1] for entries in sources if len(entries) > 1]
        words = iter(self._inputs.read_together([*first, *second], buffer))
        found: list[list[np.ndarray]] = [[next(words)] for _ in first]
        for piece, entries in zip(found, sources, strict=True):
            piece.extend(next(words) for _ in entries[1:])
        return found


def gather(
    inputs: InputFiles, source: TensorEntry, rows: np.ndarray, chunk: Chunk, words: np.ndarray
) -> None:
    """Fills a chunk's words from rows of a parent; zeros where it gives none. Arguments as for `pieces`."""
    found = pieces(rows, source.row_elements, chunk)
    if sum(count for _, count, _ in found) < chunk[1]:
        words[:] = 0
    inputs.read_pieces(source, found, words.view(np.uint8))


def split(tensor: TensorPlan, count: int, buffer: Buffer) -> Words:
    """The parts of a buffer that hold a chunk of each source."""
    words, used = [], 0
    for source in tensor.sources:
        nbytes = count * source.dtype.itemsize
        raw = buffer[used : used + nbytes]
        words.append(raw.view(source.dtype.word) if source.dtype.is_mergeable else raw)
        used += aligned(nbytes)
    return words


def pieces(rows: np.ndarray, width: int, chunk: Chunk) -> list[Piece]:
    """Returns the parts of a chunk that lie side by side in the parent.

    Args:
        rows: The parent's row for each of the child's rows that the chunk touches; negative where it
            gives none.
        width: Elements of a row.
        chunk: First element and number of elements, in the child.
    """
    start, end = chunk[0], chunk[0] + chunk[1]
    at, count, row = runs(rows)
    begin = (start // width + at) * width
    here = np.maximum(begin, start)
    n = np.minimum(begin + count * width, end) - here
    columns = (here - start, n, row * width + here - begin)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def rows_in(chunk: Chunk, width: int) -> slice:
    """The child's rows that a chunk touches, parts of rows included."""
    return slice(chunk[0] // width, -(-(chunk[0] + chunk[1]) // width))
