"""Masks that are drawn: element by element, and by rank, against words and sorting one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_slerp.kernels.drawing import Ranked, add_ranked, drawn_masks, packed, unpacked
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


@named("start", [0, 9, 2**33 + 5])
def test_a_word_is_below_the_threshold_after_it(start):
    word = reference.words(KEY, start, 1)[0]
    assert drawn_masks(1, start, [(0, KEY, word)], 0).tolist() == [0]
    assert drawn_masks(1, start, [(0, KEY, word + 1)], 0).tolist() == [1]


@named("lower", [0, 1, 1 << 15, (1 << 16) - 1])
def test_where_upper_halves_are_equal_the_lower_ones_decide(lower):
    """Thresholds with the upper half of some word, in each span of elements."""
    n = 2 * SPAN + 100
    words = np.array(reference.words(KEY, 5, n))
    for index in (0, 77, SPAN - 1, SPAN, 2 * SPAN + 99):
        threshold = max(1, int(words[index]) >> 16 << 16 | lower)
        masks = drawn_masks(n, 5, [(3, KEY, threshold), (1, 1, 1 << 31)], 0) >> 3
        np.testing.assert_array_equal(masks, words < threshold)


def test_without_chance_nothing_is_drawn():
    assert drawn_masks(3, 0, [], 0b101).tolist() == [5, 5, 5]
    assert drawn_masks(0, 0, [(0, KEY, 5)], 0b101).tolist() == []


# By rank.


CHANCE = 0.5, 0.15


def ranked(words, width, chance=CHANCE, start=0, k=3) -> np.ndarray:
    masks = np.full(words[0].size, 1, np.uint16)
    add_ranked(masks, [words[0], words[-1]], (start, width), [Ranked(k, KEY, *chance)])
    assert set(masks.tolist()) <= {1, 1 | 1 << k}
    return masks > 1


def expected(difference, width, chance=CHANCE, start=0) -> np.ndarray:
    """Which elements are drawn: ranks by sorting every row."""
    with np.errstate(over="ignore"):
        magnitudes = np.abs(difference.astype(np.float32)).reshape(-1, width)
    density, spread = chance
    random = np.array(reference.words(KEY, start, difference.size)).reshape(-1, width)
    limits = []
    for row in magnitudes:
        ordered = np.sort(row)
        sums = np.searchsorted(ordered, row) + np.searchsorted(ordered, row, "right") - 1
        limits.append([reference.limit_of(each, width, density, spread) for each in sums.tolist()])
    return ((random < np.array(limits)) & (magnitudes > 0)).reshape(-1)


def assert_expected(words, format: Format, width, chance=CHANCE, start=0) -> None:
    difference = decode(words[0], format) - decode(words[-1], format)
    found = ranked(words, width, chance, start)
    np.testing.assert_array_equal(found, expected(difference, width, chance, start))


def test_the_two_references_agree():
    words = fine_tunes(BF16, 1, 600)
    difference = decode(words[0], BF16) - decode(words[-1], BF16)
    chosen = reference.drawn_by_rank(KEY, difference, 200, *CHANCE, 7)
    np.testing.assert_array_equal(np.flatnonzero(expected(difference, 200, CHANCE, 7)), sorted(chosen))


@named("width", [2, 3, 31, 64, 100, 515, 3000])
@named("format", FORMATS.values(), ids=lambda format: format.name)
def test_ranks_are_those_of_sorting(format: Format, width):
    words = fine_tunes(format, 1, max(1, 3000 // width) * width)
    for start in (0, 6):
        assert_expected(words, format, width, start=start)


@named("width", [*range(2, 70), 127, 128, 129, 1023, 1024, 1025])
@named("format", [BF16, F32], ids=lambda format: format.name)
def test_any_length_of_rows(format: Format, width):
    assert_expected(fine_tunes(format, 1, 3 * width), format, width, start=width)


@named("low", [1e-9, 0.0101, 0.7])
@named("high", [0.7101, 1 - 1e-9])
@named("format", [BF16, F32], ids=lambda format: format.name)
def test_any_two_probabilities(format: Format, low, high):
    assert_expected(fine_tunes(format, 1, 1200), format, 400, ((low + high) / 2, (high - low) / 2))


SHAPES = {
    "all equal": lambda n, rng: np.full(n, 1e-3),
    "no difference": lambda n, rng: np.zeros(n),
    "one difference": lambda n, rng: np.where(np.arange(n) == n // 2, 1e-3, 0.0),
    "rising": lambda n, rng: np.arange(n) * 1e-5,
    "falling": lambda n, rng: np.arange(n)[::-1] * 1e-5,
    "two magnitudes, both signs": lambda n, rng: rng.choice([-2e-3, 1e-3, -1e-3], n),
    "within one bin": lambda n, rng: 1.0 + rng.random(n) * 1e-4,
    "within one bin, many equal": lambda n, rng: 1.0 + rng.integers(0, 9, n) * 2.0**-20,
    "over many binades": lambda n, rng: rng.normal(size=n) * 2.0 ** rng.integers(-60, 1, n),
    "smallest numbers": lambda n, rng: rng.integers(0, 40, n) * 2.0**-149,
    "an outlier": lambda n, rng: np.where(np.arange(n) == 3, 1e4, rng.normal(0, 1e-6, n)),
}


@named("shape", SHAPES)
@named("format", FORMATS.values(), ids=lambda format: format.name)
@named("width", [30, 700, 2100])
def test_any_distribution(format: Format, shape, width):
    rows = 2100 // width
    change = SHAPES[shape](width * rows, np.random.default_rng(1))
    words = [words_of(change, format), words_of(np.zeros(width * rows), format)]
    for chance in (CHANCE, (0.5, 0.49)):
        assert_expected(words, format, width, chance)


@named("format", [BF16, F32], ids=lambda format: format.name)
def test_rows_of_a_long_vector(format: Format):
    """All bins, and all bits that they distinguish."""
    assert_expected(fine_tunes(format, 1, 40_000), format, 40_000)


def test_equal_magnitudes_have_one_threshold():
    """Where all are equal, it is that of the mean; and it does not depend on the order in the row."""
    n = 4000
    words = [np.where(np.arange(n) % 2, 0x3F80, 0xBF80).astype(np.uint16), np.zeros(n, np.uint16)]
    below = np.array(reference.words(KEY, 0, n)) < reference.limit_of(n - 1, n, *CHANCE)
    np.testing.assert_array_equal(ranked(words, n), below)
    assert reference.limit_of(n - 1, n, *CHANCE) == round(CHANCE[0] * 2**32)


def test_only_magnitudes_count():
    """Rows with the same magnitudes in another order: each element has its old threshold at its new place."""
    n = 600
    rng = np.random.default_rng(5)
    model = rng.integers(0x3F00, 0x3F40, n).astype(np.uint16)
    order = rng.permutation(n)
    limits = []
    for words in (model, model[order]):
        sums = reference.rank_sums(decode(words, BF16).tolist())
        limits.append(np.array([reference.limit_of(each, n, *CHANCE) for each in sums]))
        random = np.array(reference.words(KEY, 0, n))
        np.testing.assert_array_equal(ranked([words, np.zeros_like(words)], n), random < limits[-1])
    np.testing.assert_array_equal(limits[0][order], limits[1])


@given(st.lists(st.integers(0, 2**16 - 1), min_size=2, max_size=300), st.integers(0, 2**50))
def test_any_words(bits, start):
    """Infinities and NaN as well: they are noticed elsewhere, and must do no harm here."""
    model = np.array(bits, np.uint16)
    found = ranked([model, np.zeros_like(model)], model.size, start=start)
    magnitudes = model & 0x7FFF
    sums = reference.rank_sums(magnitudes.tolist())
    limits = np.array([reference.limit_of(each, model.size, *CHANCE) for each in sums])
    random = np.array(reference.words(KEY, start, model.size))
    np.testing.assert_array_equal(found, (random < limits) & (magnitudes > 0))


def test_models_of_different_types():
    base = fine_tunes(F32, 1, 900)[-1]
    values = decode(base, F32) + np.random.default_rng(2).normal(0, 1e-3, 900)
    models = {format: words_of(values, format) for format in (BF16, F16, F64, F32)}
    for format, model in models.items():
        difference = decode(model, format) - decode(base, F32)
        np.testing.assert_array_equal(ranked([model, base], 300), expected(difference, 300))


def test_several_models_of_different_types():
    """Each as it would be alone, whatever bins the others have."""
    base = fine_tunes(BF16, 1, 900)[-1]
    values = decode(base, BF16) + np.random.default_rng(2).normal(0, 1e-3, 900)
    formats = (F32, BF16, BF16, F64)
    words = [*(words_of(values, format) for format in formats), base]
    drawn = [Ranked(2 * k, KEY + k, 0.5 + k / 20, 0.2 - k / 40) for k in range(len(formats))]
    masks = np.zeros(900, np.uint16)
    add_ranked(masks, words, (600, 300), drawn)
    alone = np.zeros(900, np.uint16)
    for model, each in zip(words[:-1], drawn, strict=True):
        add_ranked(alone, [model, base], (600, 300), [each])
    np.testing.assert_array_equal(masks, alone)
    assert masks.any()
    never_set = np.full(900, 0xABCD, np.uint16)
    add_ranked(never_set, words, (600, 300), drawn, is_fresh=True)
    np.testing.assert_array_equal(never_set, masks)


def test_sizes_that_do_not_fit_are_refused():
    words = fine_tunes(F32, 1, 12)
    drawn, masks = [Ranked(0, KEY, *CHANCE)], np.zeros(12, np.uint16)
    for width in (1, 5):
        with pytest.raises(ValueError, match="add_ranked"):
            add_ranked(masks, [words[0], words[1]], (0, width), drawn)
    with pytest.raises(ValueError, match="add_ranked"):
        add_ranked(masks, [words[0][:8], words[1]], (0, 4), drawn)
    with pytest.raises(ValueError, match="add_ranked"):
        add_ranked(masks, [*words, words[0]], (0, 4), drawn)


@named("width", [2, 300])
@named("format", [BF16, F32], ids=lambda format: format.name)
def test_where_upper_halves_are_equal_the_lower_ones_decide_by_rank(format: Format, width):
    """All magnitudes are equal, so all thresholds: the word of some element, and the one after it."""
    n, start = 5 * width, 4 * width
    words = [words_of(np.full(n, value), format) for value in (1.0, 0.0)]
    random = np.array(reference.words(KEY, start, n))
    for index in (0, 1, width - 1, width, 3 * width + 1, n - 1):
        for threshold in (random[index], random[index] + 1):
            chance = float(threshold) / 2**32, 1e-13
            assert reference.limit_of(width - 1, width, *chance) == threshold
            np.testing.assert_array_equal(ranked(words, width, chance, start), random < threshold)


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
