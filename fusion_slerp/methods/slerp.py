"""Spherical linear interpolation of two models.

    cos θ = <a,b> / (|a| |b|)
    |a| or |b| <= epsilon            ->  lerp: an angle with a zero vector is undefined
    |cos θ| > DOT_THRESHOLD          ->  lerp: nearly parallel, or nearly opposite
    otherwise                        ->  sin((1-t)θ)/sin θ · a  +  sin(tθ)/sin θ · b

Neither the models nor the result are normalised: magnitudes are interpolated together with the
directions. The two coefficients of SLERP sum to more than one (1.155 at cos θ = 0.5, t = 0.5).

Source: K. Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985,
https://doi.org/10.1145/325334.325242 (the formula). Applying it to weight tensors, with the
threshold, follows https://gist.github.com/dvschultz/3af50c40df002da3b751efab1daddf2c; we differ
in summing in float64, in interpolating linearly if a vector is zero, and in rounding once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import acos, degrees, pi, sin
from typing import TYPE_CHECKING, Any, Literal

from fusion_slerp import passes
from fusion_slerp.methods.method import Method
from fusion_slerp.options import NON_NEGATIVE, UNIT_INTERVAL, one_of, option

if TYPE_CHECKING:
    from fusion_slerp.passes.chords import Angles
    from fusion_slerp.passes.gram import GramMatrix
    from fusion_slerp.passes.protocols import Steps

ACOS_IS_ACCURATE = 0.9995
"""Below this |cos θ|, arccos has an error under 1e-14; above it, the chords are measured."""

ANGLE_NOISE = 2.0**-46
"""Radians. Float64 noise in the norms can turn an angle of 0 into this, or reduce π by as much."""

SHORT_NORM = 2.0**-450
"""Below it, squares of float64 elements begin to underflow; no other type has such small values."""

Granularity = Literal["tensor", "row", "column"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlerpOptions:
    """The options of SLERP.

    Attributes:
        t: Position between the models, a number in [0, 1], both ends included: 0 is model a (the
            first), 1 is model b. At an end, the merged model's tensors are copied from that model. A list of
            numbers is a gradient from the first layer to the last; a list of entries with `filter`
            (or `glob`, or `regex`) and `value` sets t by tensor name; see `schedule`.
        DOT_THRESHOLD: |cosine| above which a tensor is interpolated linearly, in [0, 1]. 1 means
            SLERP at every angle. The capitals are FusionBench's spelling.
        epsilon: Norm up to which a tensor counts as zero and is interpolated linearly; at least 0.
        granularity: The unit with its own angle: the whole `"tensor"`, or each `"row"` or `"column"` of a
            matrix (of two dimensions, with all rows merged in place; other tensors are taken whole).
    """

    t: Any = option(0.5, UNIT_INTERVAL, 0.5, panel="Merging", is_schedule=True, flag="-t")
    DOT_THRESHOLD: float = option(0.9995, UNIT_INTERVAL, 0.9995, panel="Merging")
    epsilon: float = option(1e-8, NON_NEGATIVE, 1e-8, panel="Merging")
    granularity: Granularity = option("tensor", one_of(Granularity), "tensor", panel="Merging")


@dataclass(frozen=True, slots=True)
class SlerpParameters:
    """The parameters of one unit's SLERP.

    Attributes:
        t: Position between the two sources, in (0, 1).
        threshold: |cos θ| above which the interpolation is linear, in [0, 1].
        epsilon: Norm up to which a vector counts as zero.
    """

    t: float
    threshold: float
    epsilon: float


def slerp(p: SlerpParameters) -> Steps:
    """Interpolates two vectors.

    One pass; in rare cases two more for float64 elements whose squares overflow or underflow, and one for an
    angle near 0 or π.
    """
    gram: GramMatrix = yield passes.Gram()
    if _needs_scaling(gram, p.epsilon):
        exponents = yield passes.LargestMagnitude()
        gram = yield passes.Gram(exponents)
    angles: Angles | None = None
    if _needs_chords(gram, p):
        norm_a, norm_b = gram.measured_norms
        angles = yield passes.Chords((norm_a, norm_b), gram.exponents)
    s0, s1, rule, angle_deg = coefficients(p, gram.norms, gram.cosine(0, 1), angles)
    return passes.Made(passes.WeightedSum((s0, s1)), rule, gram, angle_deg)


def _needs_scaling(gram: GramMatrix, epsilon: float) -> bool:
    """Whether squares of float64 elements may have over- or underflowed, or an element is not finite."""
    return not gram.is_finite or (epsilon < SHORT_NORM and min(gram.norms) < SHORT_NORM)


def _needs_chords(gram: GramMatrix, p: SlerpParameters) -> bool:
    """Whether arccos would lose the angle's digits; never with the default threshold."""
    has_angle = min(gram.norms) > p.epsilon
    return has_angle and ACOS_IS_ACCURATE < abs(gram.cosine(0, 1)) <= p.threshold


def coefficients(
    p: SlerpParameters, norms: Sequence[float], cosine: float, angles: Angles | None = None
) -> tuple[float, float, str, float | None]:
    """Turns the measurements into the two coefficients.

    Args:
        p: The parameters.
        norms: Euclidean norms of both vectors; finite.
        cosine: The cosine of their angle.
        angles: The result of `Chords`, if it was measured.

    Returns:
        The coefficients of a and b, the rule, and the angle in degrees (None with a zero vector).
    """
    if min(norms) <= p.epsilon:
        return 1.0 - p.t, p.t, "lerp: zero vector", None
    theta, supplement = angles or (acos(cosine), pi - acos(cosine))
    if abs(cosine) > p.threshold or min(theta, supplement) <= ANGLE_NOISE:
        side = "parallel" if cosine > 0 else "opposite"
        return 1.0 - p.t, p.t, f"lerp: nearly {side}", degrees(theta)
    sine = _sine_of_part(1.0, 0.0, theta, supplement)
    s0 = _sine_of_part(1.0 - p.t, p.t, theta, supplement) / sine
    s1 = _sine_of_part(p.t, 1.0 - p.t, theta, supplement) / sine
    return s0, s1, "slerp", degrees(theta)


def _sine_of_part(part: float, rest: float, theta: float, supplement: float) -> float:
    """sin(part·θ), where part + rest = 1; near π computed from the supplement, which keeps its digits."""
    return sin(part * theta) if part * theta < pi / 2 else sin(supplement + rest * theta)


def _parameters(options: SlerpOptions, values: Mapping[str, Any], labels: Sequence[str]) -> SlerpParameters:
    return SlerpParameters(values["t"], options.DOT_THRESHOLD, options.epsilon)


def _used(p: SlerpParameters) -> list[int]:
    return [int(p.t)] if p.t in (0, 1) else [0, 1]


def _copied(p: SlerpParameters) -> int | None:
    return int(p.t) if p.t in (0, 1) else None


def _passes(p: SlerpParameters) -> tuple[int, int]:
    return 1, 1 + 2 + (p.threshold > ACOS_IS_ACCURATE)


SLERP = Method(
    name="slerp",
    n_models=(2, 2),
    options=SlerpOptions,
    parameters=_parameters,
    used=_used,
    copied=_copied,
    passes=_passes,
    steps=slerp,
    summary="spherical linear interpolation (SLERP) of two models",
)
