"""From measurements to coefficients: the rules, their limits, and the accuracy of the angle."""

from functools import reduce
from math import cos, degrees, fsum, inf, nan, nextafter, pi, sin, sqrt

import numpy as np
import pytest

from fusion_slerp import kernels
from fusion_slerp.dtypes import BY_NAME
from fusion_slerp.kernels import Words
from fusion_slerp.methods.method import Unit
from fusion_slerp.methods.slerp import SLERP, SlerpParameters, coefficients, slerp
from fusion_slerp.passes.exact_sums import ExactSums
from fusion_slerp.passes.gram import Gram
from fusion_slerp.passes.protocols import Made, NotFiniteError, drive
from tests.reference import BF16, F16, F32, F64, FORMATS, Expected, Format, decode, encode, expect, round_to

ALL = list(FORMATS.values())
named = pytest.mark.parametrize

UNIT = Unit("w", 1000, 1000)
"""SLERP makes no use of it."""


def type_names(formats: object) -> str | None:
    """Names a test case by its types; leaves other values to pytest."""
    return formats.name if isinstance(formats, Format) else None


Factors = tuple[float, float, str, float | None]
"""Coefficients of a and b, the rule, and the angle in degrees."""


def factors(t: float, cosine: float, threshold: float = 0.9995, angles=None) -> Factors:
    """The coefficients of two vectors at an angle, of norms 2 and 3."""
    return coefficients(SlerpParameters(t, threshold, 1e-8), (2.0, 3.0), cosine, angles)


def words(values: object, format: Format) -> np.ndarray:
    rounded = round_to(np.asarray(values, np.float64), format)
    return encode(rounded, format).view(BY_NAME[format.name].word)


class Reader:
    """Two vectors in chunks, which counts how often they are read."""

    def __init__(self, a: np.ndarray, b: np.ndarray, chunk: int = 1000) -> None:
        self.a, self.b, self.chunk, self.passes = a, b, chunk, 0

    def __call__(self) -> list[Words]:
        self.passes += 1
        starts = range(0, max(self.a.size, 1), self.chunk)
        return [(self.a[s : s + self.chunk], self.b[s : s + self.chunk]) for s in starts]


def found(t: float, a: np.ndarray, b: np.ndarray, threshold: float = 0.9995, epsilon: float = 1e-8) -> Made:
    return drive(slerp(SlerpParameters(t, threshold, epsilon), UNIT), Reader(a, b))


def factors_of(made: Made) -> Factors:
    return (*made.combine.coefficients, made.rule, made.angle_deg)


def assert_close(made: Made, expected: Expected) -> None:
    s0, s1, rule, angle_deg = factors_of(made)
    assert rule == expected.rule
    assert abs(s0 - expected.s0) <= expected.slack0
    assert abs(s1 - expected.s1) <= expected.slack1
    if expected.angle is None:
        assert angle_deg is None
    else:
        assert angle_deg == pytest.approx(degrees(expected.angle), rel=1e-15, abs=2e-6)


# The formula.


def test_orthogonal_vectors():
    s0, s1, *rest = factors(0.5, 0.0)
    assert (s0, s1) == pytest.approx((sqrt(0.5), sqrt(0.5)), rel=1e-15)
    assert rest == ["slerp", 90.0]


def test_the_factors_sum_to_more_than_one():
    s0, s1, _, angle_deg = factors(0.5, 0.5)
    assert s0 + s1 == pytest.approx(2 / sqrt(3), rel=1e-15)  # 1.155
    assert angle_deg == pytest.approx(60.0, rel=1e-15)


@named("t", [5e-324, 1e-300, 1e-16, 0.1, 1 / 3, 0.5, 0.999, 1 - 2.0**-53])
@named("cosine", [0.9994, 0.9, 0.0, -0.5, -0.9994])
def test_the_result_keeps_to_the_great_circle(t, cosine):
    """The result of two unit vectors is a unit vector at t times the angle from the first."""
    s0, s1, *_ = factors(t, cosine)
    assert s0**2 + s1**2 + 2 * s0 * s1 * cosine == pytest.approx(1.0, rel=1e-11)
    theta = np.arccos(cosine)
    assert s0 + s1 * cosine == pytest.approx(cos(t * theta), abs=1e-12)
    assert s1 * sin(theta) == pytest.approx(sin(t * theta), rel=1e-12)


