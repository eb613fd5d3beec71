"""Keys and their counts, against numpy."""

from itertools import combinations

import numpy as np
import pytest

from fusion_slerp.kernels import keys, selecting
from fusion_slerp.kernels.keys import COARSE_BINS, FINE_BINS, SPAN
from tests.kernels.test_kernels import ALL, all_sorts, by_name, named, ordinary, words_for_kernels
from tests.reference import BF16, F16, F32, F64, Format, decode, encode, round_to

SIZES = [0, 1, 3, 4, 7, 8, 9, 1000, SPAN - 1, SPAN, SPAN + 1, 2 * SPAN + 5]


def close_to(words: np.ndarray, format: Format, seed: int, scale: float = 1e-3) -> np.ndarray:
    """Words near others, and some that are equal to them."""
    rng = np.random.default_rng(seed)
    change = rng.normal(0, scale, words.size) * (rng.random(words.size) < 0.9)
    return words_for_kernels(encode(round_to(decode(words, format) + change, format), format), format)


def keys_of(model: np.ndarray, base: np.ndarray, formats: tuple[Format, Format]) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        difference = decode(model, formats[0]) - decode(base, formats[1])
        return difference.astype(np.float32).view(np.uint32) & 0x7FFF_FFFF


def upper_counts(of: np.ndarray) -> np.ndarray:
    bins = (of >> 16) * 2 + ((of & 0xFFFF) != 0)
    return np.bincount(bins, minlength=COARSE_BINS)


