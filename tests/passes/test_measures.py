"""Each measure: parts joined in any order give the same bits; columns are measured like vectors."""

from collections.abc import Sequence
from functools import reduce
from math import acos, degrees, fsum, nan, pi, sqrt
from typing import Any

import numpy as np
import pytest

from fusion_slerp.dtypes import BY_NAME
from fusion_slerp.kernels import Words
from fusion_slerp.passes.blocks import BLOCK_ELEMENTS, blocks_of
from fusion_slerp.passes.chords import Chords
from fusion_slerp.passes.gram import Gram, gram_matrix, scaled
from fusion_slerp.passes.magnitude import LargestMagnitude
from fusion_slerp.passes.protocols import NotFiniteError
from tests.reference import F64, FORMATS, Format, decode, encode, round_to

WIDTH = 6


def words(values: np.ndarray, format: Format) -> np.ndarray:
    return encode(round_to(values.reshape(-1), format), format).view(BY_NAME[format.name].word)


def chunks(n_sources: int, n_chunks: int = 5, scale: float = 1.0) -> list[Words]:
    """Whole rows of matrices, of very different magnitudes and of all types in turn."""
    rng = np.random.default_rng(4)
    formats = [*FORMATS.values()][:n_sources] if scale == 1.0 else [F64] * n_sources
    return [
        [words(rng.normal(0, 0.02 * 4.0**k, (7 + k, WIDTH)) * scale, format) for format in formats]
        for k in range(n_chunks)
    ]


ONE, TWO = (1.3, 0.7), (3, -5)
MEASURES = {
    "gram": (Gram(), 4, 1.0),
    "gram, scaled": (Gram(TWO), 2, 1e200),
    "chords": (Chords(ONE), 2, 1.0),
    "chords, scaled": (Chords(ONE, (660, 662)), 2, 1e200),
    "magnitude": (LargestMagnitude(), 4, 1.0),
    "gram of columns": (Gram.of_columns([Gram()] * WIDTH), 4, 1.0),
    "gram of columns, some scaled": (Gram.of_columns([Gram(), None, Gram((660, 660))] * 2), 2, 1e200),
    "chords of columns": (Chords.of_columns([Chords(ONE), None, Chords((2.0, 2.0))] * 2), 2, 1.0),
    "chords of columns, scaled": (Chords.of_columns([Chords(ONE, (660, 660))] * WIDTH), 2, 1e200),
    "gram of differences": (Gram(is_relative=True), 4, 1.0),
    "gram of differences, scaled": (Gram((660,) * 3, True), 3, 1e200),
    "chords of differences": (Chords(ONE, is_relative=True), 3, 1.0),
    "gram of columns of differences": (Gram.of_columns([Gram((), True)] * WIDTH), 3, 1.0),
    "chords of columns of differences": (Chords.of_columns([Chords(ONE, (), True), None] * 3), 3, 1.0),
    "magnitude of columns": (LargestMagnitude.of_columns([LargestMagnitude(), None, None] * 2), 4, 1.0),
}


def bits(value: Any) -> bytes | Any:
    """A value's numbers with all their digits."""
    return repr(value)


@pytest.mark.parametrize(("measure", "n_sources", "scale"), MEASURES.values(), ids=MEASURES)
def test_parts_are_joined_in_any_order(measure, n_sources, scale):
    every = chunks(n_sources, scale=scale)
    found = set()
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3], [3, 4, 0, 2, 1]):
        parts = [measure.part(every[i]) for i in order]
        found.add(bits(measure.value(reduce(lambda one, other: one.join(other), parts))))
        parts = [measure.part(every[i]) for i in order]  # as a tree: parts may be modified
        left, right = parts[0].join(parts[1]), parts[2].join(parts[3].join(parts[4]))
        found.add(bits(measure.value(right.join(left))))
    assert len(found) == 1


@pytest.mark.parametrize(("measure", "n_sources", "scale"), MEASURES.values(), ids=MEASURES)
def test_measures_are_values_and_leave_the_words_alone(measure, n_sources, scale):
    hash(measure)
    (of_one,) = chunks(n_sources, 1, scale)
    kept = [each.copy() for each in of_one]
    measure.part(of_one)
    for each, before in zip(of_one, kept, strict=True):
        np.testing.assert_array_equal(each, before)


# Values.


def column(of_chunks: Sequence[Words], j: int) -> list[Words]:
    return [[np.ascontiguousarray(each.reshape(-1, WIDTH)[:, j]) for each in words] for words in of_chunks]


def measured(measure: Any, of_chunks: Sequence[Words]) -> Any:
    return measure.value(reduce(lambda one, other: one.join(other), map(measure.part, of_chunks)))


