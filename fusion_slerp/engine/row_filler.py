"""Makes the rows of a child's embedding or head that are not merged: copied from one parent, or filled.

A filled row is the mean of all other rows, lies evenly between the rows before and after its run, or
is zero; see `vocab_fill`.
"""

from __future__ import annotations

import numpy as np

from fusion_slerp import kernels
from fusion_slerp.chunks import CHUNK_ELEMENTS, Chunk
from fusion_slerp.engine.buffers import Buffer
from fusion_slerp.engine.reader import gather, pieces, rows_in
from fusion_slerp.methods.slerp import Coefficients
from fusion_slerp.planning.plan import TensorPlan
from fusion_slerp.settings.merge_settings import VocabFill
from fusion_slerp.sources.header import TensorEntry
from fusion_slerp.sources.open_files import InputFiles
from fusion_slerp.vocabulary.rows import NOBODY, ZERO, RowMap

SUMMED_ELEMENTS = CHUNK_ELEMENTS // 8
"""Elements that are summed at a time: as float64 they fill a quarter of a chunk's buffers at most."""


class RowFiller:
    """Makes one tensor's rows that are not merged; `fill` may be called from any thread.

    Args:
        tensor: The tensor; its plan has a row map.
        found: The coefficients of its merged rows; None if none is merged.
        vocab_fill: How rows that no parent gives are made.
        inputs: The parents' files.
        buffer: Memory for one chunk, used while this is made and free again after.
    """

    def __init__(
        self,
        tensor: TensorPlan,
        found: Coefficients | None,
        vocab_fill: VocabFill,
        inputs: InputFiles,
        buffer: Buffer,
    ) -> None:
        assert tensor.rows is not None
        self._rows: RowMap = tensor.rows
        self._tensor, self._inputs, self._vocab_fill = tensor, inputs, vocab_fill
        self._width = tensor.a.row_elements
        factors = (found.s0, found.s1) if found else (1.0, 1.0)
        merged, entries, rows = self._rows.merged, (tensor.a, tensor.b), (self._rows.a, self._rows.b)
        self._parents = [
            (entry, factor, np.where(merged, of_parent, NOBODY), np.where(merged, NOBODY, of_parent))
            for entry, factor, of_parent in zip(entries, factors, rows, strict=True)
        ]
        self._empty = (self._rows.a < 0) & (self._rows.b < 0)
        self._given = np.flatnonzero(~self._empty)
        needs_mean = vocab_fill in ("owner", "mean") and (self._empty & (self._rows.a != ZERO)).any()
        self._mean = self._mean_row(buffer) if needs_mean else np.zeros(self._width)

    def fill(self, chunk: Chunk, scratch: Buffer, out: np.ndarray) -> int:
        """Writes a chunk's copied and filled rows to `out`, words of the child's type.

        Returns:
            How many elements whose type changed are infinite or NaN.
        """
        n_bad, part_of_map = 0, rows_in(chunk, self._width)
        for source, _, _, lone in self._parents:
            for start, count, there in pieces(lone[part_of_map], self._width, chunk):
                words = self._inputs.read(source, there, count, scratch)
                part = out[start : start + count]
                if source.dtype == self._tensor.out.dtype:
                    part[:] = words
                else:
                    n_bad += kernels.convert(words, part)
        first, end = chunk[0], chunk[0] + chunk[1]
        for row in (part_of_map.start + np.flatnonzero(self._empty[part_of_map])).tolist():
            begin = row * self._width
            inside = slice(max(first, begin) - begin, min(end, begin + self._width) - begin)
            part = out[begin + inside.start - first : begin + inside.stop - first]
            n_bad += kernels.convert(np.ascontiguousarray(self._row(row)[inside]), part)
        return n_bad

    def _row(self, row: int) -> np.ndarray:
        """A row that no parent gives: float64 of the tensor's width."""
        if self._rows.a[row] == ZERO:
            return np.zeros(self._width)
        return self._between(row) if self._vocab_fill == "gradient" else self._mean

    def _between(self, row: int) -> np.ndarray:
        """Evenly between the rows before and after the run; at an end of the matrix, the one at the other."""
        given = self._given
        if not len(given):
            return np.zeros(self._width)
        after = int(np.searchsorted(given, row))
        before_row, after_row = int(given[after - 1]), int(given[after % len(given)])
        n_before = row - before_row if after else row + 1
        n_after = after_row - row if after < len(given) else len(self._rows) - row
        share = n_before / (n_before + n_after)
        return (1 - share) * self._child_row(before_row) + share * self._child_row(after_row)

    def _child_row(self, row: int) -> np.ndarray:
        """A row that parents give, before its rounding."""
        total = np.zeros(self._width)
        for source, factor, merged, lone in self._parents:
            for rows, weight in ((merged, factor), (lone, 1.0)):
                if rows[row] >= 0:
                    total += weight * self._values(source, int(rows[row]) * self._width, self._width)
        return total

    def _values(self, source: TensorEntry, start: int, count: int) -> np.ndarray:
        raw = np.empty(count * source.dtype.itemsize, np.uint8)
        values = np.empty(count)
        kernels.convert(self._inputs.read(source, start, count, raw), values)
        return values

    def _mean_row(self, buffer: Buffer) -> np.ndarray:
        """The mean of all rows that parents give, before their rounding."""
        total, n_rows = np.zeros(self._width), len(self._given)
        for source, factor, merged, lone in self._parents:
            for rows, weight in ((merged, factor), (lone, 1.0)):
                total += weight * self._sum(source, rows[rows >= 0], buffer)
        return total / max(n_rows, 1)

    def _sum(self, source: TensorEntry, rows: np.ndarray, buffer: Buffer) -> np.ndarray:
        """The sum of some rows of a parent."""
        total = np.zeros(self._width)
        block = max(1, SUMMED_ELEMENTS // self._width)
        for start in range(0, len(rows), block):
            some = rows[start : start + block]
            words = buffer[: len(some) * self._width * source.dtype.itemsize].view(source.dtype.word)
            gather(self._inputs, source, some, (0, words.size), words)
            values = np.empty(words.size)
            kernels.convert(words, values)
            total += values.reshape(len(some), self._width).sum(axis=0)
        return total
