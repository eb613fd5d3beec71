"""Which models take part in each element, as masks: bit i is set where model i does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import copysign, frexp, ldexp
from typing import ClassVar, Protocol

import numpy as np

from fusion_slerp.kernels import Words, selecting
from fusion_slerp.passes.exact_sums import ExactSums
from fusion_slerp.passes.protocols import NotFiniteError
from fusion_slerp.passes.ranks import NOTHING, Cut

SHORT = 1 << 16
"""Elements that are searched one by one."""


class Selection(Protocol):
    """Chooses models element by element."""

    def count(self, words: Words) -> np.ndarray | None:
        """As `CountingCombine.count`: what masks of later chunks depend on."""
        ...

    def masks(self, words: Words, start: int, before: np.ndarray | None) -> np.ndarray:
        """Returns the masks of one chunk: fresh uint16; the arguments are those of `Combine.into`."""
        ...


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

    def count(self, words: Words) -> np.ndarray | None:
        """Counts, for both cuts of each model, the elements with the key of the cut, where it separates equal
        magnitudes; None if no cut does.
        """
        cuts = self._between_equals
        if not cuts:
            return None
        counts = np.zeros((2, len(self.bands)), np.int64)
        for j in {j for _, j in cuts}:
            keys = [band[j].key if (i, j) in cuts else selecting.KEY_END for i, band in enumerate(self.bands)]
            counts[j] = selecting.count_equal(words, keys)
        return counts

    def masks(self, words: Words, start: int, before: np.ndarray | None) -> np.ndarray:
        """Returns the masks of one chunk."""
        masks = np.empty(words[0].size, np.uint16)
        borders = self._borders(words, before)
        for first, end in pairwise(sorted({0, masks.size, *borders.values()})):
            limits = [
                (self._first_key(i, 1, first, borders), self._first_key(i, 0, first, borders))
                for i in range(len(self.bands))
            ]
            selecting.masks_by_key([each[first:end] for each in words], limits, masks[first:end])
        return masks

    @property
    def _between_equals(self) -> dict[tuple[int, int], Cut]:
        """The cuts that separate equal magnitudes, by model and position in its band."""
        return {
            (i, j): cut
            for i, band in enumerate(self.bands)
            for j, cut in enumerate(band)
            if cut.is_between_equals
        }

    def _borders(self, words: Words, before: np.ndarray | None) -> dict[tuple[int, int], int]:
        """The index in the chunk, by model and cut, from which on elements with its key are not among the
        largest.
        """
        cuts = self._between_equals
        quotas = {(i, j): cut.quota - int(before[j, i]) for (i, j), cut in cuts.items() if before is not None}
        assert len(quotas) == len(cuts), "equal magnitudes are counted"
        here = self.count(words) if any(quota > 0 for quota in quotas.values()) else None
        if here is None:
            return dict.fromkeys(cuts, 0)
        return {
            (i, j): _index_after([words[i], words[-1]], cuts[i, j].key, quota, int(here[j, i]))
            for (i, j), quota in quotas.items()
        }

    def _first_key(self, i: int, j: int, index: int, borders: Mapping[tuple[int, int], int]) -> int:
        """The smallest key that belongs to the largest at an index, for a cut of a model."""
        cut = self.bands[i][j]
        return cut.key + (index >= borders[i, j]) if (i, j) in borders else cut.first_key


def above(threshold: float, n: int) -> ByMagnitude:
    """Returns the selection of each of n models' differences whose magnitude is above a threshold."""
    return ByMagnitude(((NOTHING, Cut(selecting.key_above(threshold) - 1, 0, 0)),) * n)


def _index_after(words: Words, key: int, n: int, n_here: int) -> int:
    """The index after the n-th element with a key, which the chunk has n_here times; its size if n is more.

    It halves the part that contains this element, counting in the lower half, until the part is short.
    """
    if n <= 0 or n >= n_here:
        return 0 if n <= 0 else words[0].size
    first, end = 0, words[0].size
    while end - first > SHORT:
        middle = (first + end) // 2
        n_lower = int(selecting.count_equal([each[first:middle] for each in words], [key])[0])
        first, end, n = (first, middle, n) if n <= n_lower else (middle, end, n - n_lower)
    is_equal = selecting.masks_by_key([each[first:end] for each in words], [(key, key + 1)])
    return first + int(np.flatnonzero(is_equal)[n - 1]) + 1