def test_near_its_ends_it_tends_to_the_parents():
    assert factors(2.0**-53, 0.3)[:2] == pytest.approx((1.0, 0.0), abs=1e-15)
    assert factors(1 - 2.0**-53, 0.3)[:2] == pytest.approx((0.0, 1.0), abs=1e-15)


@named("sign", [1, -1])
@named("threshold", [0.9995, 0.5, 0.99999])
def test_the_threshold_itself_still_gives_slerp(threshold, sign):
    rules = []
    for cosine in (nextafter(threshold, 0), threshold, nextafter(threshold, 1)):
        theta = float(np.arccos(sign * cosine))
        s0, s1, rule, _ = factors(0.3, sign * cosine, threshold, (theta, pi - theta))
        rules.append(rule)
        if rule != "slerp":
            assert (s0, s1) == (0.7, 0.3)
    assert rules == ["slerp", "slerp", f"lerp: nearly {'parallel' if sign > 0 else 'opposite'}"]


def test_threshold_zero_leaves_slerp_to_exactly_orthogonal_vectors():
    assert factors(0.5, 0.0, threshold=0.0)[2] == "slerp"
    assert factors(0.5, 1e-300, threshold=0.0)[2] == "lerp: nearly parallel"


@named("swapped", [False, True])
def test_a_vector_up_to_epsilon_is_null(swapped):
    epsilon = 2.0**-20
    for norm, rule in ((nextafter(epsilon, 0), "lerp"), (epsilon, "lerp"), (nextafter(epsilon, 1), "slerp")):
        norms = (1.0, norm) if swapped else (norm, 1.0)
        result = coefficients(SlerpParameters(0.3, 0.9995, epsilon), norms, 0.1)
        assert result[2].startswith(rule)
        if rule == "lerp":
            assert result == (0.7, 0.3, "lerp: zero vector", None)


# The rules, on real vectors.


@named("format", ALL, ids=type_names)
@named("null", ["a", "b", "both"])
def test_a_null_vector_is_interpolated_linearly(null, format):
    """Other tools assume 90 degrees and return 0.707 of the other vector."""
    a, b = np.array([3.0, 4.0, -1.0]), np.array([0.5, -2.0, 8.0])
    a, b = (a * 0 if null != "b" else a), (b * 0 if null != "a" else b)
    made = found(0.5, words(a, format), words(b, format))
    assert factors_of(made) == (0.5, 0.5, "lerp: zero vector", None)
    norm_a, norm_b = made.gram.norms
    assert (norm_a == 0, norm_b == 0) == (null != "b", null != "a")


def test_vectors_of_no_elements_are_null():
    none = np.empty(0, np.uint16)
    assert factors_of(found(0.25, none, none)) == (0.75, 0.25, "lerp: zero vector", None)


def test_tiny_vectors_below_epsilon_keep_their_length():
    """Other tools do not normalise these, assume 90 degrees, and return 1.414 of the parent."""
    tiny = words(np.array([1.0, 2.0, 2.0]) * 1e-9, F32)
    assert factors_of(found(0.5, tiny, tiny)) == (0.5, 0.5, "lerp: zero vector", None)
    assert found(0.5, tiny, tiny, epsilon=0.0).rule == "lerp: nearly parallel"


@named("threshold", [0.9995, 1.0])
@named("factor", [1.0, 2.0, 3.0, 1.7e-3])
@named("sign", [1, -1])
def test_parallel_and_opposite_vectors_are_interpolated_linearly(sign, factor, threshold):
    """Even at threshold 1: if the angle is 0 or π within float64 noise, there is no great circle."""
    a = np.random.default_rng(1).normal(0, 0.02, 3000)
    s0, s1, rule, angle_deg = factors_of(found(0.3, a, sign * factor * a, threshold))
    assert rule == f"lerp: nearly {'parallel' if sign > 0 else 'opposite'}"
    assert (s0, s1) == (0.7, 0.3)
    assert angle_deg == pytest.approx(0.0 if sign > 0 else 180.0, abs=2e-6)


