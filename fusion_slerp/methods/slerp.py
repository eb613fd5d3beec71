"""Spherical linear interpolation of two models.

    cos θ = <a,b> / (|a| |b|)
    |a| or |b| <= epsilon            ->  lerp: an angle with a zero vector is undefined
    |cos θ| > DOT_THRESHOLD          ->  lerp: nearly parallel, or nearly opposite
    otherwise                        ->  sin((1-t)θ)/sin θ · a  +  sin(tθ)/sin θ · b

Neither the models nor the result are normalised: magnitudes are interpolated together with the
directions. The two coefficients of SLERP sum to more than one (1.155 at cos θ = 0.5, t = 0.5).

What it is for: blending two fine-tunes of one model without the loss of length of an average. Two vectors of
equal length at a right angle lose 29 % of it in an average, two at 10° less than 0.4 %: for whole models,
which are often a few degrees apart, the two methods give nearly the same weights. With a base the difference
is large, since task vectors are often nearly orthogonal. The evidence for that is WARP's (see `warp`). No
merge is certain to be better than the better of its models: evaluate all three.

Source: K. Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985,
https://doi.org/10.1145/325334.325242 (the formula). Applying it to weight tensors, with the
threshold, follows https://gist.github.com/dvschultz/3af50c40df002da3b751efab1daddf2c; we differ
in summing in float64, in interpolating linearly if a vector is zero, and in rounding once.

With a base, the same is done to the models' differences from it, their task vectors, and the base is added:
SLERP of what fine-tuning changed. Their angles are large where those of the models themselves are a few
degrees. It is `nuslerp` with a base in mergekit, except for a tensor that fine-tuning left unchanged in one
model: there mergekit takes 0.707 of the other's task vector at t = 0.5, and here interpolation with a zero
vector is linear. mergekit computes norms and cosine in the models' type: in bfloat16 its results were 4.2e-3
wrong, and correct rounding is 1.6e-3 wrong.

Cost: two reads; by row, one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import acos, degrees, pi, sin
from typing import TYPE_CHECKING, Any, Literal

from fusion_slerp import passes
from fusion_slerp.methods import span
from fusion_slerp.methods.method import BASE, Method, Unit
from fusion_slerp.methods.task_vector_options import TowardsBase
from fusion_slerp.options import NON_NEGATIVE, UNIT_INTERVAL, one_of, option

if TYPE_CHECKING:
    from fusion_slerp.passes.chords import Angles
    from fusion_slerp.passes.gram import GramMatrix
    from fusion_slerp.passes.protocols import Steps

ACOS_IS_ACCURATE = 0.9995
"""Below this |cos θ|, arccos has an error under 1e-14; above it, the chords are measured."""

ANGLE_NOISE = 2.0**-46
"""Radians. Float64 noise in the norms can turn an angle of 0 into this, or reduce π by as much."""

Granularity = Literal["tensor", "row", "column"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlerpOptions(TowardsBase):
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
        has_base: Whether the vectors are differences from the last source.
        towards_base: As in the options.
    """

    t: float
    threshold: float
    epsilon: float
    has_base: bool = False
    towards_base: float = 0.0


def slerp(p: SlerpParameters, unit: Unit) -> Steps:
    """Interpolates two vectors.

    One pass; in rare cases two more for float64 elements whose squares overflow or underflow, and one for an
    angle near 0 or π.
    """
    gram: GramMatrix = yield passes.Gram((), p.has_base)
    if _needs_scaling(gram, p.epsilon):
        exponents = yield passes.LargestMagnitude()
        common = (max(exponents),) * len(exponents) if p.has_base else exponents
        gram = yield passes.Gram(common, p.has_base)
    angles: Angles | None = None
    if _needs_chords(gram, p):
        norm_a, norm_b = gram.measured_norms
        exponents = gram.exponents + gram.exponents[:1] if p.has_base else gram.exponents
        angles = yield passes.Chords((norm_a, norm_b), exponents, p.has_base)
    s0, s1, rule, angle_deg = coefficients(p, gram.norms, gram.cosine(0, 1), angles)
    every = span.of_task_vectors((s0, s1), p.towards_base) if p.has_base else (s0, s1)
    return passes.Made(passes.WeightedSum(every), rule, gram, angle_deg)


def _needs_scaling(gram: GramMatrix, epsilon: float) -> bool:
    """Whether squares of float64 elements may have over- or underflowed, or an element is not finite."""
    return not gram.is_finite or (epsilon < span.SHORT_NORM and min(gram.norms) < span.SHORT_NORM)


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
    has_base = BASE in labels
    return SlerpParameters(
        values["t"], options.DOT_THRESHOLD, options.epsilon, has_base, options.towards_base
    )


def _used(p: SlerpParameters) -> list[int]:
    return [0, 1, 2] if p.has_base else [0, 1]


def _copied(p: SlerpParameters) -> int | None:
    if p.towards_base:
        return 2 if p.towards_base == 1 else None
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
    base="optional",
)
