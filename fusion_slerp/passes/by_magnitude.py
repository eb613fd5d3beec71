"""Selections of each model's largest differences; of equal ones at a cut, those with the lowest indexes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fusion_slerp.kernels import Words, selecting
from fusion_slerp.kernels.selecting import Flagged
from fusion_slerp.passes.protocols import Counted
from fusion_slerp.passes.ranks import NOTHING, Cut

SHORT = 1 << 15
"""Elements among which one is searched for."""

Band = tuple[Cut, Cut]
"""A model's elements from the first cut, which are left out, to the second, which are taken: the k largest
without the j largest.
"""


@dataclass(frozen=True, slots=True)
class ByMagnitude:
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

    def count_in(self, words: Words) -> Counted | None:
        """Counts, for both cuts of each model, the elements with the key of the cut, where it separates equal
        magnitudes; None if no cut does.
        """
        cuts = self._between_equals
        if not cuts:
            return None
        keys = [
            [band[j].key if (i, j) in cuts else selecting.KEY_END for i, band in enumerate(self.bands)]
            for j in ((1, 0) if any(j == 0 for _, j in cuts) else (1,))
        ]
        limits = [
            (end.first_key, out.key if out.is_between_equals else out.first_key) for out, end in self.bands
        ]
        flagged = selecting.flagged_by_key(words, limits, keys)
        return Counted(flagged.counts, flagged, np.zeros_like(flagged.counts))

    def masks(self, words: Words, start: int, counted: Counted | None) -> np.ndarray:
        """Returns the masks of one chunk."""
        if counted is None:
            assert not self._between_equals, "equal magnitudes are counted"
            limits = [(end.first_key, out.first_key) for out, end in self.bands]
            return selecting.masks_by_key(words, limits)
        flagged: Flagged = counted.found
        borders = self._borders(counted)
        for first, end in pairwise(sorted({0, flagged.masks.size, *borders.values()})):
            part = slice(first, end)
            for flags, bits in zip(flagged.equal, self._added(first, borders), strict=False):
                if bits:
                    selecting.add_flagged(flagged.masks[part], flags[part], bits)
        return flagged.masks

    @property
    def _between_equals(self) -> dict[tuple[int, int], Cut]:
        """The cuts that separate equal magnitudes, by model and position in its band."""
        return {
            (i, j): cut
            for i, band in enumerate(self.bands)
            for j, cut in enumerate(band)
            if cut.is_between_equals
        }

    def _borders(self, counted: Counted) -> dict[tuple[int, int], int]:
        """The index in the chunk, by model and cut, from which on elements with its key are not among the
        largest.
        """
        borders, flagged = {}, counted.found
        for (i, j), cut in self._between_equals.items():
            left = cut.quota - int(counted.before[1 - j, i])
            if 0 < left < counted.counts[1 - j, i]:
                borders[i, j] = _index_after(flagged.equal[1 - j], 1 << i, left)
            else:
                borders[i, j] = flagged.masks.size if left > 0 else 0
        return borders

    def _added(self, index: int, borders: Mapping[tuple[int, int], int]) -> tuple[int, int]:
        """The models whose elements with the second cut's key are taken at an index, and the first's."""
        of_second = of_first = 0
        for i, (out, end) in enumerate(self.bands):
            is_within = index < borders.get((i, 1), 0)
            is_beyond = (i, 0) in borders and index >= borders[i, 0]
            is_one_key = (i, 0) in borders and (i, 1) in borders and out.key == end.key
            of_second |= (is_within and (is_beyond or not is_one_key)) << i
            of_first |= (is_beyond and not is_one_key) << i
        return of_second, of_first


def _index_after(flags: np.ndarray, bit: int, n: int) -> int:
    """The index after the n-th element in whose flags a bit is set."""
    for start in range(0, flags.size, SHORT):
        is_set = flags[start : start + SHORT] & np.uint16(bit)
        n_here = int(np.count_nonzero(is_set))
        if n <= n_here:
            return start + int(np.flatnonzero(is_set)[n - 1]) + 1
        n -= n_here
    raise AssertionError("fewer are set")


def above(threshold: float, n: int) -> ByMagnitude:
    """Returns the selection of each of n models' differences whose magnitude is above a threshold."""
    return ByMagnitude(((NOTHING, Cut(selecting.key_above(threshold) - 1, 0, 0)),) * n)
