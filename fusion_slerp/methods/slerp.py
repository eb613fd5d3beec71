"""Spherical linear interpolation of two vectors, as a triple: measure, coefficients, combine.

    cos θ = <a,b> / (|a| |b|)
    |a| or |b| <= epsilon            ->  lerp: an angle with a null vector is undefined
    |cos θ| > threshold              ->  lerp: nearly parallel, or nearly opposite
    otherwise                        ->  sin((1-t)θ)/sin θ · a  +  sin(tθ)/sin θ · b

Parents are not normalised and the result is not renormalised: magnitudes interpolate with the
directions. The two coefficients of SLERP sum to more than one (1.155 at cos θ = 0.5, t = 0.5).

Source: K. Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985,
https://doi.org/10.1145/325334.325242 (the formula). Applying it to weight tensors, with the
threshold, follows https://gist.github.com/dvschultz/3af50c40df002da3b751efab1daddf2c; we differ
in taking every sum in float64, in interpolating linearly where a vector is null, and in
rounding once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import acos, atan2, degrees, fsum, isfinite, nan, pi, sin, sqrt

import numpy as np

from fusion_slerp import kernels

ACOS_IS_ACCURATE = 0.9995
"""Below this |cos θ|, arccos of the cosine has an error under 1e-14; above, measure the chords."""

ANGLE_NOISE = 2.0**-46
"""Radians. Float64 noise in the norms can make this of an angle of 0, or take it from one of π."""

SHORT_NORM = 2.0**-450
"""Below it, squares of float64 elements begin to vanish; no other type reaches there."""

Sums = tuple[float, float, float]
"""`(<a,a>, <b,b>, <a,b>)` over a chunk or a vector."""

ReadPairs = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]
"""Gives a pair's chunks of words, from the first, at every call."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is measured of a pair of vectors.

    Attributes:
        norm_a: Euclidean norm of a.
        norm_b: Euclidean norm of b.
        cosine: Cosine of their angle, in [-1, 1]; NaN if a norm is zero.
        is_finite: Whether every sum is: not so if an element is infinite or NaN, or if squares of
            float64 elements overflow. Without it, the other three are NaN.
    """

    norm_a: float
    norm_b: float
    cosine: float
    is_finite: bool = True


@dataclass(frozen=True, slots=True)
class Coefficients:
    """What `combine` multiplies the parents with, and why.

    Attributes:
        s0: Factor of a.
        s1: Factor of b.
        rule: `"slerp"`, or `"lerp: null vector"`, `"lerp: nearly parallel"`,
            `"lerp: nearly opposite"`.
        angle_deg: Angle between the parents in degrees, [0, 180]; None with a null vector.
    """

    s0: float
    s1: float
    rule: str
    angle_deg: float | None


def measure(a: np.ndarray, b: np.ndarray) -> Sums:
    """Sums over one chunk of words: `(<a,a>, <b,b>, <a,b>)`; see `kernels.measure`."""
    return kernels.measure(a, b)


def statistics(sums: Iterable[Sums]) -> Statistics:
    """Adds up the chunks' sums, exactly and so in any order."""
    columns = list(zip(*sums, strict=True)) or [(0.0,)] * 3
    if not all(isfinite(sum(column)) for column in columns):
        return Statistics(nan, nan, nan, is_finite=False)
    aa, bb, ab = (fsum(column) for column in columns)
    norm_a, norm_b = sqrt(aa), sqrt(bb)
    cosine = max(-1.0, min(1.0, ab / (norm_a * norm_b))) if norm_a and norm_b else nan
    return Statistics(norm_a, norm_b, cosine)


def needs_scaling(stats: Statistics, epsilon: float) -> bool:
    """Whether squares of float64 elements may have overflowed or vanished, or an element is not finite."""
    return not stats.is_finite or (epsilon < SHORT_NORM and min(stats.norm_a, stats.norm_b) < SHORT_NORM)


def near_one(read: ReadPairs) -> tuple[ReadPairs, tuple[int, int]]:
    """Brings the largest magnitude of each vector into [1, 2), in one pass.

    Returns:
        What reads the pair as float64 values, each vector divided by a power of two; and the two
        exponents. Costs up to four float64 copies of a chunk.

    Raises:
        NotFiniteError: An element is infinite or NaN.
    """
    largest = np.zeros(2)
    for pair in read():
        largest = np.maximum(largest, [np.abs(_values(words)).max(initial=0.0) for words in pair])
    if not np.isfinite(largest).all():
        raise NotFiniteError
    exponent_a, exponent_b = (np.frexp(largest)[1] - 1).tolist()

    def read_scaled() -> Iterable[tuple[np.ndarray, np.ndarray]]:
        for a, b in read():
            yield np.ldexp(_values(a), -exponent_a), np.ldexp(_values(b), -exponent_b)

    return read_scaled, (exponent_a, exponent_b)


