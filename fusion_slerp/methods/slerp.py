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
from dataclasses import dataclass
from math import acos, atan2, degrees, fsum, isfinite, nan, pi, sin, sqrt

import numpy as np

from fusion_slerp import kernels

CHUNK_ELEMENTS = 1 << 20
"""Borders of the partial sums. Fixed, so that every run adds the same numbers."""

ACOS_IS_ACCURATE = 0.9995
"""Below this |cos θ|, arccos of the cosine has an error under 1e-14; above, measure the chords."""

OVERFLOW_SCALE = 2.0**-600
"""Brings float64 input to where no square overflows; smaller input then counts as null."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is measured of a pair of vectors.

    Attributes:
        norm_a: Euclidean norm of a.
        norm_b: Euclidean norm of b.
        cosine: Cosine of their angle, in [-1, 1]; NaN if a norm is zero.
        is_finite: Whether every element of both is finite.
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


def measure(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Sums over one chunk of words: `(<a,a>, <b,b>, <a,b>)`; see `kernels.measure`."""
    return kernels.measure(a, b)


def measure_scaled(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """`measure` for float64 words whose squares may overflow; costs two copies of the chunk."""
    return kernels.measure(
        a * OVERFLOW_SCALE if a.dtype == np.float64 else a.astype(np.float64) * OVERFLOW_SCALE,
        b * OVERFLOW_SCALE if b.dtype == np.float64 else b.astype(np.float64) * OVERFLOW_SCALE,
    )


def statistics(sums: Iterable[tuple[float, float, float]], scale: float = 1.0) -> Statistics:
    """Adds up the chunks' sums, exactly and so in any order.

    Args:
        sums: What `measure` returned for each chunk.
        scale: The factor by which the vectors were multiplied before measuring.
    """
    columns = list(zip(*sums, strict=True)) or [(0.0,)] * 3
    if not all(isfinite(value) for column in columns for value in column):
        return Statistics(nan, nan, nan, is_finite=False)
    aa, bb, ab = (fsum(column) for column in columns)
    norm_a, norm_b = sqrt(aa), sqrt(bb)
    cosine = max(-1.0, min(1.0, ab / norm_a / norm_b)) if norm_a and norm_b else nan
    return Statistics(norm_a / scale, norm_b / scale, cosine)


def needs_chords(stats: Statistics, threshold: float, epsilon: float) -> bool:
    """Whether the angle must come from `kernels.measure_chords`, in one more pass.

    Never with the default threshold, where nearly parallel vectors are interpolated linearly.
    """
    has_angle = stats.norm_a > epsilon and stats.norm_b > epsilon
    return has_angle and ACOS_IS_ACCURATE < abs(stats.cosine) <= threshold


def angle_from_chords(chords: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Returns `(θ, π - θ)` in radians, both to full relative precision."""
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
    if abs(stats.cosine) > threshold or min(theta, supplement) == 0.0:
        side = "parallel" if stats.cosine > 0 else "opposite"
        return Coefficients(1.0 - t, t, f"lerp: nearly {side}", degrees(theta))
    sine = sin(theta) if theta < supplement else sin(supplement)
    return Coefficients(sin((1.0 - t) * theta) / sine, sin(t * theta) / sine, "slerp", degrees(theta))


class NotFiniteError(ArithmeticError):
    """An element of a or b is infinite or NaN, so the pair has no angle."""


def find_coefficients(
    t: float,
    sums: Iterable[tuple[float, float, float]],
    read_again: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]],
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
    stats = statistics(sums)
    if not stats.is_finite:  # perhaps only the squares of float64 values are
        scaled = (measure_scaled(a, b) for a, b in read_again())
        stats = statistics(scaled, OVERFLOW_SCALE)
    if not stats.is_finite:
        raise NotFiniteError
    angles = None
    if needs_chords(stats, threshold, epsilon):
        inverse = 1.0 / stats.norm_a, 1.0 / stats.norm_b
        angles = angle_from_chords(kernels.measure_chords(a, b, *inverse) for a, b in read_again())
    return coefficients(t, stats, threshold, epsilon, angles), stats
