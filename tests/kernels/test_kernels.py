"""The compiled sums against the reference, for all combinations of types; and what calls of kernels check."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import product
from math import fsum

import numpy as np
import pytest
import torch

from fusion_slerp import kernels
from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.dtypes import BY_NAME
from fusion_slerp.kernels import compiler
from fusion_slerp.kernels.building import LANES, ROWS
from tests.reference import (
    BF16,
    F16,
    F32,
    FORMATS,
    Format,
    decode,
    encode,
    exact_dot,
    round_exactly,
    round_to,
    ulp_error,
)

ALL = list(FORMATS.values())
HALVES = [BF16, F16]
named = pytest.mark.parametrize
by_name = {"ids": lambda format: format.name}


def words_for_kernels(words: np.ndarray, format: Format) -> np.ndarray:
    return words.view(BY_NAME[format.name].word)


def ordinary(format: Format, n: int, seed: int) -> np.ndarray:
    """Words of values like a model's weights."""
    values = np.random.default_rng(seed).normal(0, 0.02, n)
    return words_for_kernels(encode(round_to(values, format), format), format)


def all_sorts(format: Format, n: int, seed: int) -> np.ndarray:
    """Finite words with uniformly random bits, after the limits of the type, with both signs."""
    words = np.random.default_rng(seed).integers(0, format.infinity, n, format.word)
    normal = 1 << format.fraction_bits
    borders = [0, 1, normal - 1, normal, normal + 1, format.infinity - 1, format.bias << format.fraction_bits]
    words[: len(borders)] = borders
    sign = format.word.type(1) << format.word.type(8 * format.word.itemsize - 1)
    return words_for_kernels(np.concatenate([words, words | sign]), format)


def empty_like(words: np.ndarray, format: Format) -> np.ndarray:
    return np.empty(words.size, BY_NAME[format.name].word)


def assert_same_values(result: np.ndarray, expected: np.ndarray) -> None:
    """Equal values, infinities and signs of zero included."""
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(np.signbit(result), np.signbit(expected))


# The reference itself.


@named("format", ALL, **by_name)
def test_reference_rounding_agrees_with_exact_fractions(format):
    words = all_sorts(format, 60, seed=1)
    values = decode(words[:60], format)
    values = values[values < 1e308]
    between = values * (1 + 2.0 ** -(format.fraction_bits + 1))
    inputs = np.concatenate([values, between, np.nextafter(between, np.inf), np.nextafter(between, 0)])
    inputs = np.concatenate([inputs, -inputs])
    expected = np.array([round_exactly(Fraction(float(x)), format) for x in inputs])
    np.testing.assert_array_equal(round_to(inputs, format), expected)
    assert (ulp_error(expected, inputs, format)[np.isfinite(expected)] <= 0.5).all()


@named("format", ALL, **by_name)
def test_reference_reads_words_as_torch_does(format):
    words = all_sorts(format, 5000, seed=2)
    signed = words.view(f"int{8 * words.itemsize}").copy()
    theirs = torch.from_numpy(signed).view(getattr(torch, format.name)).double().numpy()
    assert_same_values(decode(words, format), theirs)
    np.testing.assert_array_equal(encode(theirs, format), words.view(format.word))


# Measuring.


