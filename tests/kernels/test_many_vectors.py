"""Kernels of any number of vectors: Gram matrices, exactly rounded sums, and many small sets in one call."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations_with_replacement, permutations

import numpy as np
import pytest

from fusion_slerp import kernels
from fusion_slerp.dtypes import BY_NAME
from fusion_slerp.kernels import Table
from fusion_slerp.kernels.building import LANES, ROWS
from tests.kernels.test_kernels import (
    ALL,
    HALVES,
    all_sorts,
    assert_same_values,
    by_name,
    empty_like,
    in_lanes,
    named,
    ordinary,
    words_for_kernels,
)
from tests.reference import (
    BF16,
    F16,
    F32,
    F64,
    Format,
    decode,
    encode,
    exact_dot,
    exact_sums,
    nearest,
    round_exactly,
    round_to,
)

Vector = tuple[Format, np.ndarray]
"""Words of a type."""


def in_turn(n: int, first: int = 0) -> list[Format]:
    """The given number of types, in turn."""
    return [ALL[(first + i) % len(ALL)] for i in range(n)]


def vectors(formats: Sequence[Format], n: int, seed: int = 0) -> list[Vector]:
    return [(format, ordinary(format, n, seed=100 * seed + i)) for i, format in enumerate(formats)]


def words_of(vectors: Sequence[Vector]) -> list[np.ndarray]:
    return [words for _, words in vectors]


def values_of(vectors: Sequence[Vector]) -> list[np.ndarray]:
    return [decode(words, format) for format, words in vectors]


def as_words(numbers: Sequence[float], format: Format) -> Vector:
    """Numbers that the type holds exactly."""
    return format, words_for_kernels(encode(np.array(numbers), format), format)


# The reference.


@named("format", ALL, **by_name)
def test_both_references_round_alike(format):
    values = decode(all_sorts(format, 40, seed=1), format)
    ties = [Fraction(x) * (1 + Fraction(1, 2 ** (format.fraction_bits + 1))) for x in values.tolist()]
    beside = [tie * (1 + Fraction(sign, 2**70)) for tie in ties for sign in (-1, 1)]
    for value in [*ties, *beside]:
        assert nearest(value, format) == round_exactly(value, format)


def test_the_reference_adds_without_rounding():
    found = exact_sums(
        [np.array([1e300, 1.0]), np.array([-1e300, 3.0]), np.array([5e-324, 0.5])], [1, 1, 0.5]
    )
    assert found == [Fraction(5e-324) / 2, Fraction(17, 4)]


# Gram matrices.


@named("n", range(1, 10))
def test_gram_matrices_of_any_number_of_vectors(n):
    size = 1301
    of = vectors(in_turn(n), size)
    found = kernels.gram(words_of(of))
    assert (found.shape, found.dtype) == ((n * (n + 1) // 2,), np.float64)
    pairs = list(combinations_with_replacement(values_of(of), 2))
    assert found.tolist() == in_lanes(*(x * y for x, y in pairs))
    steps = -(-size // (ROWS * LANES)) + ROWS + LANES.bit_length()
    for product, (x, y) in zip(found, pairs, strict=True):
        assert abs(product - exact_dot(x, y)) <= steps * 2.0**-53 * exact_dot(abs(x), abs(y))


@named("n", [1, 3, 9])
def test_gram_matrices_of_nothing_are_zero(n):
    assert kernels.gram([np.empty(0, np.float32)] * n).tolist() == [0.0] * (n * (n + 1) // 2)


# Weighted sums.


def assert_nearest(of: Sequence[Vector], factors: Sequence[float], out_format: Format) -> None:
    """The exact sum, rounded once; the words are not modified."""
    before = [words.copy() for words in words_of(of)]
    out = empty_like(of[0][1], out_format)
    n_bad = kernels.weighted_sum(words_of(of), factors, out)
    expected = np.array([nearest(total, out_format) for total in exact_sums(values_of(of), factors)])
    np.testing.assert_array_equal(decode(out, out_format), expected)
    assert n_bad == np.count_nonzero(np.isinf(expected))
    for words, kept in zip(words_of(of), before, strict=True):
        np.testing.assert_array_equal(words, kept)


def sorts(format: Format, n: int, seed: int) -> np.ndarray:
    """Words of random bits; in float64, those whose products neither overflow nor underflow."""
    words = all_sorts(format, n, seed)
    if format is F64:
        values = np.abs(words)
        words = words[(values > 1e-200) & (values < 1e200)]
    return np.random.default_rng(seed).permutation(words)[:n]


@named("out_format", ALL, **by_name)
@named("format", ALL, **by_name)
def test_one_vector_is_multiplied_and_rounded(format, out_format):
    words = np.concatenate([ordinary(format, 300, seed=1), all_sorts(format, 300, seed=2)])
    out = empty_like(words, out_format)
    n_bad = kernels.weighted_sum([words], [0.7], out)
    with np.errstate(over="ignore"):
        expected = round_to(0.7 * decode(words, format), out_format)
    assert_same_values(decode(out, out_format), expected)
    assert n_bad == np.count_nonzero(np.isinf(expected))
    same = np.empty_like(words)
    assert kernels.weighted_sum([words], [1.0], same) == 0
    np.testing.assert_array_equal(same.view(format.word), words.view(format.word))


@named("out_format", ALL, **by_name)
@named("formats", list(combinations_with_replacement(ALL, 3)), ids=lambda of: "-".join(f.name for f in of))
def test_sums_of_three_are_the_nearest_of_their_type(formats, out_format):
    of = vectors(formats, 200)
    assert_nearest(of, [0.3, 0.25, 0.45], out_format)
    if out_format is F64:
        return
    rare = [(format, sorts(format, 100, seed=i)) for i, format in enumerate(formats)]
    assert_nearest(rare, [0.3, -1.7, 0.45], out_format)


@named("out_format", ALL, **by_name)
@named("first", range(4))
def test_sums_of_eight_are_the_nearest_of_their_type(first, out_format):
    factors = np.random.default_rng(first).normal(0, 1, 8).tolist()
    assert_nearest(vectors(in_turn(8, first), 300), factors, out_format)
    same = [ALL[first]] * 8
    assert_nearest(vectors(same, 300), [1 / 8] * 8, out_format)
    if out_format is not F64:
        assert_nearest([(f, sorts(f, 100, seed=i)) for i, f in enumerate(same)], factors, out_format)


@named("format", [BF16, F16, F32], **by_name)
def test_a_float64_sum_of_numbers_of_very_different_size_is_off_by_a_unit_at_most(format):
    """Its own digits are among the last that are kept."""
    of = [(format, sorts(format, 3000, seed=i)) for i in range(3)]
    factors = [0.3, -1.7, 0.45]
    out = empty_like(of[0][1], F64)
    kernels.weighted_sum(words_of(of), factors, out)
    expected = np.array([nearest(total, F64) for total in exact_sums(values_of(of), factors)])
    assert (np.abs(out - expected) <= np.spacing(np.abs(expected))).all()
    assert np.count_nonzero(out != expected) <= 30


@named("out_format", ALL, **by_name)
@named("first", range(4))
def test_the_order_of_three_or_more_does_not_matter(first, out_format):
    for n in (3, 4, 8):
        formats = in_turn(n, first)
        of = [
            (format, np.concatenate([ordinary(format, 500, seed=i), sorts(format, 400, seed=i)]))
            for i, format in enumerate(formats)
        ]
        factors = np.random.default_rng(n).normal(0, 1, n).tolist()
        found = set()
        orders = list(permutations(range(n)))
        for order in (orders[0], orders[len(orders) // 3], orders[-2], orders[-1]):
            out = empty_like(of[0][1], out_format)
            kernels.weighted_sum([of[i][1] for i in order], [factors[i] for i in order], out)
            found.add(out.tobytes())
        assert len(found) == 1


@named("format", HALVES, **by_name)
def test_ties_go_to_the_even_neighbour_and_the_least_more_decides(format):
    """The third term is lost in a float64 sum."""
    words = np.concatenate([np.arange(1, 300), np.arange(300, format.infinity - 1, 53)]).astype(np.uint16)
    magnitudes, above = decode(words, format), decode(words + np.uint16(1), format)
    half = (above - magnitudes) / 2
    for tiny in (0.0, 2.0**-140, -(2.0**-140)):
        of = [as_words(magnitudes, format), as_words(half, F64), (F64, np.full(half.size, tiny))]
        assert_nearest(of, [1.0, 1.0, 1.0], format)
        assert_nearest(of[::-1], [1.0, 1.0, 1.0], format)
        assert_nearest([of[1], of[2], of[0]], [-1.0, -1.0, -1.0], format)


def test_ties_of_float32():
    unit = 2.0**-23
    numbers = 1 + unit * np.arange(64)
    for tiny in (0.0, 2.0**-70, -(2.0**-70)):
        of = [(F64, numbers), (F64, np.full(64, unit / 2)), (F64, np.full(64, tiny))]
        assert_nearest(of, [1.0, 1.0, 1.0], F32)


@named("out_format", ALL, **by_name)
@named("format", ALL, **by_name)
def test_what_cancels_leaves_the_rest(format, out_format):
    a, c = ordinary(format, 400, seed=1), ordinary(format, 400, seed=2)
    small = round_to(decode(c, format) * 2.0**-9, format)
    of = [(format, a), as_words(small, format), (format, a)]
    for factors in ([1.0, 1.0, -1.0], [0.3, 1.0, -0.3], [1 / 3, 0.7, -1 / 3]):
        assert_nearest(of, factors, out_format)
        assert_nearest(of[::-1], factors[::-1], out_format)


@named("format", [BF16, F16, F32], **by_name)
def test_subnormal_numbers_are_added_exactly(format):
    normal = 1 << format.fraction_bits
    words = np.random.default_rng(1).integers(0, normal, (3, 400), format.word)
    of = [(format, words_for_kernels(each, format)) for each in words]
    for out_format in (format, F32, F64):
        assert_nearest(of, [0.3, 0.3, 0.4], out_format)
        assert_nearest(of, [0.9, -0.7, 0.6], out_format)


@named("n", [1, 2, 3, 8])
@named("format", ALL, **by_name)
def test_elements_that_overflow_are_counted(format, n):
    top = format.largest
    numbers = [top, -top, top / 2, 1.0, 0.0, top]
    of = [as_words(numbers, format)] * n
    out = empty_like(of[0][1], format)
    assert kernels.weighted_sum(words_of(of), [1.25 / n] * n, out) == 3
    found = decode(out, format)
    assert np.isfinite(found).tolist() == [False, False, True, True, True, False]
    assert kernels.weighted_sum(words_of(of), [1.0 / n] * n, out) == 0
    np.testing.assert_array_equal(decode(out, format), numbers)


@named("bad", [np.nan, np.inf, -np.inf], ids=str)
@named("n", [1, 2, 3, 8])
@named("format", ALL, **by_name)
def test_elements_that_are_not_finite_are_counted(format, n, bad):
    of = vectors([format] * n, 50)
    of[-1][1].view(format.word)[17] = encode(np.array([bad]), format)[0]
    out = empty_like(of[0][1], format)
    assert kernels.weighted_sum(words_of(of), [1 / n] * n, out) == 1
    assert np.flatnonzero(~np.isfinite(decode(out, format))).tolist() == [17]


# Many small sets.

SIZES = [3, 0, 1, 255, 256, 700, 5]


def table_of(sets: Sequence[Sequence[Vector]], outs: Sequence[np.ndarray] = (), out: str = "") -> Table:
    rows = [
        [
            of[0][1].size,
            *(words.ctypes.data for words in words_of(of)),
            *(o.ctypes.data for o in outs[i : i + 1]),
        ]
        for i, of in enumerate(sets)
    ]
    dtypes = [BY_NAME[format.name].word for format, _ in sets[0]]
    return Table(np.array(rows, np.int64), (*dtypes, *([out] if out else [])))


@named("n", [1, 2, 3, 9])
def test_gram_matrices_of_many_sets_are_those_of_each(n):
    sets = [vectors(in_turn(n), size, seed=size) for size in SIZES]
    found = kernels.gram_of_many(table_of(sets))
    assert found.shape == (len(SIZES), n * (n + 1) // 2)
    for row, of in zip(found, sets, strict=True):
        assert row.tobytes() == kernels.gram(words_of(of)).tobytes()


@named("out_format", ALL, **by_name)
@named("n", [1, 2, 3, 8])
def test_sums_of_many_sets_are_those_of_each(n, out_format):
    sets = [vectors(in_turn(n), size, seed=size) for size in SIZES]
    sets[3][0][1].view(sets[3][0][0].word)[7] = encode(np.array([np.inf]), sets[3][0][0])[0]
    factors = np.random.default_rng(n).normal(0, 1, (len(SIZES), n))
    dtype = BY_NAME[out_format.name].word
    outs = [np.zeros(size + 2, dtype) for size in SIZES]  # two more, which must not be written
    n_bad = kernels.weighted_sums_of_many(table_of(sets, outs, dtype), factors)
    for of, of_one, out, count in zip(sets, factors.tolist(), outs, n_bad.tolist(), strict=True):
        expected = empty_like(of[0][1], out_format)
        assert kernels.weighted_sum(words_of(of), of_one, expected) == count
        assert out[:-2].tobytes() == expected.tobytes()
        assert not out[-2:].any()
    assert n_bad.tolist() == [0, 0, 0, 1, 0, 0, 0]


def test_factors_that_the_compiled_code_would_misread_are_refused():
    sets = [vectors([BF16, BF16], 4)]
    out = np.zeros(4, np.uint16)
    table = table_of(sets, [out], "uint16")
    for factors in (np.ones((1, 4))[:, ::2], np.ones((1, 2), np.float32)):
        with pytest.raises(ValueError, match="needed: float64, contiguous"):
            kernels.weighted_sums_of_many(table, factors)
    assert not out.any()


def test_a_table_of_nothing():
    table = Table(np.empty((0, 3), np.int64), ("float32", "float32"))
    assert kernels.gram_of_many(table).shape == (0, 3)
    table = Table(np.empty((0, 3), np.int64), ("float32", "float32"))
    assert kernels.weighted_sums_of_many(table, np.empty((0, 1))).tolist() == []
