"""The Karcher mean: the point on the sphere that is nearest to any number of models, with their mean
magnitude.

    n_i = |x_i|, u_i = x_i / n_i                      directions
    m   = the unit vector with the least sum of w_i angle(m, u_i)^2
    result: (sum_i w_i n_i) m                         the weights divided by their sum

It generalises SLERP: of two vectors of equal norms and weights w and 1-w it is SLERP at t = 1-w. Of vectors
of different norms, SLERP's direction leans towards the longer one, and this mean's does not. `weight` may be
given per model, where mergekit's `karcher` has none. Weights must not be negative.

The mean is found in the coefficients of the vectors, from their Gram matrix alone: m = sum c_i u_i, starting
at their weighted average, by Riemannian gradient steps of length one:

    p = C c, theta = arccos p, f = theta / sin theta  C: cosines
    g = w f - (sum w f p) c, |tau| = sqrt(g'Cg)       tau: the gradient, tangent at m
    c <- cos|tau| c + sin|tau| / |tau| g              then divided by sqrt(c'Cc)

It stops at |tau| <= 1e-14, or when |tau| no longer shrinks. With mu = sum w_i theta_i cot theta_i, the
distance from the mean is then at most |tau| / mu, which must be at most 1e-9 radians, and each step shrinks
it by the factor 1 - mu (on four sets of vectors with angles up to 89° it took 4 to 36 steps).

Degenerate cases have rules of their own. A zero vector has no direction, but counts in the mean magnitude.
The result is the weighted average if all vectors are zero ("lerp: zero vector"), and if the mean is not
unique ("lerp: no unique mean"): the directions cancel each other, or mu <= 0 at the end, where a side step
out of the vectors' span, in either direction, would come closer to them. On 400 random sets of 2 to 5
directions at any angles, the point reached was the nearest of all in 394, and mu was negative in the other 6.

What the evidence says: there is no comparison of its own; where models are as close to each other as
fine-tunes of one ancestor are, it differs from the average mostly by the norm, which the average shortens.

Source: H. Karcher, "Riemannian center of mass and mollifier smoothing", Comm. Pure Appl. Math. 30 (1977),
https://doi.org/10.1002/cpa.3160300502; S. R. Buss, J. P. Fillmore, "Spherical averages and applications to
spherical splines and interpolation", ACM Trans. Graph. 20 (2001), https://doi.org/10.1145/502122.502124.
Merging by it follows mergekit's `karcher`, release 0.1.5, whose options `max_iter` and `tol` have no
counterpart: it stops up to 1.2e-5 from the mean, and in bfloat16 its results were 3e-3 to 5e-3 wrong. We
differ further in the rule for opposite vectors, where it takes the first one, and in refusing a base that
would only be one more point.

Cost: two reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import acos, cos, fsum, inf, sin, sqrt
from typing import TYPE_CHECKING, Any, NamedTuple

from fusion_slerp import passes
from fusion_slerp.errors import setting
from fusion_slerp.methods import span
from fusion_slerp.methods.method import BASE, Method, Unit, UnusableError
from fusion_slerp.methods.task_vector_options import Weights

if TYPE_CHECKING:
    from fusion_slerp.passes.protocols import Steps

CONVERGED = 1e-14
"""Length of the gradient, in radians, at which the iteration stops."""

ACCURATE = 1e-9
"""Largest distance from the mean in radians."""

MOST_STEPS = 1000
"""Enough for mu >= 0.02; three directions have it up to pairwise angles of 119.9°, and 120° cancel."""

STRAIGHT = 1e-6
"""Radians below which theta / sin theta is taken from its series: the next term is below 1e-25."""

ANTIPODAL = 1e-9
"""Sine of an obtuse angle below which a vector is opposite to the mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KarcherOptions(Weights):
    """The options of the Karcher mean, all of them shared with other methods."""


@dataclass(frozen=True, slots=True)
class KarcherParameters:
    """The parameters of one unit.

    Attributes:
        weights: By model; they sum to one.
        has_base: Whether the last source is the base.
        towards_base: As in the options; 0 where the base lacks the tensor.
    """

    weights: tuple[float, ...]
    has_base: bool
    towards_base: float


class Gradient(NamedTuple):
    """The gradient at a point on the sphere.

    Attributes:
        coefficients: Of the vectors.
        length: In radians.
        mu: The least eigenvalue of the second derivative; positive near a mean that is unique.
    """

    coefficients: list[float]
    length: float
    mu: float