# Accuracy.


@named("t", [0.5, 0.3, 0.999, 1e-9])
@named("angle", [1e-3, 0.05, 0.5, pi / 2, 2.5, pi - 0.05])
@named(("format_a", "format_b"), [(F32, F32), (BF16, F32), (F64, F64), (F16, BF16)], ids=type_names)
def test_coefficients_agree_with_50_digits(format_a, format_b, angle, t):
    a, b = at_angle(angle, format_a, format_b)
    x, y = decode(a, format_a), decode(b, format_b)
    assert_close(found(t, a, b), expect(t, x, y))


def at_angle(angle: float, format_a: Format, format_b: Format) -> tuple[np.ndarray, np.ndarray]:
    """Words of two vectors at about this angle, of unequal lengths."""
    rng = np.random.default_rng(2)
    a = rng.normal(0, 0.02, 2000)
    aside = rng.normal(0, 0.02, 2000)
    aside -= a * (a @ aside) / (a @ a)
    aside *= np.linalg.norm(a) / np.linalg.norm(aside)
    return words(a, format_a), words(1.5 * (cos(angle) * a + sin(angle) * aside), format_b)


@named("t", [0.5, 0.3])
@named("exponent", range(3, 13))
def test_threshold_one_means_slerp_down_to_the_smallest_angles(exponent, t):
    angle = 10.0**-exponent
    a, b = at_angle(angle, F64, F64)
    made, expected = found(t, a, b, threshold=1.0), expect(t, a, b, threshold=1.0)
    s0, s1, rule, angle_deg = factors_of(made)
    assert rule == expected.rule == "slerp"
    assert abs(s0 - expected.s0) < 4e-16
    assert abs(s1 - expected.s1) < 4e-16
    # The remaining float64 noise: about 1e-16 of angle.
    assert angle_deg == pytest.approx(degrees(expected.angle), rel=1e-14, abs=degrees(2e-16))


@named("t", [0.5, 0.3, 1e-6])
@named("exponent", range(3, 13))
def test_threshold_one_is_slerp_next_to_opposite_vectors(exponent, t):
    """The coefficients grow as the inverse of the supplement, and so does the effect of float64 noise."""
    missing = 10.0**-exponent
    a, b = at_angle(pi - missing, F64, F64)
    made, expected = found(t, a, b, threshold=1.0), expect(t, a, b, threshold=1.0)
    s0, s1, rule, _ = factors_of(made)
    assert rule == expected.rule == "slerp"
    noise = 1e-15 + 4e-16 / missing
    assert s0 == pytest.approx(float(expected.s0), rel=noise)
    assert s1 == pytest.approx(float(expected.s1), rel=noise)
    assert s1 > 0.5 * sin(pi * t) / missing


@named("format", [F32, F64], ids=type_names)
def test_chords_are_measured_only_above_the_angle_where_arccos_is_accurate(format):
    for angle, threshold, passes in ((0.02, 0.9995, 0), (0.02, 1.0, 1), (0.05, 1.0, 0), (0.02, 0.9997, 0)):
        a, b = at_angle(angle, format, format)
        reader, parameters = Reader(a, b), SlerpParameters(0.5, threshold, 1e-8)
        drive(slerp(parameters, UNIT), reader)
        assert reader.passes == 1 + passes
        certain, most = SLERP.passes(parameters)
        assert certain == 1 <= reader.passes <= most


