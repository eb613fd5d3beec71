"""Makes the rows of an embedding or head that are not merged: copied from one model, or filled.

A filled row is the mean of all other rows, is interpolated between the rows before and after its run, or
is zero; see `vocab_fill`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from fusion_slerp import kernels
from fusion_slerp.chunks import Chunk
from fusion_slerp.engine.buffers import Buffer
from fusion_slerp.engine.reader import as_words, gather, pieces, rows_in
from fusion_slerp.engine.units import UnitAtWork
from fusion_slerp.passes.blocks import blocks_of
from fusion_slerp.passes.exact_sums import ExactSums, sum_of_columns
from fusion_slerp.passes.weighted_sum import WeightedSum
from fusion_slerp.planning.plan import TensorPlan
from fusion_slerp.sources.open_files import OpenFiles
from fusion_slerp.sources.source import Source
from fusion_slerp.vocabulary.rows import NOBODY


@dataclass(frozen=True, slots=True)
class Share:
    """Rows of one source that are used in one way.

    Attributes:
        source: The source.
        rows: Its row for each of the merged model's rows; negative if it is not used in this way.
        unit: Index of the unit in which they are merged; None if they are copied.
        position: Index of the source in that unit.
    """

    source: Source
    rows: np.ndarray
    unit: int | None = None
    position: int = 0


def shares_of(tensor: TensorPlan, units: Sequence[UnitAtWork]) -> list[Share]:
    """Returns all rows that the models have: those of each unit, then those that are copied."""
    assert tensor.rows is not None, tensor.out.name
    merged = tensor.rows.merged
    of_units = [
        Share(source, rows, k, i)
        for k, unit in enumerate(units)
        for i, (source, rows) in enumerate(zip(unit.sources, unit.rows or [], strict=True))
    ]
    copied = [
        Share(source, np.where(merged, NOBODY, tensor.rows.of[label]))
        for label, source in tensor.sources.items()
    ]
    return of_units + copied


def sums_of_rows(
    shares: Sequence[Share], files: OpenFiles, chunk: Chunk, width: int, scratch: Buffer
) -> ExactSums:
    """Returns the sum of each share's rows in a chunk of whole rows, for the mean."""
    return ExactSums(np.array([_sum(share, files, chunk, width, scratch) for share in shares]))


def _sum(share: Share, files: OpenFiles, chunk: Chunk, width: int, scratch: Buffer) -> np.ndarray:
    rows = share.rows[rows_in(chunk, width)]
    given = rows[rows >= 0]
    if not given.size:
        return np.zeros(width)
    n = given.size * width
    words = as_words(scratch[: n * share.source.words.itemsize], share.source)
    gather(files, share.source, given, (0, n), width, words)
    return sum_of_columns(blocks_of([words], width))[0]


