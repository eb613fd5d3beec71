"""Exact ranks of magnitudes, by counting: no sort, no mask, and memory that does not grow.

The k-th largest key (see `kernels.keys`) is found in two passes at most. The first counts all keys in bins,
which names the bin of rank k. The search ends if the keys of this bin are equal, as in every other bin, or if
rank k is its last. Else a second pass counts the keys in the bin one by one. Counts are integers, so neither
the order of chunks nor threads or files change the result.

Keys are float32: magnitudes that are equal as float32 are equal, and those below its smallest number, 1e-45,
are zero. Only float64 models have smaller differences.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from fusion_slerp.kernels import Words, selecting
from fusion_slerp.kernels.keys import LOWER_BITS
from fusion_slerp.kernels.selecting import Histogram
from fusion_slerp.passes.protocols import Measure

SPREAD = -1
"""In place of a model's index: the spread of all models."""

Bin = tuple[int, int]
"""A model's index, and the upper bits of its keys."""


class Cut(NamedTuple):
    """Where the k largest magnitudes end.

    Attributes:
        key: The largest magnitudes have larger keys; `KEY_END` if k is 0.
        quota: How many of the elements with this key are also among them: those with the lowest indexes.
        n_equal: How many elements have this key; not known if the quota is zero.
    """

    key: int
    quota: int
    n_equal: int

    @property
    def is_between_equals(self) -> bool:
        """Whether it separates elements of equal magnitude; among those of zero, the choice has no effect."""
        return self.key > 0 and 0 < self.quota < self.n_equal

    @property
    def first_key(self) -> int:
        """The smallest key of which all elements are among the k largest."""
        return self.key if self.quota and not self.is_between_equals else self.key + 1

    @property
    def magnitude_of_quota(self) -> float:
        """The sum of the magnitudes of the elements with this key that are among the k largest."""
        return self.quota * float(np.uint32(self.key).view(np.float32)) if self.quota else 0.0


EVERYTHING = Cut(0, 1, 1)
NOTHING = Cut(selecting.KEY_END, 0, 0)


SMALL = 1 << 16
"""Elements of a unit up to which its keys are sorted, which is faster than going through all bins."""


@dataclass(frozen=True, slots=True)
class Histograms:
    """Counts of keys so far, by model."""

    of: Mapping[int, Histogram]

    def join(self, other: Histograms) -> Histograms:
        """Adds the counts of another."""
        return Histograms({i: histogram.join(other.of[i]) for i, histogram in self.of.items()})


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of keys so far in the second pass: int64, by bin."""

    of: Mapping[Any, np.ndarray]

    def join(self, other: Counts) -> Counts:
        """Adds the counts of another."""
        for key, counts in self.of.items():
            counts += other.of[key]
        return self


@dataclass(frozen=True, slots=True)
class UpperBits:
    """Counts the keys of some models in the bins of the first stage.

    Attributes:
        models: Their indexes among the sources, the last of which is the base; or `SPREAD`.
    """

    models: tuple[int, ...]
    turn: ClassVar[int] = 3

    def part(self, words: Words, start: int = 0) -> Histograms:
        """Returns the counts of one chunk."""
        return Histograms({i: selecting.count_upper(_counted(words, i)) for i in self.models})

    def value(self, total: Histograms) -> Mapping[int, np.ndarray]:
        """Returns the counts of all bins, by model."""
        return {i: histogram.of_all_bins() for i, histogram in total.of.items()}


@dataclass(frozen=True, slots=True)
class LowerBits:
    """Counts the keys in some bins by their lower bits.

    Attributes:
        bins: The bins.
    """

    bins: tuple[Bin, ...]
    turn: ClassVar[int] = 4

    def part(self, words: Words, start: int = 0) -> Counts:
        """Returns the counts of one chunk."""
        return Counts(
            {(i, upper): selecting.count_lower(_counted(words, i), upper) for i, upper in self.bins}
        )

    def value(self, total: Counts) -> Mapping[Bin, np.ndarray]:
        """Returns the counts by bin."""
        return total.of


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys so far, except zeros, by model: uint32."""

    of: Mapping[int, np.ndarray]

    def join(self, other: Keys) -> Keys:
        """Adds the keys of another."""
        return Keys({i: np.concatenate([keys, other.of[i]]) for i, keys in self.of.items()})


@dataclass(frozen=True, slots=True)
class SortedKeys:
    """Sorts the keys of some models, of a small unit.

    Attributes:
        models: Their indexes among the sources, the last of which is the base.
    """

    models: tuple[int, ...]
    turn: ClassVar[int] = 8

    def part(self, words: Words, start: int = 0) -> Keys:
        """Returns the keys of one chunk; in a chunk of rows, those of other units are zero."""
        keys = {i: selecting.keys_of(words[i], words[-1]) for i in self.models}
        return Keys({i: of_model[of_model > 0] for i, of_model in keys.items()})

    def value(self, total: Keys) -> Mapping[int, np.ndarray]:
        """Returns the keys by model, in ascending order."""
        return {i: np.sort(keys) for i, keys in total.of.items()}


