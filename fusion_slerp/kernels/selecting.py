"""Calls of the kernels in `keys`, `key_masks` and `selection` on a chunk: the last vector is the base."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fusion_slerp.kernels import (
    Kernel,
    Words,
    are_many,
    call,
    key_masks,
    keys,
    run,
    selection,
    table_with,
    types_of,
    values_of,
)
from fusion_slerp.kernels.elements import MASK
from fusion_slerp.kernels.fast_spread import can_be_fast, fast_bins_of_spread, fast_select_spread

KEY_END = 1 << keys.KEY_BITS
"""Above every key."""


def key_above(x: float) -> int:
    """Returns the smallest key of a magnitude above x, which is not negative: where |difference| > x."""
    rounded = np.float32(min(x, float(np.finfo(np.float32).max)))
    return int(rounded.view(np.uint32)) + (float(rounded) <= x)


Limits = Sequence[tuple[int, int]]
"""For each model the first key that is taken, and the end; none if the end is not above the first."""


Part = tuple[slice, Limits]
"""A part of a chunk, and its limits."""


def masks_by_key(words: Words, parts: Sequence[Part]) -> np.ndarray:
    """Returns masks: bit i is set where the key of model i is inside its limits.

    Args:
        words: The models' words, then the base's.
        parts: Those that make up the words.

    Returns:
        Fresh uint16 of the words' length.
    """
    masks, dtypes = np.empty(words[0].size, np.uint16), [*types_of(words), MASK]
    for part, limits in parts:
        arrays = [*(each[part] for each in words), masks[part]]
        call(key_masks.select, arrays, dtypes, factors_of_limits(limits))
    return masks


def factors_of_limits(limits: Limits) -> list[float]:
    """Returns the factors of a kernel that takes limits."""
    return [float(limit) for first, end in limits for limit in (first, max(first, end))]


def count_keys(words: Words, lists: Sequence[Sequence[int]]) -> np.ndarray:
    """Returns how many elements of each model have its key.

    Args:
        words: The models' words, then the base's.
        lists: One or two lists of a key for each model; `KEY_END` for none.

    Returns:
        Fresh int64 of shape (lists, models).
    """
    counts = np.empty((len(lists), len(words) - 1), np.int64)
    dtypes = [*types_of(words), *["int64"] * len(lists)]
    call(key_masks.count_equal, [*words, *counts], dtypes, [float(key) for each in lists for key in each])
    return counts


def index_after(words: Words, key: int, n: int) -> int:
    """Returns the index after the n-th element that has a key; there are as many.

    Args:
        words: A model's words and the base's.
        key: The key.
        n: At least 1.
    """
    numbers = np.empty(2, np.int64)
    call(key_masks.find_equal, [*words, numbers], [*types_of(words), "int64"], [float(key), float(n)])
    start, n_before = numbers.tolist()
    has_key = keys_of(*(each[start : start + keys.SPAN] for each in words)) == key
    return start + int(np.flatnonzero(has_key)[n - n_before - 1]) + 1


def masks_by_spread(words: Words, first: int) -> np.ndarray:
    """Returns masks of all models where the key of their spread is at least `first`, else of none.

    Returns:
        Fresh uint16 of the words' length.
    """
    masks, types = np.empty(words[0].size, np.uint16), types_of(words)
    if are_many(masks.size) and can_be_fast(types[:-1]):
        call(fast_select_spread, [*words[:-1], masks], [*types[:-1], MASK], [float(first)])
    else:
        call(key_masks.select_spread, [*words, masks], [*types, MASK], [float(first)])
    return masks


SPARE_BINS = 256
"""Those of a power of two."""


class Histogram(NamedTuple):
    """How many keys fall into each bin of the first stage.

    Attributes:
        n_zero: How many are zero: the first bin.
        first: The first bin of `counts`; there are none in those before, but for zero, nor after the last.
        counts: int64, by bin.
    """

    n_zero: int
    first: int
    counts: np.ndarray

    @property
    def end(self) -> int:
        """The bin after the last that has any."""
        return self.first + self.counts.size

    def join(self, other: Histogram) -> Histogram:
        """Adds another, in place as a rule."""
        n_zero = self.n_zero + other.n_zero
        first, counts = self.first, self.counts
        if not other.counts.size:
            return Histogram(n_zero, first, counts)
        if other.first < first or other.end > self.end:
            first, end = (other.first, other.end) if not counts.size else self._wide_enough_for(other)
            counts = np.zeros(end - first, np.int64)
            counts[self.first - first :][: self.counts.size] = self.counts
        counts[other.first - first :][: other.counts.size] += other.counts
        return Histogram(n_zero, first, counts)

    def _wide_enough_for(self, other: Histogram) -> tuple[int, int]:
        """The bins of both, and some more, so that later ones fit in."""
        first, end = min(self.first, other.first), max(self.end, other.end)
        return max(1, first - SPARE_BINS), min(keys.COARSE_BINS, end + SPARE_BINS)

    def of_all_bins(self) -> np.ndarray:
        """Returns fresh int64 of shape (COARSE_BINS,)."""
        counts = np.zeros(keys.COARSE_BINS, np.int64)
        counts[self.first :][: self.counts.size] = self.counts
        counts[0] = self.n_zero
        return counts


_counters = threading.local()
"""Each thread's, which are zero between two calls: setting a megabyte to zero takes longer than counting a
small chunk.
"""


def count_upper(words: Words) -> Histogram:
    """Returns how many keys fall into each bin of the first stage.

    Args:
        words: Those of a model and the base, for the keys of differences; those of several models and the
            base, for the keys of their spread.
    """
    if not hasattr(_counters, "of_bins"):
        _counters.of_bins = np.zeros((keys.COARSE_BINS, keys.COUNTERS), np.uint32)
        _counters.together = np.empty(keys.COARSE_BINS, np.int64)
    numbers, counts = np.empty(3, np.int64), _counters.together
    kernel, types = keys.count_upper, types_of(words)
    if len(words) > 2:
        kernel = keys.count_upper_of_spread
        if are_many(words[0].size) and can_be_fast(types[:-1]):
            bins = np.empty(words[0].size, np.uint16)
            call(fast_bins_of_spread, [*words[:-1], bins], [*types[:-1], MASK])
            kernel, words, types = keys.count_bins, [bins], [MASK]
    call(kernel, [*words, _counters.of_bins, numbers, counts], [*types, "uint32", "int64", "int64"])
    n_zero, first, end = numbers.tolist()
    return Histogram(n_zero, first, counts[first:end].copy())


def count_lower(words: Words, upper: int) -> np.ndarray:
    """Returns how many of the keys with these upper bits have each of the lower bits.

    Args:
        words: As for `count_upper`.
        upper: The upper bits.

    Returns:
        Fresh int64 of shape (FINE_BINS,).
    """
    counters = np.zeros(keys.FINE_BINS, np.uint32)
    kernel = keys.count_lower if len(words) == 2 else keys.count_lower_of_spread
    call(kernel, [*words, counters], [*types_of(words), "uint32"], [float(upper)])
    return counters.astype(np.int64)


def keys_of(model: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Returns the keys of the differences: fresh uint32."""
    with np.errstate(over="ignore", invalid="ignore"):
        differences = (values_of(model) - values_of(base)).astype(np.float32)
    return np.abs(differences).view(np.uint32)


def count_sets(words: Words, masks: np.ndarray) -> np.ndarray:
    """Returns for each model how many elements it alone has, and how many it has with others.

    Returns:
        Fresh int64 of shape (models, 2).
    """
    counts = np.empty((len(words) - 1, 2), np.int64)
    call(selection.count_sets, [*words, masks, counts], [*types_of(words), MASK, "int64"])
    return counts


def sums_of_magnitudes(words: Words, masks: np.ndarray) -> np.ndarray:
    """Returns each model's sum of magnitudes of differences, and that of its selected ones.

    Returns:
        Fresh float64 of shape (2 * models,): all and selected of the first model, of the second, ...
    """
    return _sums(selection.magnitudes, words, masks, 2 * (len(words) - 1))


def sums_of_squares(words: Words, masks: np.ndarray) -> np.ndarray:
    """Returns each model's sum of squares of selected differences: fresh float64 of shape (models,)."""
    return _sums(selection.squares, words, masks, len(words) - 1)


def _sums(kernel: Kernel, words: Words, masks: np.ndarray, n_sums: int) -> np.ndarray:
    table = table_with([*words, masks], [*types_of(words), MASK])
    return run(kernel, table, np.empty((1, 0)), np.empty((1, n_sums)))[0]
