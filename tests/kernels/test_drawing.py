"""Masks that are drawn: element by element, and by rank, against words and sorting one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_slerp.kernels.drawing import add_ranked, drawn_masks, packed, unpacked
from fusion_slerp.kernels.random_masks import SPAN
from tests.methods import drawing_reference as reference
from tests.methods.selection_reference import fine_tunes, words_of
from tests.reference import BF16, F16, F32, F64, FORMATS, Format, decode

named = pytest.mark.parametrize
KEY = 0xFEDC_BA98_7654_3210


# Element by element.


@named("start", [0, 1, 7, 2**34 - 5])
@named("n", [1, 5, SPAN - 1, SPAN, SPAN + 3])
def test_bits_are_those_of_words_below_the_threshold(n, start):
    chances = [(0, 1, 1 << 31), (2, KEY, 1 << 30), (11, 5, (1 << 32) - 1)]
    masks = drawn_masks(n, start, chances, always=0b1010)
    expected = np.full(n, 0b1010)
    for k, key, limit in chances:
        expected |= (np.array(reference.words(key, start, n)) < limit) << k
    np.testing.assert_array_equal(masks, expected)


def test_a_word_is_below_the_threshold_after_it():
    word = reference.words(KEY, 9, 1)[0]
    assert drawn_masks(1, 9, [(0, KEY, word)], 0).tolist() == [0]
    assert drawn_masks(1, 9, [(0, KEY, word + 1)], 0).tolist() == [1]


def test_without_chance_nothing_is_drawn():
    assert drawn_masks(3, 0, [], 0b101).tolist() == [5, 5, 5]
    assert drawn_masks(0, 0, [(0, KEY, 5)], 0b101).tolist() == []


# By rank.


def thresholds(width: int, low: float = 0.35, high: float = 0.65) -> np.ndarray:
    return np.rint((low + (high - low) * np.arange(width) / (width - 1)) * 2**32).astype(np.uint32)


def ranked(words, width, limits, start=0, k=3) -> np.ndarray:
    masks = np.full(words[0].size, 1, np.uint16)
    add_ranked(masks, (words[0], words[-1]), (start, width), (k, KEY), limits)
    assert set(masks.tolist()) <= {1, 1 | 1 << k}
    return masks > 1


def expected(difference, width, limits, start=0) -> np.ndarray:
    """Which elements are drawn: ranks by sorting every row."""
    with np.errstate(over="ignore"):
        magnitudes = np.abs(difference.astype(np.float32)).reshape(-1, width)
    order = np.argsort(magnitudes, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(width)[None].repeat(len(order), 0), axis=1)
    random = np.array(reference.words(KEY, start, difference.size)).reshape(-1, width)
    return ((random < limits[ranks]) & (magnitudes > 0)).reshape(-1)


@named("width", [2, 3, 31, 64, 100, 515, 3000])
@named("format", FORMATS.values(), ids=lambda format: format.name)
def test_ranks_are_those_of_sorting(format: Format, width):
    words = fine_tunes(format, 1, max(1, 3000 // width) * width)
    difference = decode(words[0], format) - decode(words[-1], format)
    for start in (0, 6):
        found = ranked(words, width, thresholds(width), start)
        np.testing.assert_array_equal(found, expected(difference, width, thresholds(width), start))


@named("low", [1e-9, 0.0101, 0.7])
@named("high", [0.7101, 1 - 1e-9])
def test_any_two_probabilities(low, high):
    words = fine_tunes(BF16, 1, 1200)
    limits = thresholds(400, low, high)
    difference = decode(words[0], BF16) - decode(words[-1], BF16)
    np.testing.assert_array_equal(ranked(words, 400, limits), expected(difference, 400, limits))


SHAPES = {
    "all equal": lambda n, rng: np.full(n, 1e-3),
    "no difference": lambda n, rng: np.zeros(n),
    "one difference": lambda n, rng: np.where(np.arange(n) == n // 2, 1e-3, 0.0),
    "rising": lambda n, rng: np.arange(n) * 1e-5,
    "falling": lambda n, rng: np.arange(n)[::-1] * 1e-5,
    "two magnitudes, both signs": lambda n, rng: rng.choice([-2e-3, 1e-3, -1e-3], n),
    "within one bin": lambda n, rng: 1.0 + rng.random(n) * 1e-4,
    "over many binades": lambda n, rng: rng.normal(size=n) * 2.0 ** rng.integers(-60, 1, n),
    "an outlier": lambda n, rng: np.where(np.arange(n) == 3, 1e4, rng.normal(0, 1e-6, n)),
}


@named("shape", SHAPES)
@named("format", [BF16, F32], ids=lambda format: format.name)
def test_any_distribution(format: Format, shape):
    width, rows = 700, 3
    change = SHAPES[shape](width * rows, np.random.default_rng(1))
    words = [words_of(change, format), words_of(np.zeros(width * rows), format)]
    difference = decode(words[0], format)
    limits = thresholds(width)
    np.testing.assert_array_equal(ranked(words, width, limits), expected(difference, width, limits))


@given(st.lists(st.integers(0, 2**16 - 1), min_size=2, max_size=300), st.integers(0, 2**50))
def test_any_words(bits, start):
    """Infinities and NaN as well: they are noticed elsewhere, and must do no harm here."""
    model = np.array(bits, np.uint16)
    limits = thresholds(model.size)
    found = ranked([model, np.zeros_like(model)], model.size, limits, start)
    magnitudes = (model & 0x7FFF).astype(np.int64)
    order = np.argsort(magnitudes, kind="stable")
    ranks = np.empty_like(order)
    ranks[order] = np.arange(model.size)
    random = np.array(reference.words(KEY, start, model.size))
    np.testing.assert_array_equal(found, (random < limits[ranks]) & (magnitudes > 0))


def test_models_of_different_types():
    base = fine_tunes(F32, 1, 900)[-1]
    values = decode(base, F32) + np.random.default_rng(2).normal(0, 1e-3, 900)
    for format in (BF16, F16, F64):
        model = words_of(values, format)
        difference = decode(model, format) - decode(base, F32)
        limits = thresholds(300)
        np.testing.assert_array_equal(ranked([model, base], 300, limits), expected(difference, 300, limits))


def test_sizes_that_do_not_fit_are_refused():
    words = fine_tunes(F32, 1, 12)
    masks = np.zeros(12, np.uint16)
    for width, limits in ((5, thresholds(5)), (4, thresholds(3)), (12, thresholds(4))):
        with pytest.raises(ValueError, match="add_ranked"):
            add_ranked(masks, (words[0], words[1]), (0, width), (0, KEY), limits)
    with pytest.raises(ValueError, match="add_ranked"):
        add_ranked(masks, (words[0][:8], words[1]), (0, 4), (0, KEY), thresholds(4))


# In less memory.


@named("n_models", [1, 4, 5, 8, 9, 12])
@named("n", [0, 1, 2, 63, 64, 1001])
def test_packed_masks_are_the_same_again(n, n_models):
    masks = np.random.default_rng(n).integers(0, 1 << n_models, n).astype(np.uint16)
    small = packed(masks, n_models)
    np.testing.assert_array_equal(unpacked(small, n), masks)
    assert unpacked(small, n).dtype == np.uint16
    assert small.nbytes <= masks.nbytes
    if n == 64:
        assert small.nbytes == {1: 32, 4: 32, 5: 64, 8: 64, 9: 128, 12: 128}[n_models]
    masks[:] = 0
    if n > 1:
        assert unpacked(small, n).any(), "of its own memory"