def _counted(words: Words, i: int) -> Words:
    return words if i == SPREAD else (words[i], words[-1])


BLOCK = 256
"""Bins of a block, whose number is a multiple of it or fewer."""

Ranks = Mapping[int, Sequence[int]]
"""The ranks at which magnitudes are cut, by model's index: the k largest, for several k."""


def cuts(ranks: Ranks, n_elements: int) -> Generator[Measure, Any, dict[int, list[Cut]]]:
    """Finds the cuts at some ranks; two passes at most, and none for ranks at the ends.

    Args:
        ranks: For each model.
        n_elements: The number of elements of the unit.

    Returns:
        For each model, the cut at each of its ranks.
    """
    inner = {i: [k for k in of_model if 0 < k < n_elements] for i, of_model in ranks.items()}
    wanted = tuple(i for i, of_model in inner.items() if of_model)
    if wanted and n_elements <= SMALL:
        keys = yield SortedKeys(wanted)
        found = {(i, k): _cut_in(keys[i], k, n_elements) for i in wanted for k in inner[i]}
    else:
        upper = (yield UpperBits(wanted)) if wanted else {}
        found = yield from _settled({(i, k): _at_rank(upper[i], k) for i in wanted for k in inner[i]})
    return {
        i: [found.get((i, k), EVERYTHING if k > 0 else NOTHING) for k in of_model]
        for i, of_model in ranks.items()
    }


def _cut_in(keys: np.ndarray, k: int, n_elements: int) -> Cut:
    """The cut at a rank, from the sorted keys that are not zero."""
    n = keys.size
    if k > n:
        return Cut(0, k - n, n_elements - n)
    key = keys[n - k]
    first, end = (int(np.searchsorted(keys, key, side)) for side in ("left", "right"))
    return Cut(int(key), k - (n - end), end - first)


def cut_of_spread(share: float) -> Generator[Measure, Any, Cut]:
    """Finds the cut below which models differ least, in two passes at most.

    Args:
        share: The share of the elements in which the models differ that are above it: the number is rounded
            down.
    """
    upper = yield UpperBits((SPREAD,))
    k = int(share * int(upper[SPREAD][1:].sum()))
    if not k:
        return NOTHING
    return (yield from _settled({(SPREAD, k): _at_rank(upper[SPREAD], k)}))[SPREAD, k]


class _Rank(NamedTuple):
    """A rank's bin.

    Attributes:
        bin: The bin.
        k: The rank in the bin, counted from its largest, from 1.
        n: How many are in the bin.
    """

    bin: int
    k: int
    n: int


Found = Mapping[tuple[int, int], _Rank]
"""The bins of the first stage, by model's index and rank."""


def _settled(found: Found) -> Generator[Measure, Any, dict[tuple[int, int], Cut]]:
    """Finds the cuts in their bins, in another pass if that is not decided yet."""
    open_bins = {(i, rank.bin // 2) for (i, _), rank in found.items() if rank.bin % 2 and rank.k < rank.n}
    lower = (yield LowerBits(tuple(sorted(open_bins)))) if open_bins else {}

    def cut(i: int, rank: _Rank) -> Cut:
        upper = rank.bin // 2
        key = upper << LOWER_BITS
        if not rank.bin % 2:
            return Cut(key, rank.k, rank.n)
        if rank.k == rank.n:
            return Cut(key, 0, 0)
        among = _at_rank(lower[i, upper], rank.k)
        return Cut(key + among.bin, among.k, among.n)

    return {(i, k): cut(i, rank) for (i, k), rank in found.items()}


def _at_rank(counts: np.ndarray, k: int) -> _Rank:
    """The bin of the k-th largest: the block that has it is found first, as few bins are not empty."""
    of_blocks = counts.reshape(-1, min(BLOCK, counts.size)).sum(axis=1)
    block, k = _from_top(of_blocks, k)
    i, k = _from_top(counts.reshape(of_blocks.size, -1)[block], k)
    i += block * (counts.size // of_blocks.size)
    return _Rank(i, k, int(counts[i]))


def _from_top(counts: np.ndarray, k: int) -> tuple[int, int]:
    """The index at which k is reached, counted from the last, and what is missing before it."""
    sums = np.cumsum(counts[::-1])
    i = int(np.searchsorted(sums, k))
    return counts.size - 1 - i, k - int(sums[i]) + int(counts[-1 - i])