def in_lanes(*terms: np.ndarray) -> list[float]:
    """Sums in the documented order: rows of 64 lanes, four rows at a time, then the lanes pairwise."""
    sums = []
    for term in terms:
        padded = np.zeros(-(-term.size // LANES) * LANES)
        padded[: term.size] = term
        rows = padded.reshape(-1, LANES)
        n_together = term.size // LANES // ROWS * ROWS
        lanes = np.zeros(LANES)
        for first, second, third, fourth in rows[:n_together].reshape(-1, ROWS, LANES):
            lanes += first + second + third + fourth
        for row in rows[n_together:]:
            lanes += row
        while lanes.size > 1:
            lanes = lanes[: lanes.size // 2] + lanes[lanes.size // 2 :]
        sums.append(float(lanes[0]))
    return sums


@named("format_b", ALL, **by_name)
@named("format_a", ALL, **by_name)
def test_gram_sums_exactly_the_float64_products_in_lanes(format_a, format_b):
    a, b = ordinary(format_a, 1301, seed=3), ordinary(format_b, 1301, seed=4)
    x, y = decode(a, format_a), decode(b, format_b)
    assert kernels.gram((a, b)).tolist() == in_lanes(x * x, x * y, y * y)


@named("format_base", ALL, **by_name)
@named("format_a", ALL, **by_name)
def test_gram_of_differences_sums_exactly_the_float64_products_in_lanes(format_a, format_base):
    a, b = ordinary(format_a, 1301, seed=3), ordinary(BF16, 1301, seed=4)
    base = ordinary(format_base, 1301, seed=5)
    d, e = (decode(w, format) - decode(base, format_base) for w, format in ((a, format_a), (b, BF16)))
    assert kernels.gram_of_differences((a, b, base)).tolist() == in_lanes(d * d, d * e, e * e)
    assert kernels.gram_of_differences((a, base)).tolist() == in_lanes(d * d)


@named("n_models", [1, 2, 3, 5])
def test_many_grams_of_differences_are_those_of_each(n_models):
    sets = [[ordinary(F32, 40 + i, seed=9 * i + k) for k in range(n_models + 1)] for i in range(4)]
    rows = np.array([[of[0].size, *(each.ctypes.data for each in of)] for of in sets], np.int64)
    table = kernels.Table(rows, ("float32",) * (n_models + 1))
    found = kernels.gram_of_many(table, is_relative=True)
    assert found.tolist() == [kernels.gram_of_differences(of).tolist() for of in sets]
    assert found.shape == (4, n_models * (n_models + 1) // 2)


@named("format_b", ALL, **by_name)
@named("format_a", ALL, **by_name)
def test_chords_sums_exactly_in_lanes(format_a, format_b):
    a, b = ordinary(format_a, 1301, seed=5), ordinary(format_b, 1301, seed=6)
    inverse_a, inverse_b = 1 / 0.6421, 1 / 0.6377
    u, v = decode(a, format_a) * inverse_a, decode(b, format_b) * inverse_b
    expected = in_lanes((u - v) * (u - v), (u + v) * (u + v))
    assert kernels.chords(a, b, inverse_a, inverse_b).tolist() == expected


@named("n", [0, 1, 255, 256, 257, 511, 512, 513, 4099])
def test_gram_is_close_to_the_exact_sums_at_every_length(n):
    a, b = ordinary(BF16, n, seed=7), ordinary(BF16, n, seed=8)
    x, y = decode(a, BF16), decode(b, BF16)
    for found, (p, q) in zip(kernels.gram((a, b)), [(x, x), (x, y), (y, y)], strict=True):
        steps = -(-n // (ROWS * LANES)) + ROWS + LANES.bit_length()
        assert abs(found - exact_dot(p, q)) <= steps * 2.0**-53 * exact_dot(abs(p), abs(q))
    chords = kernels.chords(a, b, 1.0, 1.0)
    assert chords == pytest.approx([np.sum((x - y) ** 2), np.sum((x + y) ** 2)], rel=1e-14)


def test_sums_of_chunks_add_up_in_any_order():
    n = 2 * CHUNK_ELEMENTS + 12345
    a, b = ordinary(F32, n, seed=9), ordinary(F32, n, seed=10)
    starts = [0, CHUNK_ELEMENTS, 2 * CHUNK_ELEMENTS]
    sums = [kernels.gram((a[s : s + CHUNK_ELEMENTS], b[s : s + CHUNK_ELEMENTS])) for s in starts]
    totals = {tuple(fsum(sums[i][k] for i in order) for k in range(3)) for order in ([0, 1, 2], [2, 0, 1])}
    assert len(totals) == 1
    x, y = a.astype(np.float64), b.astype(np.float64)  # products of two float32 are exact in float64
    exact = fsum(x * x), fsum(x * y), fsum(y * y)
    assert totals.pop() == pytest.approx(exact, rel=1e-14, abs=1e-14 * exact[0])


@named("bad", [np.nan, np.inf, -np.inf], ids=str)
@named("side", ["a", "b"])
@named("format", ALL, **by_name)
def test_one_element_that_is_not_finite_makes_the_sums_not_finite(format, side, bad):
    a, b = ordinary(format, 600, seed=11), ordinary(format, 600, seed=12)
    for place in (0, 300, 599):
        spoilt = (a if side == "a" else b).copy()
        spoilt.view(format.word)[place] = encode(np.array([bad]), format)[0]
        aa, ab, bb = kernels.gram((spoilt, b) if side == "a" else (a, spoilt))
        assert not np.isfinite(ab)
        assert not np.isfinite(aa if side == "a" else bb)
        assert np.isfinite(bb if side == "a" else aa)


# Combining.


@named(
    ("format_a", "format_b", "format_out"),
    list(product(ALL, ALL, ALL)),
    ids=lambda format: format.name,
)
def test_a_weighted_sum_of_two_rounds_the_float64_formula_once(format_a, format_b, format_out):
    a, b = ordinary(format_a, 800, seed=13), ordinary(format_b, 800, seed=14)
    rare_a, rare_b = all_sorts(format_a, 400, seed=15), all_sorts(format_b, 400, seed=16)
    a, b = np.concatenate([a, rare_a]), np.concatenate([b, rare_b])
    kept = a.copy(), b.copy()
    out = empty_like(a, format_out)
    s0, s1 = 0.8137, 0.2961
    overflowed = kernels.weighted_sum((a, b), (s0, s1), out)
    with np.errstate(over="ignore"):
        exact = s0 * decode(a, format_a) + s1 * decode(b, format_b)
    expected = round_to(exact, format_out)
    assert_same_values(decode(out, format_out), expected)
    assert overflowed == np.count_nonzero(np.isinf(expected))
    np.testing.assert_array_equal(a, kept[0])
    np.testing.assert_array_equal(b, kept[1])


def test_a_weighted_sum_of_nothing_writes_nothing():
    none = np.empty(0, np.uint16)
    for n in (1, 2, 3):
        assert kernels.weighted_sum([none] * n, [0.5] * n, none) == 0


@named("format", HALVES, **by_name)
def test_overflow_is_counted_element_by_element(format):
    largest = format.largest
    values = np.array([largest, largest, -largest, 1.0, 0.0, largest])
    a = words_for_kernels(encode(values, format), format)
    out = empty_like(a, format)
    assert kernels.weighted_sum((a, a), (0.6, 0.6), out) == 4
    expected = [np.inf, np.inf, -np.inf, 1.2, 0.0, np.inf]
    np.testing.assert_array_equal(decode(out, format), round_to(np.array(expected), format))
    assert kernels.weighted_sum((a, a), (0.5, 0.5), out) == 0


# The border between numpy and the compiled code.


@pytest.fixture
def nothing_compiled() -> Iterator[None]:
    """Kernels are compiled again at their next use, in this test and after it."""
    compiler._functions.clear()
    yield
    compiler._functions.clear()


@named("spoil", [lambda out: out[:-1], lambda out: np.repeat(out, 2)[::2]], ids=["shorter", "strided"])
def test_arrays_that_the_compiled_code_would_overrun_are_refused(spoil):
    a = ordinary(BF16, 600, seed=20)
    with pytest.raises(ValueError, match="contiguous"):
        kernels.weighted_sum((a, a), (0.5, 0.5), spoil(np.zeros_like(a)))
    with pytest.raises(ValueError, match="contiguous"):
        kernels.gram((a, spoil(a)))


@named("factors", [(0.5,), (0.5, 0.5, 0.0), ()], ids=str)
def test_a_sum_has_one_factor_for_each_vector(factors):
    a = ordinary(BF16, 600, seed=20)
    out = np.empty_like(a)
    with pytest.raises(ValueError, match=r"factors of shape .*needed: \(1, 2\)"):
        kernels.weighted_sum((a, a), factors, out)
    table = kernels.table_of("weighted_sum", (a, a, out))
    with pytest.raises(ValueError, match=r"needed: \(1, 2\)"):
        kernels.weighted_sums_of_many(table, np.array([factors], np.float64))


@pytest.mark.usefixtures("nothing_compiled")
def test_many_threads_may_be_the_first_to_need_a_kernel(monkeypatch):
    compiled, compile_one = [], compiler._function
    monkeypatch.setattr(compiler, "_function", lambda *of: compiled.append(of) or compile_one(*of))
    a, b = ordinary(F16, 5000, seed=21), ordinary(F32, 5000, seed=22)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(kernels.gram, (a, b)) for _ in range(32)]
    assert {future.result().tobytes() for future in asked} == {kernels.gram((a, b)).tobytes()}
    assert len(compiled) == 1


@pytest.mark.usefixtures("nothing_compiled")
def test_a_kernel_that_could_not_be_compiled_is_tried_again(monkeypatch):
    a = ordinary(F32, 50, seed=21)
    with monkeypatch.context() as patched:
        patched.setattr(compiler, "_machine", lambda: 1 / 0)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                kernels.gram((a, a))
    assert kernels.gram((a, a)).shape == (3,)