@dataclass(frozen=True, slots=True)
class BySpread:
    """Takes all models where they differ most, else none.

    Attributes:
        first_key: The smallest key of a spread that is taken; 0 takes everything.
    """

    first_key: int

    def count(self, words: Words) -> None:
        """Returns None: elements of equal spread are all taken."""

    def masks(self, words: Words, start: int, before: np.ndarray | None) -> np.ndarray:
        """Returns the masks of one chunk."""
        if self.first_key:
            return selecting.masks_by_spread(words, self.first_key)
        return np.full(words[0].size, (1 << len(words) - 1) - 1, np.uint16)


@dataclass(frozen=True, slots=True)
class SelectedMagnitudes:
    """Measures each model's sum of magnitudes of differences, and that of its selected ones, in one pass.

    Attributes:
        selection: It must not count.
    """

    selection: Selection
    turn: ClassVar[int] = 5

    def part(self, words: Words, start: int = 0) -> ExactSums:
        """Returns the sums of one chunk."""
        return ExactSums(selecting.sums_of_magnitudes(words, self.selection.masks(words, start, None)))

    def value(self, total: ExactSums) -> list[tuple[float, float]]:
        """Returns for each model the sum of all magnitudes, and of the selected ones.

        Raises:
            NotFiniteError: An element is infinite or NaN, or a difference is beyond float32.
        """
        sums = _finite(total)
        return list(zip(sums[::2], sums[1::2], strict=True))


@dataclass(frozen=True, slots=True)
class SelectedSquares:
    """Measures each model's sum of squares of selected differences, in one pass.

    Attributes:
        selection: It must not count.
    """

    selection: Selection
    turn: ClassVar[int] = 6

    def part(self, words: Words, start: int = 0) -> ExactSums:
        """Returns the sums of one chunk."""
        return ExactSums(selecting.sums_of_squares(words, self.selection.masks(words, start, None)))

    def value(self, total: ExactSums) -> list[float]:
        """Returns the sums.

        Raises:
            NotFiniteError: An element is infinite or NaN, or a square is beyond float64.
        """
        return _finite(total)


@dataclass(frozen=True, slots=True)
class SharedCounts:
    """Counts for each model the elements that are selected of it alone, and of it and others, in one pass.

    Attributes:
        selection: It must not count.
    """

    selection: Selection
    turn: ClassVar[int] = 7

    def part(self, words: Words, start: int = 0) -> ExactCounts:
        """Returns the counts of one chunk."""
        return ExactCounts(selecting.count_sets(words, self.selection.masks(words, start, None)))

    def value(self, total: ExactCounts) -> list[tuple[int, int]]:
        """Returns for each model how many it alone has, and how many it shares."""
        return [(alone, shared) for alone, shared in total.counts.tolist()]


@dataclass(frozen=True, slots=True)
class ExactCounts:
    """Counts so far: int64 of any shape."""

    counts: np.ndarray

    def join(self, other: ExactCounts) -> ExactCounts:
        """Adds the counts of another."""
        return ExactCounts(self.counts + other.counts)


def _finite(total: ExactSums) -> list[float]:
    sums = total.totals()
    if not np.isfinite(sums).all():
        raise NotFiniteError
    return sums.tolist()


class SelectedSum:
    """A sum over the models that are selected for each element, rounded once.

    Args:
        selection: Chooses them.
        table: A row of coefficients for each set of models: those of the models, then the base's.
        votes: Each model's weight in the election of a sign: only models whose weighted difference has the
            sign of the selected ones' sum remain. None for no election.
    """

    __slots__ = ("selection", "table", "votes")

    def __init__(
        self, selection: Selection, table: Sequence[Sequence[float]], votes: Sequence[float] | None = None
    ) -> None:
        self.selection = selection
        self.table = np.array(table, np.float64)
        self.votes = None if votes is None else _scaled(votes)

    def count(self, words: Words) -> np.ndarray | None:
        """Counts as its selection does."""
        return self.selection.count(words)

    def into(self, words: Words, out: np.ndarray, start: int = 0, before: np.ndarray | None = None) -> int:
        """Writes one chunk; returns how many elements are infinite or NaN."""
        masks = self.selection.masks(words, start, before)
        return selecting.sum_by_mask(words, masks, self.table, out, self.votes)


def _scaled(votes: Sequence[float]) -> list[float]:
    """The votes, divided by a power of two so that no product overflows; equal ones become 1 or -1."""
    largest = max(map(abs, votes), default=0.0)
    if all(abs(vote) == largest for vote in votes):
        return [copysign(1.0, vote) for vote in votes]
    exponent = frexp(largest)[1]
    return [ldexp(vote, -exponent) for vote in votes]