@named("scale_a", [1.0, 1e200, 1e-200, 1e307, 5e-310])
@named("scale_b", [1.0, 1e160, 1e-160, 1e-300])
@named("threshold", [0.9995, 1.0])
@named("angle", [0.001, 1.0])
def test_float64_vectors_of_any_size_have_their_angle(angle, threshold, scale_a, scale_b):
    """No square overflows or underflows: each vector is scaled to about 1 before it is measured."""
    a, b = at_angle(angle, F64, F64)
    a, b = a * scale_a, b * scale_b
    expected = expect(0.3, a, b, threshold, epsilon=0.0)
    made = found(0.3, a, b, threshold, epsilon=0.0)
    assert_close(made, expected)
    norm_a, norm_b = made.gram.norms
    assert norm_a == pytest.approx(scale_a * np.linalg.norm(a / scale_a), rel=1e-12)
    assert norm_b == pytest.approx(scale_b * np.linalg.norm(b / scale_b), rel=1e-12)


def test_sums_that_overflow_only_when_the_chunks_are_added():
    a, b = at_angle(1.0, F64, F64)
    a, b = a * 1.2e154, b * 1.2e154
    sums = [kernels.gram(words) for words in Reader(a, b)()]
    assert np.isfinite(sums).all()
    assert np.isinf(sum(float(bb) for _, _, bb in sums))
    assert_close(found(0.3, a, b), expect(0.3, a, b))


def test_a_huge_float64_vector_and_an_ordinary_one_of_another_type():
    huge, small = np.array([1e200, 1e200, 0.0]), np.array([1.0, 0.0, 0.0])
    for format in (BF16, F16, F32):
        for swapped in (False, True):
            a, b = (words(small, format), huge) if swapped else (huge, words(small, format))
            made = found(0.5, a, b)
            assert (made.rule, made.angle_deg) == ("slerp", pytest.approx(45.0))


def test_a_null_vector_beside_a_huge_one():
    made = found(0.5, np.array([1e200, 1.0]), np.array([1e-9, 0.0]))
    assert factors_of(made) == (0.5, 0.5, "lerp: zero vector", None)
    assert made.gram.norms == (1e200, 1e-9)


# Symmetry, order, and elements that are not numbers.


@named("t", [0.25, 0.5, 0.75, 1 - 2.0**-10])
@named(("format_a", "format_b"), [(F32, F32), (BF16, F64), (F16, BF16)], ids=type_names)
def test_swapping_the_parents_and_t_changes_nothing(format_a, format_b, t):
    for angle in (0.01, 0.1, 1.0, 2.0, 3.1):
        a, b = at_angle(angle, format_a, format_b)
        one, other = found(t, a, b), found(1 - t, b, a)
        assert one.combine.coefficients == other.combine.coefficients[::-1]
        assert (one.rule, one.angle_deg) == (other.rule, other.angle_deg)
        one_out, other_out = np.empty_like(a), np.empty_like(a)
        one.combine.into((a, b), one_out)
        other.combine.into((b, a), other_out)
        np.testing.assert_array_equal(one_out, other_out)


def test_the_chunks_may_be_added_in_any_order():
    rng = np.random.default_rng(3)
    chunks = [(rng.normal(0, 10.0**k, 500), rng.normal(0, 10.0**-k, 500)) for k in range(-8, 9)]
    sums = np.array([kernels.gram(chunk) for chunk in chunks])
    products = [fsum(column) for column in sums.T]
    for _ in range(20):
        rng.shuffle(sums)
        assert Gram().value(reduce(ExactSums.join, map(ExactSums, sums))).products == tuple(products)


@named("bad", [nan, inf, -inf], ids=str)
@named("side", [0, 1])
@named("format", ALL, ids=type_names)
def test_an_element_that_is_not_finite_is_refused(format, side, bad):
    a, b = at_angle(1.0, format, format)
    (a, b)[side].view(format.word)[1500] = encode(np.array([bad]), format)[0]
    with pytest.raises(NotFiniteError):
        found(0.5, a, b)


@named("format", [BF16, F32], ids=type_names)
def test_a_huge_float64_vector_does_not_hide_an_infinity_in_the_other(format):
    other = words([1.0, inf, 2.0], format)
    with pytest.raises(NotFiniteError):
        found(0.5, np.array([1e200, 1.0, 1.0]), other)