@named("size", SIZES)
@named("format", ALL, **by_name)
def test_counts_of_any_length(format, size):
    base = ordinary(format, size, seed=1)
    model = close_to(base, format, seed=2)
    of = keys_of(model, base, (format, format))
    np.testing.assert_array_equal(selecting.count_upper([model, base]).of_all_bins(), upper_counts(of))
    for upper in {int(key) >> 16 for key in of[:5]} | {0, 1}:
        expected = np.bincount(of[of >> 16 == upper] & 0xFFFF, minlength=FINE_BINS)
        np.testing.assert_array_equal(selecting.count_lower([model, base], upper), expected)
    for key in {*of[:3].tolist(), 0}:
        n = int((of == key).sum())
        assert selecting.count_keys([model, base], [[key]]).tolist() == [[n]]
        for k in {1, (n + 1) // 2, n} if n else ():
            index = selecting.index_after([model, base], key, k)
            assert (of[index - 1], (of[:index] == key).sum()) == (key, k)


@named("formats", [(f, g) for f in ALL for g in (BF16, F64)], ids=lambda pair: "-".join(f.name for f in pair))
def test_rare_words(formats):
    """Numbers of all magnitudes, so that differences are rounded and overflow float32."""
    base = all_sorts(formats[1], 20000, seed=3)
    model = np.random.default_rng(4).permutation(all_sorts(formats[0], 20000, seed=5))
    of = keys_of(model, base, formats)
    np.testing.assert_array_equal(selecting.count_upper([model, base]).of_all_bins(), upper_counts(of))


@named("format", [BF16, F16, F32], **by_name)
def test_a_key_is_that_of_the_exact_difference_rounded_once(format):
    rng = np.random.default_rng(6)
    base = all_sorts(format, 3000, seed=7)
    model = rng.permutation(all_sorts(format, 3000, seed=8))
    model_values, base_values = (decode(each, format).astype(np.longdouble) for each in (model, base))
    if np.finfo(np.longdouble).nmant < 60:
        pytest.skip("long double has no more digits than float64")
    with np.errstate(over="ignore"):
        once = (model_values - base_values).astype(np.float32).view(np.uint32) & 0x7FFF_FFFF
    np.testing.assert_array_equal(keys_of(model, base, (format, format)), once)


@named("n", [2, 3, 5])
@named("format", [BF16, F16, F32], **by_name)
def test_spreads(format, n):
    base = ordinary(format, 2 * SPAN + 3, seed=1)
    models = [close_to(base, format, seed=10 + i) for i in range(n)]
    values = [decode(each, format) for each in models]
    exact = np.sum([(x - y) ** 2 for x, y in combinations(values, 2)], axis=0)
    of = exact.astype(np.float32).view(np.uint32)
    counts = selecting.count_upper([*models, base]).of_all_bins()
    np.testing.assert_array_equal(counts, upper_counts(of))
    upper = int(np.median(of)) >> 16
    expected = np.bincount(of[of >> 16 == upper] & 0xFFFF, minlength=FINE_BINS)
    np.testing.assert_array_equal(selecting.count_lower([*models, base], upper), expected)
    first = int(np.median(of))
    masks = selecting.masks_by_spread([*models, base], first)
    np.testing.assert_array_equal(masks, np.where(of >= first, (1 << n) - 1, 0))


def test_equal_keys_are_counted_for_each_model():
    base = np.zeros(100, np.float32)
    models = [np.repeat(np.float32([1, 2, 3]), [50, 30, 20]), np.repeat(np.float32([2, 5]), [90, 10])]
    one, two = (int(np.float32(x).view(np.uint32)) for x in (1, 2))
    assert selecting.count_keys([*models, base], [[two, two]]).tolist() == [[30, 90]]
    lists = [[two, two], [one, selecting.KEY_END]]
    assert selecting.count_keys([*models, base], lists).tolist() == [[30, 90], [50, 0]]


def test_histograms_add_up():
    base, model = np.zeros(4, np.float32), np.array([0, 1, 1, 4], np.float32)
    one, other = selecting.count_upper([model, base]), selecting.count_upper([model[1:] / 64, base[1:]])
    assert (one.n_zero, one.counts.sum(), one.counts.size) == (1, 3, (0x4080 - 0x3F80) * 2 + 1)
    both = one.of_all_bins() + other.of_all_bins()
    for joined in (one.join(other), other.join(one)):
        np.testing.assert_array_equal(joined.of_all_bins(), both)
    nothing = selecting.count_upper([base, base])
    assert nothing.of_all_bins().tolist() == [4] + [0] * (COARSE_BINS - 1)
    np.testing.assert_array_equal(nothing.join(one).of_all_bins(), one.of_all_bins() + nothing.of_all_bins())
    assert nothing.join(one).counts.size == one.counts.size
    assert nothing.join(nothing).of_all_bins()[0] == 8


def test_limits_of_keys():
    base = np.zeros(6, np.float32)
    model = np.array([0, 1, -2, 3, np.inf, np.nan], np.float32)
    two = int(np.float32(2).view(np.uint32))

    def found(first: int, end: int) -> list[int]:
        parts = [(slice(0, 2), [(first, end)]), (slice(2, 6), [(first, end)])]
        return selecting.masks_by_key([model, base], parts).tolist()

    assert found(0, selecting.KEY_END) == [1] * 6  # NaN is above everything
    assert found(two, two + 1) == [0, 0, 1, 0, 0, 0]
    assert found(two + 1, selecting.KEY_END) == [0, 0, 0, 1, 1, 1]
    assert found(1, two) == [0, 1, 0, 0, 0, 0]
    for first, end in ((two, two), (two + 1, two), (selecting.KEY_END + 1, selecting.KEY_END)):
        assert found(first, end) == [0] * 6


@named("x", [0.0, 1e-5, 2.0**-149, 1e-60, 1.0, 0.1, 3.4028234663852886e38, 1e300])
def test_the_smallest_key_above_a_number(x):
    key = selecting.key_above(x)
    above, below = (float(np.uint32(k).view(np.float32)) for k in (key, key - 1))
    assert below <= x < above or (x > 3.5e38 and above == np.inf)


def test_bins_and_counters_fit_the_words_they_are_kept_in():
    assert COARSE_BINS == FINE_BINS == 1 << 16
    assert SPAN % keys.COUNTERS == SPAN % keys.GROUP == 0
    assert F64.fraction_bits > 2 * F32.fraction_bits
