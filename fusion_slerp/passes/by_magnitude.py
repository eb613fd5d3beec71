"""Selections of each model's largest differences; of equal ones at a cut, those with the lowest indexes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fusion_slerp.kernels import Words, selected_sums, selecting
from fusion_slerp.kernels.selected_sums import SetSums
from fusion_slerp.passes.protocols import Counted, Counter
from fusion_slerp.passes.ranks import NOTHING, Cut
from fusion_slerp.passes.selections import Selection

Band = tuple[Cut, Cut]
"""A model's elements from the first cut, which are left out, to the second, which are taken: the k largest
without the j largest.
"""


@dataclass(frozen=True, slots=True)
class ByMagnitude(Selection):
    """Takes each model's largest differences, except the very largest.

    Attributes:
        bands: For each model. Of equal magnitudes at a cut, those with the lower index count as larger.
    """

    bands: tuple[Band, ...]

    @property
    def between(self) -> ByMagnitude:
        """The selection, except for the elements whose magnitudes are those of the cuts: of these it has all
        that have the magnitude of the first cut, and none with that of the second.
        """
        return ByMagnitude(tuple((out._replace(quota=0), end._replace(quota=0)) for out, end in self.bands))

    @property
    def magnitudes_at_cuts(self) -> tuple[float, ...]:
        """For each model, the sum of the selected magnitudes minus that of `between`."""
        return tuple(end.magnitude_of_quota - out.magnitude_of_quota for out, end in self.bands)

    def counter(self) -> Counter | None:
        """Returns what counts, for both cuts of each model, the elements with the key of the cut, where it
        separates equal magnitudes; None if no cut does.
        """
        return self._count if self._between_equals else None

    def _count(self, words: Words, before: np.ndarray | None) -> np.ndarray:
        """Returns counts of shape (2, models); zero for a cut that is known to be in an earlier chunk."""
        n, cuts = len(self.bands), self._between_equals
        before = np.zeros((2, n), np.int64) if before is None else before
        counts = np.zeros_like(before)
        open_cuts = {(i, j): cut for (i, j), cut in cuts.items() if before[j, i] < cut.quota}
        positions = sorted({j for _, j in open_cuts})
        if positions:
            keys = [
                [open_cuts[i, j].key if (i, j) in open_cuts else selecting.KEY_END for i in range(n)]
                for j in positions
            ]
            counts[positions] = selecting.count_keys(words, keys)
        return counts

    def masks(self, words: Words, start: int, counted: Counted | None = None) -> np.ndarray:
        """Returns the masks of one chunk."""
        return selecting.masks_by_key(words, self._parts(words, counted))

    def sum_into(
        self, words: Words, start: int, counted: Counted | None, table: SetSums, out: np.ndarray
    ) -> int:
        """Writes the sums of one chunk; returns how many are infinite or NaN."""
        return selected_sums.sum_by_key(words, self._parts(words, counted), table, out)

    def _parts(self, words: Words, counted: Counted | None) -> list[selecting.Part]:
        """Returns the parts of a chunk, and the limits of the keys that are taken in each."""
        assert counted is not None or not self._between_equals, "equal magnitudes are counted"
        borders = {} if counted is None else self._borders(words, counted)
        ends = pairwise(sorted({0, words[0].size, *borders.values()}))
        return [(slice(first, end), self._limits(first, borders)) for first, end in ends]

    @property
    def _between_equals(self) -> dict[tuple[int, int], Cut]:
        """The cuts that separate equal magnitudes, by model and position in its band."""
        return {
            (i, j): cut
            for i, band in enumerate(self.bands)
            for j, cut in enumerate(band)
            if cut.is_between_equals
        }

    def _borders(self, words: Words, counted: Counted) -> dict[tuple[int, int], int]:
        """The index in the chunk, by model and cut, from which on elements with its key are not among the
        largest.
        """
        borders = {}
        for (i, j), cut in self._between_equals.items():
            left = cut.quota - int(counted.before[j, i])
            if 0 < left < counted.counts[j, i]:
                borders[i, j] = selecting.index_after((words[i], words[-1]), cut.key, left)
            else:
                borders[i, j] = words[0].size if left > 0 else 0
        return borders

    def _limits(self, index: int, borders: Mapping[tuple[int, int], int]) -> list[tuple[int, int]]:
        """The keys that are taken of each model, from an index to the next border."""

        def first_key(i: int, j: int, cut: Cut) -> int:
            return cut.key if index < borders.get((i, j), 0) else cut.first_key

        return [(first_key(i, 1, end), first_key(i, 0, out)) for i, (out, end) in enumerate(self.bands)]


def above(threshold: float, n: int) -> ByMagnitude:
    """Returns the selection of each of n models' differences whose magnitude is above a threshold."""
    return ByMagnitude(((NOTHING, Cut(selecting.key_above(threshold) - 1, 0, 0)),) * n)