class RowFiller:
    """Makes one tensor's rows that are not merged; `fill` may be called from any thread.

    Args:
        tensor: The tensor; its plan has a row map.
        shares: The rows that the models have.
        units: Its units, decided.
        is_gradient: Whether a row that no model has is interpolated between its neighbours.
        sums: The sums of every share's rows, float64 of shape (shares, width); None if they are not needed.
        files: The models' files.
    """

    def __init__(
        self,
        tensor: TensorPlan,
        shares: Sequence[Share],
        units: Sequence[UnitAtWork],
        is_gradient: bool,
        sums: np.ndarray | None,
        files: OpenFiles,
    ) -> None:
        assert tensor.rows is not None
        self._tensor, self._files, self._is_gradient = tensor, files, is_gradient
        self._width = tensor.width
        self._weighted = [(share, _factor(share, units)) for share in shares]
        self._copied = [share for share in shares if share.unit is None]
        self._zero, self._filled = tensor.rows.zero, tensor.rows.filled
        self._given = np.flatnonzero(~self._filled)
        self._mean = np.zeros(self._width) if sums is None else self._mean_row(sums)

    def fill(self, chunk: Chunk, scratch: Buffer, out: np.ndarray) -> int:
        """Writes a chunk's copied and filled rows to `out`, words of the merged model's type.

        Returns:
            The number of converted elements that are infinite or NaN.
        """
        here = rows_in(chunk, self._width)
        n_bad = sum(self._copy(share, here, chunk, scratch, out) for share in self._copied)
        filled = here.start + np.flatnonzero(self._filled[here])
        for _, run in groupby(enumerate(filled.tolist()), lambda pair: pair[1] - pair[0]):
            n_bad += self._fill_run([row for _, row in run], chunk, out)
        return n_bad

    def _copy(self, share: Share, here: slice, chunk: Chunk, scratch: Buffer, out: np.ndarray) -> int:
        n_bad, source = 0, share.source
        for start, count, there in pieces(share.rows[here], self._width, chunk):
            raw = scratch[: count * source.words.itemsize]
            self._files.read(source, [(0, count, there)], raw)
            words, part = as_words(raw, source), out[start : start + count]
            if source.words == self._tensor.out.dtype:
                part[:] = words
            else:
                n_bad += kernels.convert(words, part)
        return n_bad

    def _fill_run(self, rows: list[int], chunk: Chunk, out: np.ndarray) -> int:
        """Fills neighbouring rows that no model has; reads the rows before and after them once."""
        first, end, n_bad = chunk[0], chunk[0] + chunk[1], 0
        ends = self._ends(rows[0]) if self._is_gradient and not self._zero[rows].all() else None
        for row in rows:
            begin = row * self._width
            inside = slice(max(first, begin) - begin, min(end, begin + self._width) - begin)
            part = out[begin + inside.start - first : begin + inside.stop - first]
            values = np.zeros(self._width) if self._zero[row] else self._mean
            if ends is not None and not self._zero[row]:
                values = self._between(row, *ends)
            n_bad += kernels.convert(np.ascontiguousarray(values[inside]), part)
        return n_bad

    def _ends(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows before and after a run; at an end of the matrix it wraps around."""
        given = self._given
        if not len(given):
            return np.zeros(self._width), np.zeros(self._width)
        after = int(np.searchsorted(given, row))
        return self._child_row(int(given[after - 1])), self._child_row(int(given[after % len(given)]))

    def _between(self, row: int, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """The row, interpolated evenly between those before and after its run."""
        given = self._given
        if not len(given):
            return before
        i = int(np.searchsorted(given, row))
        n_before = row - int(given[i - 1]) if i else row + 1
        n_after = int(given[i]) - row if i < len(given) else len(self._filled) - row
        share = n_before / (n_before + n_after)
        return (1 - share) * before + share * after

    def _child_row(self, row: int) -> np.ndarray:
        """A row that models have, before rounding."""
        total = np.zeros(self._width)
        for share, factor in self._weighted:
            if share.rows[row] >= 0:
                total += factor * self._values(share.source, int(share.rows[row]))
        return total

    def _values(self, source: Source, row: int) -> np.ndarray:
        raw = np.empty(self._width * source.words.itemsize, np.uint8)
        self._files.read(source, [(0, self._width, row * self._width)], raw)
        return kernels.values_of(as_words(raw, source))

    def _mean_row(self, sums: np.ndarray) -> np.ndarray:
        """The mean of all rows that models have, before rounding."""
        factors = np.array([factor for _, factor in self._weighted])
        return factors @ sums / max(len(self._given), 1)


def _factor(share: Share, units: Sequence[UnitAtWork]) -> float:
    if share.unit is None:
        return 1.0
    unit = units[share.unit]
    if isinstance(unit.made.combine, WeightedSum):
        return unit.made.combine.coefficients[share.position]
    return 1.0 if share.position == len(unit.owners) - 1 else 0.0  # of a method that selects: the base's rows