def _values(words: np.ndarray) -> np.ndarray:
    values = np.empty(words.size)
    kernels.convert(words, values)
    return values


def needs_chords(stats: Statistics, threshold: float, epsilon: float) -> bool:
    """Whether the angle must come from `kernels.measure_chords`, in one more pass.

    Never with the default threshold, where nearly parallel vectors are interpolated linearly.
    """
    has_angle = stats.norm_a > epsilon and stats.norm_b > epsilon
    return has_angle and ACOS_IS_ACCURATE < abs(stats.cosine) <= threshold


def angle_from_chords(chords: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Returns `(θ, π - θ)` in radians, the smaller with an error of about 1e-16."""
    minus, plus = (sqrt(fsum(column)) for column in zip(*chords, strict=True))
    return 2.0 * atan2(minus, plus), 2.0 * atan2(plus, minus)


def coefficients(
    t: float,
    stats: Statistics,
    threshold: float,
    epsilon: float,
    angles: tuple[float, float] | None = None,
) -> Coefficients:
    """Turns the measurements into the two factors.

    Args:
        t: Where between the parents, in (0, 1).
        stats: The pair's measurements; must be finite.
        threshold: |cos θ| above which the interpolation is linear, in [0, 1].
        epsilon: Norm up to which a vector counts as null.
        angles: `angle_from_chords`, where `needs_chords` asked for it.
    """
    if stats.norm_a <= epsilon or stats.norm_b <= epsilon:
        return Coefficients(1.0 - t, t, "lerp: null vector", None)
    theta, supplement = angles or (acos(stats.cosine), pi - acos(stats.cosine))
    if abs(stats.cosine) > threshold or min(theta, supplement) <= ANGLE_NOISE:
        side = "parallel" if stats.cosine > 0 else "opposite"
        return Coefficients(1.0 - t, t, f"lerp: nearly {side}", degrees(theta))
    sine = _sine_of_part(1.0, 0.0, theta, supplement)
    s0 = _sine_of_part(1.0 - t, t, theta, supplement) / sine
    s1 = _sine_of_part(t, 1.0 - t, theta, supplement) / sine
    return Coefficients(s0, s1, "slerp", degrees(theta))


def _sine_of_part(part: float, rest: float, theta: float, supplement: float) -> float:
    """sin(part·θ), where part + rest = 1; near π from what is missing there, which keeps its digits."""
    return sin(part * theta) if part * theta < pi / 2 else sin(supplement + rest * theta)


class NotFiniteError(ArithmeticError):
    """An element of a or b is infinite or NaN, so the pair has no angle."""


def find_coefficients(
    t: float,
    sums: Iterable[Sums],
    read_again: ReadPairs,
    threshold: float,
    epsilon: float,
) -> tuple[Coefficients, Statistics]:
    """From the measured sums to the coefficients, with the further passes that are rarely needed.

    Args:
        t: Where between the parents, in (0, 1).
        sums: What `measure` returned for each chunk of the pair.
        read_again: Gives the pair's chunks of words once more.
        threshold: |cos θ| above which the interpolation is linear, in [0, 1].
        epsilon: Norm up to which a vector counts as null.

    Raises:
        NotFiniteError: An element is infinite or NaN.
    """
    stats = measured = statistics(sums)
    if needs_scaling(measured, epsilon):
        read_again, (exponent_a, exponent_b) = near_one(read_again)
        measured = statistics(measure(a, b) for a, b in read_again())
        norms = measured.norm_a * 2.0**exponent_a, measured.norm_b * 2.0**exponent_b
        stats = replace(measured, norm_a=norms[0], norm_b=norms[1])
    angles = None
    if needs_chords(stats, threshold, epsilon):
        inverse = 1.0 / measured.norm_a, 1.0 / measured.norm_b
        angles = angle_from_chords(kernels.measure_chords(a, b, *inverse) for a, b in read_again())
    return coefficients(t, stats, threshold, epsilon, angles), stats