def integers(n_sources: int = 2, scale: int = 0) -> list[Words]:
    """Numbers whose sums are exact in any order, times a power of two."""
    rng = np.random.default_rng(5)
    return [
        [np.ldexp(rng.integers(-50, 50, 7 * WIDTH).astype("f8"), scale) for _ in range(n_sources)]
        for _ in range(3)
    ]


@pytest.mark.parametrize("n_sources", [1, 2, 3, 5])
def test_columns_have_the_gram_matrices_of_vectors(n_sources):
    every = integers(n_sources)
    found = measured(Gram.of_columns([Gram()] * WIDTH), every)
    assert found == [measured(Gram(), column(every, j)) for j in range(WIDTH)]
    whole = measured(Gram(), every)
    assert whole.n == n_sources
    assert whole.products == tuple(map(sum, zip(*(each.products for each in found), strict=True)))


@pytest.mark.parametrize("scale", [0, 600, -600])
@pytest.mark.parametrize("n_sources", [2, 3, 4])
def test_differences_from_the_last_source_are_measured_as_they_are(n_sources, scale):
    every = integers(n_sources, scale)
    exponents = (scale,) * n_sources if scale else ()
    relative = [[each - words[-1] for each in words[:-1]] for words in every]
    gram = measured(Gram(exponents, True), every)
    assert gram == measured(Gram(exponents[:-1]), relative)
    assert gram.n == n_sources - 1
    assert [gram.exponents] * WIDTH == [
        each.exponents for each in measured(Gram.of_columns([Gram(exponents, True)] * WIDTH), every)
    ]
    of_columns = measured(Gram.of_columns([Gram(exponents, True), None] * 3), every)
    for j in range(0, WIDTH, 2):
        assert of_columns[j] == measured(Gram(exponents[:-1]), column(relative, j))


@pytest.mark.parametrize("scale", [0, 600, -600])
def test_the_angle_of_differences_is_that_of_two_vectors(scale):
    every = integers(3, scale)
    exponents = (scale,) * 3 if scale else ()
    relative = [[each - words[-1] for each in words[:-1]] for words in every]
    norms = measured(Gram(exponents, True), every).measured_norms
    assert measured(Chords(norms, exponents, True), every) == measured(
        Chords(norms, exponents[:-1]), relative
    )
    asked = []
    for j in range(WIDTH):
        of_column = measured(Gram(exponents, True), column(every, j)).measured_norms
        asked.append(Chords(of_column, exponents, True))
    for j, angles in enumerate(measured(Chords.of_columns(asked), every)):
        assert angles == pytest.approx(measured(asked[j], column(every, j)), rel=1e-15)


def test_differences_keep_their_digits():
    """Expanded to inner products of the sources, they would lose six digits of 16 here."""
    rng = np.random.default_rng(8)
    base = rng.normal(0, 1, 5000)
    of = [base + 1e-3 * rng.normal(0, 1, 5000) for _ in range(2)]
    gram = measured(Gram(is_relative=True), [[*of, base]])
    d, e = (each - base for each in of)
    exact = [fsum((x * y).tolist()) for x, y in ((d, d), (d, e), (e, e))]
    assert gram.products == pytest.approx(exact, rel=1e-14, abs=1e-14 * exact[0])


def test_columns_are_scaled_as_vectors_are():
    """Even if only some of them are, and others are not requested."""
    every = integers(scale=600)
    asked = [Gram((600, 601)), None, Gram((605, 600)), Gram((600, 600)), None, Gram((599, 600))]
    found = measured(Gram.of_columns(asked), every)
    for j, measure in enumerate(asked):
        if measure is not None:
            assert found[j] == measured(measure, column(every, j))
            assert found[j].is_finite
            assert found[j].exponents == measure.exponents


@pytest.mark.parametrize("scale", [0, 600, 1016, -600, -1060])
def test_columns_have_the_exponents_of_vectors(scale):
    every = integers(3, scale)
    found = measured(LargestMagnitude.of_columns([LargestMagnitude()] * WIDTH), every)
    assert found == [measured(LargestMagnitude(), column(every, j)) for j in range(WIDTH)]
    for j, exponents in enumerate(found):
        for i, exponent in enumerate(exponents):
            largest = max(np.abs(words[i]).max() for words in column(every, j))
            assert 1 <= np.ldexp(largest, -exponent) < 2