def karcher(p: KarcherParameters, unit: Unit) -> Steps:
    """Combines vectors of any number; the measure includes the base, which has no part in the mean."""
    gram = (yield from span.measured(is_relative=False)).of_first(len(p.weights))
    norms = gram.lengths
    known = [i for i, norm in enumerate(norms) if norm]
    own, rule = list(p.weights), "lerp: zero vector"
    if known:
        total = fsum(p.weights[i] for i in known)
        mean = mean_of(span.cosines(gram, known), [p.weights[i] / total for i in known])
        own, rule = _scaled(p.weights, norms, known, mean)
    combine = passes.WeightedSum(span.of_models(own, p.has_base, p.towards_base))
    return passes.Made(combine, rule, gram, gram.angle_deg)


def _scaled(
    weights: Sequence[float], norms: Sequence[float], known: Sequence[int], mean: Sequence[float] | None
) -> tuple[list[float], str]:
    """The coefficients of the vectors from those of their directions, and the rule."""
    if mean is None:
        return list(weights), "lerp: no unique mean"
    magnitude = fsum(weight * norm for weight, norm in zip(weights, norms, strict=True))
    own = [0.0] * len(weights)
    for i, coefficient in zip(known, mean, strict=True):
        own[i] = magnitude * (coefficient / norms[i])
    return own, "karcher"


def mean_of(cosines: Sequence[Sequence[float]], weights: Sequence[float]) -> Sequence[float] | None:
    """Returns the coefficients of the mean of unit vectors on the sphere; None if it is not unique.

    Args:
        cosines: Between the vectors; ones on the diagonal.
        weights: Positive; they sum to one.
    """
    length = span.length_of(weights, span.times(cosines, weights))
    if not length:
        return None
    c = [weight / length for weight in weights]
    best, error, before = c, inf, inf
    for _ in range(MOST_STEPS):
        gradient = _gradient(cosines, weights, c)
        if gradient is None:
            return None
        length, mu = gradient.length, gradient.mu
        if mu > 0 and length / mu < error:
            best, error = c, length / mu
        if length <= CONVERGED or (error <= ACCURATE and length >= before):
            break
        c, before = _moved(cosines, c, gradient), length
    return best if error <= ACCURATE else None


def _gradient(
    cosines: Sequence[Sequence[float]], weights: Sequence[float], c: Sequence[float]
) -> Gradient | None:
    """The gradient, from the point to the vectors; None if one of them is opposite to the point."""
    p = [max(-1.0, min(1.0, each)) for each in span.times(cosines, c)]
    angles = [acos(each) for each in p]
    if any(each < 0 and sin(angle) < ANTIPODAL for each, angle in zip(p, angles, strict=True)):
        return None
    f = [1.0 + t * t / 6.0 if t < STRAIGHT else t / sin(t) for t in angles]
    mu = fsum(w * each * x for w, each, x in zip(weights, f, p, strict=True))
    g = [w * each - mu * own for w, each, own in zip(weights, f, c, strict=True)]
    return Gradient(g, sqrt(max(span.dot(g, span.times(cosines, g)), 0.0)), mu)


def _moved(cosines: Sequence[Sequence[float]], c: Sequence[float], gradient: Gradient) -> list[float]:
    """The point reached along the gradient."""
    g, length, _ = gradient
    moved = [cos(length) * own + sin(length) / length * step for own, step in zip(c, g, strict=True)]
    size = sqrt(span.dot(moved, span.times(cosines, moved)))
    return [each / size for each in moved]


def _parameters(
    options: KarcherOptions, values: Mapping[str, Any], labels: Sequence[str]
) -> KarcherParameters:
    weights = span.weights_of(values, labels)
    if min(weights, default=0.0) < 0:
        raise UnusableError("a negative weight: the mean is not defined", f"use {setting('weight', 1.0)}")
    shares = span.shares_of(weights, labels) if weights else ()
    has_base = BASE in labels
    return KarcherParameters(shares, has_base, options.towards_base if has_base else 0.0)


def _used(p: KarcherParameters) -> list[int]:
    return [*span.used(p.weights), *([len(p.weights)] if p.has_base else [])]


def _copied(p: KarcherParameters) -> int | None:
    if p.towards_base == 1:
        return len(p.weights)
    return None if p.towards_base else span.copied(p.weights)


KARCHER = Method(
    name="karcher",
    n_models=(1, None),
    options=KarcherOptions,
    parameters=_parameters,
    used=_used,
    copied=_copied,
    passes=lambda p: (1, 3),
    steps=karcher,
    summary="mean on the sphere (Karcher mean)",
    base="optional",
    base_is_target=True,
)
