"""Which models take part in each element, as masks: bit i is set where model i does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import copysign, frexp, ldexp
from typing import ClassVar

import numpy as np

from fusion_slerp.kernels import Words, selected_sums, selecting
from fusion_slerp.kernels.drawing import packed
from fusion_slerp.kernels.selected_sums import SetSums
from fusion_slerp.passes.exact_sums import ExactSums
from fusion_slerp.passes.protocols import Counted, Counter, NotFiniteError


class Selection(ABC):
    """Chooses models element by element."""

    __slots__ = ()

    def counter(self) -> Counter | None:
        """As `CountingCombine.counter`: counts what the masks of later chunks depend on."""
        return None

    @abstractmethod
    def masks(self, words: Words, start: int, counted: Counted | None = None) -> np.ndarray:
        """Returns the masks of one chunk: fresh uint16; the arguments are those of `Combine.into`."""

    def sums_of_magnitudes(self, words: Words, start: int) -> np.ndarray:
        """Returns `selecting.sums_of_magnitudes` of one chunk; for a selection that does not count."""
        return selecting.sums_of_magnitudes(words, self.masks(words, start))

    def packed_and_sums(self, words: Words, start: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the masks of one chunk, packed, and `sums_of_magnitudes`; likewise."""
        masks = self.masks(words, start)
        return packed(masks, len(words) - 1), selecting.sums_of_magnitudes(words, masks)

    def sum_into(
        self, words: Words, start: int, counted: Counted | None, table: SetSums, out: np.ndarray
    ) -> int:
        """Writes the sums of one chunk; returns how many are infinite or NaN."""
        return selected_sums.sum_by_mask(words, self.masks(words, start, counted), table, out)


@dataclass(frozen=True, slots=True)
class BySpread(Selection):
    """Takes all models where they differ most, else none.

    Attributes:
        first_key: The smallest key of a spread that is taken; 0 takes everything.
    """

    first_key: int

    def masks(self, words: Words, start: int, counted: Counted | None = None) -> np.ndarray:
        """Returns the masks of one chunk; elements of equal spread are all taken."""
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
        return ExactSums(self.selection.sums_of_magnitudes(words, start))

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
        return ExactSums(selecting.sums_of_squares(words, self.selection.masks(words, start)))

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
        return ExactCounts(selecting.count_sets(words, self.selection.masks(words, start)))

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

    __slots__ = ("selection", "table")

    def __init__(
        self, selection: Selection, table: Sequence[Sequence[float]], votes: Sequence[float] | None = None
    ) -> None:
        self.selection = selection
        self.table = SetSums(np.array(table, np.float64), None if votes is None else _scaled(votes))

    def counter(self) -> Counter | None:
        """Returns that of its selection."""
        return self.selection.counter()

    def into(self, words: Words, out: np.ndarray, start: int = 0, counted: Counted | None = None) -> int:
        """Writes one chunk; returns how many elements are infinite or NaN."""
        return self.selection.sum_into(words, start, counted, self.table, out)


def _scaled(votes: Sequence[float]) -> list[float]:
    """The votes, divided by a power of two so that no product overflows; equal ones become 1 or -1."""
    largest = max(map(abs, votes), default=0.0)
    if all(abs(vote) == largest for vote in votes):
        return [copysign(1.0, vote) for vote in votes]
    exponent = frexp(largest)[1] - 1  # the largest is in [1, 2): 1 if it is a power of two
    return [ldexp(vote, -exponent) for vote in votes]