@pytest.mark.parametrize("scale", [0, 600, 1017, -600, -1060])
def test_columns_have_the_angles_of_vectors(scale):
    every = integers(2, scale)
    asked = []
    for j in range(WIDTH):
        exponents = measured(LargestMagnitude(), column(every, j)) if scale else ()
        asked.append(Chords(measured(Gram(exponents), column(every, j)).measured_norms, exponents))
    for j, angles in enumerate(measured(Chords.of_columns(asked), every)):
        expected = measured(asked[j], column(every, j))
        assert angles == pytest.approx(expected, rel=1e-15)
        gram = measured(Gram(asked[j].exponents), column(every, j))
        assert angles == pytest.approx((acos(gram.cosine(0, 1)), pi - acos(gram.cosine(0, 1))), rel=1e-13)


def test_matrices_of_more_than_a_block():
    width = 40
    n = 3 * BLOCK_ELEMENTS // width * width
    rng = np.random.default_rng(6)
    of = [rng.integers(-50, 50, n).astype("f4") for _ in range(2)]
    blocks = list(blocks_of(of, width))
    assert len(blocks) > 3
    np.testing.assert_array_equal(np.concatenate([block[0] for block in blocks]), of[0].reshape(-1, width))
    found = measured(Gram.of_columns([Gram()] * width), [of])
    a, b = (each.reshape(-1, width).astype("f8") for each in of)
    assert [gram.products for gram in found] == list(
        zip((a * a).sum(0).tolist(), (a * b).sum(0).tolist(), (b * b).sum(0).tolist(), strict=True)
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
def test_magnitudes_refuse_what_is_not_finite(bad):
    every = integers()
    every[1][1][10] = bad
    for measure in (LargestMagnitude(), LargestMagnitude.of_columns([LargestMagnitude()] * WIDTH)):
        with pytest.raises(NotFiniteError):
            measured(measure, every)
    assert not measured(Gram(), every).is_finite
    of_columns = measured(Gram.of_columns([Gram()] * WIDTH), every)
    assert [gram.is_finite for gram in of_columns] == [j != 10 % WIDTH for j in range(WIDTH)]


# The Gram matrix.


def test_a_gram_matrix():
    a, b, c = np.array([3.0, 4.0]), np.array([0.0, 2.0]), np.zeros(2)
    gram = gram_matrix([x @ y for x, y in ((a, a), (a, b), (a, c), (b, b), (b, c), (c, c))])
    assert (gram.n, gram.is_finite, gram.norms, gram.measured_norms) == (3, True, (5, 2, 0), (5, 2, 0))
    assert (gram.product(0, 1), gram.product(1, 1), gram.product(2, 2)) == (8, 4, 0)
    assert gram.cosine(0, 1) == 0.8
    assert np.isnan(gram.cosine(0, 2))
    assert gram.angle_deg == pytest.approx(degrees(acos(0.8)))
    assert gram.product_exponents == (0,) * 6


def test_a_gram_matrix_of_scaled_vectors():
    gram = gram_matrix([4.0, 2.0, 9.0], (10, -3))
    assert (gram.measured_norms, gram.norms) == ((2, 3), (2048, 0.375))
    assert gram.product_exponents == (20, 7, -6)
    assert gram.cosine(0, 1) == pytest.approx(1 / 3)


def test_a_cosine_stays_in_its_range():
    x = 0.1
    assert gram_matrix([x * x, sqrt(x * x) * sqrt(x * x) * (1 + 1e-15), x * x]).cosine(0, 1) == 1.0
    assert gram_matrix([1.0, -1.0000000000000002, 1.0]).cosine(0, 1) == -1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=str)
def test_a_gram_matrix_that_is_not_finite(bad):
    for place in range(3):
        products = [1.0, 0.5, 1.0]
        products[place] = bad
        gram = gram_matrix(products)
        assert not gram.is_finite
        assert repr((*gram.norms, gram.cosine(0, 1), gram.angle_deg)) == repr((nan, nan, nan, None))


def test_sums_of_products_that_overflow_are_still_finite_matrices():
    assert gram_matrix([1.5e308, 1e308, 1.5e308]).is_finite


def test_scaling_is_exact_and_leaves_the_words_alone():
    of = [np.array([1.5e300, -3e299]), np.array([5e-324, 2e-310])]
    one, other = scaled(of, (996, -1060))
    np.testing.assert_array_equal(np.ldexp(one, 996), of[0])
    np.testing.assert_array_equal(np.ldexp(other, -1060), of[1])
    assert scaled(of, ()) is of
    half = decode(np.array([0x3C00, 0x4000], np.uint16), FORMATS["float16"])
    (found,) = scaled([np.array([0x3C00, 0x4000], np.int16)], (3,))
    np.testing.assert_array_equal(found, half / 8)
