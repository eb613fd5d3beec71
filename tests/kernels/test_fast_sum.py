"""Sums in float32, with doubtful elements in float64: always the same words as the loops in float64."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from fusion_slerp import kernels
from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.kernels import FAST_ELEMENTS, compiler, doubts, elements, fast_sum, loops
from fusion_slerp.kernels.doubts import ENOUGH, MOST_DOUBTFUL, SPAN, STRETCH
from fusion_slerp.kernels.fast_sum import LEAST_WEIGHT
from tests.kernels.test_kernels import (
    HALVES,
    all_sorts,
    by_name,
    named,
    ordinary,
    words_for_kernels,
)
from tests.reference import BF16, F16, Format, decode, encode, exact_sums, nearest, round_to

MIXED = [(BF16, F16, BF16), (F16, BF16, F16)]
"""Types of two sources and of the result."""


def both(vectors: Sequence[np.ndarray], factors: Sequence[float], out: Format) -> list[tuple[bytes, int]]:
    """The words and the count of both kernels, and of the third if it can be used."""
    found = []
    of_powers = [fast_sum.fast_sum_of_powers] * fast_sum.are_powers(factors)
    for kernel in (loops.weighted_sum, fast_sum.fast_weighted_sum, *of_powers):
        result = words_for_kernels(np.full(vectors[0].size, 0x1234, np.uint16), out)
        table = kernels.table_of("test", (*vectors, result))
        n_bad = kernels.run(kernel, table, np.array([factors], np.float64), np.empty(1, np.int64))
        found.append((result.tobytes(), int(n_bad[0])))
    return found


def assert_same(vectors: Sequence[np.ndarray], factors: Sequence[float], out: Format) -> None:
    plain, *others = both(vectors, factors, out)
    for fast in others:
        words = [np.frombuffer(data, np.uint16) for data, _ in (plain, fast)]
        np.testing.assert_array_equal(words[1], words[0])
        assert fast[1] == plain[1]


FACTORS = {
    "any": [0.7234519, 0.2765481, -0.13371, 0.0911, 1.93, -0.4401, 0.3, 0.01],
    "round": [0.4, 0.35, 0.25, -0.1, 0.2, 0.3, -0.05, 0.15],
    "equal": [0.125] * 8,
    "halves": [0.5, 0.5, -0.5, 0.25, 2.0, -1.0, 0.5, 1.0],
    "zeros": [0.0, 0.6, -0.0, 0.3, 0.0, 0.1, 0.0, 0.0],
    "least": [LEAST_WEIGHT, 0.3, -LEAST_WEIGHT, 0.1, LEAST_WEIGHT, 0.2, 0.7, 0.1],
    "too small": [LEAST_WEIGHT / 3, 0.3, 1e-300, 0.1, 5e-324, 0.2, 0.7, 0.1],
    "large": [3e38, 1e-3, 1e300, 2.5, 1e38, -3e38, 7e7, 1.0],
}


@named("kind", FACTORS)
@named("n", [1, 2, 3, 4, 8])
@named("format", HALVES, **by_name)
def test_the_words_are_those_of_float64(format, n, kind):
    size = 6 * SPAN
    plain = [ordinary(format, size, seed=i) for i in range(n)]
    assert_same(plain, FACTORS[kind][:n], format)
    rng = np.random.default_rng(n)
    rare = [rng.permutation(all_sorts(format, size, seed=i)) for i in range(n)]
    assert_same(rare, FACTORS[kind][:n], format)
    mostly_plain = [np.where(rng.random(size) < 0.01, r[:size], p) for p, r in zip(plain, rare, strict=True)]
    assert_same(mostly_plain, FACTORS[kind][:n], format)


@named("formats", MIXED, ids=str)
def test_types_may_be_mixed(formats):
    *sources, out = formats
    vectors = [ordinary(format, 4 * SPAN, seed=i) for i, format in enumerate(sources)]
    for factors in FACTORS.values():
        assert_same(vectors, factors[:2], out)


@named("format", HALVES, **by_name)
def test_every_word_with_some_others(format):
    """All 65,536 words, infinities and NaN included, paired with zeros, limits and ordinary words."""
    every = words_for_kernels(np.arange(1 << 16, dtype=np.uint16), format)
    others = [all_sorts(format, 9, seed=1)[:9], ordinary(format, 8, seed=2)]
    for other in np.concatenate(others):
        beside = np.full_like(every, other)
        for factors in ([0.5, 0.5], [0.3, 0.7], [0.81234, -0.2]):
            assert_same([every, beside], factors, format)


@named("format", HALVES, **by_name)
def test_sums_that_lie_halfway_and_next_to_it(format):
    """With the smallest number as the third vector, ties become near ties on either side."""
    start = (format.bias - 4) << format.fraction_bits
    words = np.arange(start, start + SPAN, dtype=np.uint16)
    values = decode(words, format)
    half = (decode(words + np.uint16(1), format) - values) / 2
    b = words_for_kernels(encode(round_to(half, format), format), format)
    for least in (0, 1, 0x8001):
        c = words_for_kernels(np.full(SPAN, least, np.uint16), format)
        vectors = [words_for_kernels(words, format), b, c]
        assert_same(vectors, [1.0, 1.0, 1.0], format)
        result = np.empty_like(vectors[0])
        kernels.run(
            fast_sum.fast_weighted_sum,
            kernels.table_of("test", (*vectors, result)),
            np.ones((1, 3)),
            np.empty(1, np.int64),
        )
        expected = [nearest(x, format) for x in exact_sums([decode(v, format) for v in vectors], [1.0] * 3)]
        np.testing.assert_array_equal(decode(result, format), expected)


@named("words", [(0x3F80, 0x3B80, 0x3702, 0xB701), (0x8000,) * 3, (0x8000, 0x0000, 0x8000)], ids=str)
def test_sums_that_float32_does_not_hold_and_zeros(words):
    """One, half of its last place, and less in numbers that cancel in float32; zeros with signs."""
    vectors = [np.full(2 * SPAN, word, np.uint16) for word in words]
    assert_same(vectors, [1.0] * len(words), BF16)


LENGTHS = [0, 1, 63, SPAN - 1, SPAN, SPAN + 1, 2 * SPAN + 17, STRETCH + SPAN + 5, 3 * STRETCH]


@named("size", LENGTHS)
@named("format", HALVES, **by_name)
def test_any_length(format, size):
    vectors = [ordinary(format, size, seed=i) for i in range(3)]
    for kind in ("any", "round", "halves", "too small"):
        assert_same(vectors, FACTORS[kind][:3], format)


@named("n_doubtful", [0, 1, 7, 8, 9, 64, MOST_DOUBTFUL, MOST_DOUBTFUL + 1, SPAN])
def test_any_number_of_doubtful_elements_in_a_span(n_doubtful):
    """1 + 2^-8 is halfway between two bfloat16; the stretch after too many ties is done in float64."""
    at = np.random.default_rng(n_doubtful).permutation(SPAN)[:n_doubtful]
    a, b = np.full(2 * STRETCH, 1.0), np.full(2 * STRETCH, 0.0)
    for start in (0, SPAN, STRETCH):
        b[start + at] = 2.0**-8
    vectors = [words_for_kernels(encode(x, BF16), BF16) for x in (a, b)]
    assert_same(vectors, [1.0, 1.0], BF16)
    assert_same(vectors, [-1.0, 1.0], BF16)


@named(
    "in_spans",
    [(ENOUGH - 1, MOST_DOUBTFUL), (ENOUGH - 1, 1, 1), (3, MOST_DOUBTFUL + 1, 3), (MOST_DOUBTFUL, 1, SPAN)],
    ids=str,
)
def test_doubtful_elements_of_several_spans(in_spans):
    """As many as are computed at once, fewer, more; and some that wait while a stretch is computed."""
    a, b = np.full(3 * STRETCH, 1.0), np.zeros(3 * STRETCH)
    for k, n in enumerate(in_spans):
        b[k * SPAN + np.random.default_rng(k).permutation(SPAN)[:n]] = 2.0**-8
    vectors = [words_for_kernels(encode(x, BF16), BF16) for x in (a, b)]
    assert_same(vectors, [1.0, 1.0], BF16)


@named("format", HALVES, **by_name)
def test_what_is_not_finite_is_counted(format):
    vectors = [ordinary(format, 3 * SPAN, seed=i) for i in range(2)]
    vectors[0].view(np.uint16)[[5, SPAN, 2 * SPAN + 1]] = [format.infinity, format.infinity + 1, 0xFFFF]
    assert [n for _, n in both(vectors, [0.3, 0.7], format)] == [3, 3]


# Where it is used.


def test_float32_and_float64_have_no_such_sum():
    for dtypes in product(("uint16", "int16", "float32", "float64"), repeat=3):
        assert doubts.suits(dtypes) == (not {"float32", "float64"} & set(dtypes))


def test_without_an_instruction_for_float16_its_sums_stay_in_float64(monkeypatch):
    monkeypatch.setattr(doubts, "has_float16", lambda: False)
    assert doubts.suits(("uint16", "uint16"))
    assert not doubts.suits(("uint16", "int16"))
    assert elements.has_float16 is not doubts.has_float16


def test_long_sums_take_the_fast_kernel_and_short_ones_the_one_that_compiles_sooner(monkeypatch):
    used = []
    run = kernels.run
    monkeypatch.setattr(kernels, "run", lambda kernel, *of: used.append(kernel) or run(kernel, *of))
    for size in (FAST_ELEMENTS - 1, FAST_ELEMENTS):
        words = ordinary(BF16, size, seed=1)
        kernels.weighted_sum([words, words], [0.3, 0.7], np.empty_like(words))
    kernels.weighted_sum([words] * 4, [0.25] * 4, np.empty_like(words))
    kernels.weighted_sum([words] * 3, [0.5, 0.3, 0.25], np.empty_like(words))
    fast = fast_sum.fast_weighted_sum
    assert used == [loops.weighted_sum, fast, fast_sum.fast_sum_of_powers, fast]
    assert FAST_ELEMENTS <= CHUNK_ELEMENTS


@pytest.mark.parametrize("format", HALVES, **by_name)
def test_means_of_four_models_are_hardly_ever_done_twice(format, monkeypatch):
    """A quarter of them are ties: counted by a float64 loop that writes wrong words."""
    monkeypatch.setattr(fast_sum, "sum_of_terms", lambda dtypes: lambda b, values, factors: elements.F64(7.0))
    base = ordinary(format, 64 * SPAN, seed=0).view(np.uint16)
    steps = np.random.default_rng(1).integers(0, 4, (4, base.size)).astype(np.uint16)
    vectors = [words_for_kernels(base + each, format) for each in steps]
    result = np.empty_like(vectors[0])
    dtypes = tuple(kernels.types_of([*vectors, result]))
    run = compiler._function(fast_sum.fast_sum_of_powers, dtypes)
    table = kernels.table_of("test", (*vectors, result))
    factors, n_bad = np.full((1, 4), 0.25), np.empty(1, np.int64)
    run(1, *[array.ctypes.data for array in (table.rows, factors, n_bad, np.empty(0))])
    assert np.count_nonzero(decode(result, format) == 7.0) < 0.001 * base.size


@pytest.mark.parametrize("n", [2, 3])
def test_few_elements_are_done_twice(n, monkeypatch):
    """With arbitrary weights: counted by a float64 loop that writes wrong words."""

    def spoilt(b, values, factors):
        return elements.F64(1.0)

    monkeypatch.setattr(fast_sum, "sum_of_terms", lambda dtypes: spoilt)
    size = 64 * SPAN
    vectors = [ordinary(BF16, size, seed=i) for i in range(n)]
    result = np.empty_like(vectors[0])
    dtypes = ("uint16",) * (n + 1)
    run = compiler._function(fast_sum.fast_weighted_sum, dtypes)
    table = kernels.table_of("test", (*vectors, result))
    factors, n_bad = np.array([FACTORS["any"][:n]]), np.empty(1, np.int64)
    run(1, *[array.ctypes.data for array in (table.rows, factors, n_bad, np.empty(0))])
    share = np.count_nonzero(decode(result, BF16) == 1.0) / size
    assert 0 < share < 0.003
