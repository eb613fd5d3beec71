"""Spreads in float32 give the counts and masks of float64: near limits, and where float32 is not exact."""

import numpy as np
import pytest

from fusion_slerp import kernels
from fusion_slerp.kernels import FAST_ELEMENTS, fast_spread, selecting
from tests.kernels.test_kernels import HALVES, all_sorts, by_name, named, ordinary
from tests.kernels.test_keys import close_to
from tests.reference import BF16, F16, Format

N = 5003


def fine_tunes(format: Format, n: int) -> list[np.ndarray]:
    """Models near a base, which is the last; every third element is the same in all of them."""
    base = ordinary(format, N, seed=1)
    models = [close_to(base, format, seed=3 + i) for i in range(n)]
    for each in models:
        each[::3] = models[0][::3]
    return [*models, base]


def strangers(format: Format, n: int) -> list[np.ndarray]:
    """Words of all magnitudes: differences and squares are rounded, and beyond float32."""
    rng = np.random.default_rng(2)
    return [rng.permutation(all_sorts(format, N, seed=5 + i)) for i in range(n + 1)]


def few_bits(format: Format, n: int) -> list[np.ndarray]:
    """Small multiples of one unit: sums are small integers, and many keys lie exactly at a bin's border."""
    rng = np.random.default_rng(3)
    one = format.bias << format.fraction_bits
    words = [one + rng.integers(0, 12, N) for _ in range(n + 1)]
    return [each.astype(np.uint16).view(ordinary(format, 1, 0).dtype) for each in words]


def both_ways(words, monkeypatch, function):
    """What a function of the words returns with the kernels in float32, and without."""
    results = []
    for elements in (0, 1 << 60):
        monkeypatch.setattr(kernels, "FAST_ELEMENTS", elements)
        results.append(function(words))
    return results


@named("kind", [fine_tunes, strangers, few_bits])
@named("n", [2, 3, 6, 7])
@named("format", HALVES, **by_name)
def test_counts_and_masks_are_those_of_float64(format, n, kind, monkeypatch):
    words = kind(format, n)
    fast, exact = both_ways(words, monkeypatch, lambda of: selecting.count_upper(of).of_all_bins())
    np.testing.assert_array_equal(fast, exact)
    bins = np.flatnonzero(exact[1:]) + 1
    for found in (bins[0], bins[len(bins) // 2], bins[-1]):
        for distance in (-fast_spread.MARGIN - 1, -1, 0, 1, fast_spread.MARGIN, 40000):
            first = max(1, (int(found) // 2 << 16) + distance)
            fast, exact = both_ways(
                words, monkeypatch, lambda of, first=first: selecting.masks_by_spread(of, first)
            )
            np.testing.assert_array_equal(fast, exact)


def test_models_of_different_types(monkeypatch):
    words = [fine_tunes(BF16, 1)[0], fine_tunes(F16, 1)[0], fine_tunes(BF16, 1)[-1]]
    fast, exact = both_ways(words, monkeypatch, lambda of: selecting.count_upper(of).of_all_bins())
    np.testing.assert_array_equal(fast, exact)


@pytest.mark.long
@named("kind", [fine_tunes, strangers])
def test_large_chunks_are_counted_in_float32_and_give_the_same(kind, monkeypatch):
    words = [np.tile(each, FAST_ELEMENTS // N + 1) for each in kind(BF16, 3)]
    counts = selecting.count_upper(words).of_all_bins()
    monkeypatch.setattr(kernels, "FAST_ELEMENTS", 1 << 60)
    np.testing.assert_array_equal(counts, selecting.count_upper(words).of_all_bins())


def test_which_models_have_these_kernels():
    assert fast_spread.can_be_fast(["uint16"] * 6)
    assert not fast_spread.can_be_fast(["uint16"] * 7)
    assert not fast_spread.can_be_fast(["uint16"])
    assert not fast_spread.can_be_fast(["uint16", "float32"])
