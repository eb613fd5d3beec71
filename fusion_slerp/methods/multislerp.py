"""SLERP of any number of models: the mean direction, with the mean magnitude.

    n_i = |x_i|, u_i = x_i / n_i                      with a base, of the differences from it
    z = sum_i w_i u_i                                 the mean direction, not yet of length one
    result: (sum_i w_i n_i) z / |z|                   plus the base, if there is one

The weights are divided by their sum with `normalize`. With two models of equal weight it is SLERP at t = 0.5
of vectors of equal norms; with other weights it is not SLERP at another t, since angles are not divided
evenly. For that, and for a mean on the sphere that takes account of curvature, use `karcher`.

What the evidence says: there is no comparison of its own. Like SLERP, it keeps the norms that an average
shortens: two vectors at a right angle lose 29 % in an average, and nothing here.

Degenerate cases have rules of their own. A zero vector has no direction, but its weight counts in the mean
magnitude. The result is the weighted average if the directions cancel each other ("lerp: directions cancel"):
|z| <= `epsilon`, or at most 1e-6 of the sum of the weights' magnitudes, where float64 loses its digits. So it
is if all vectors are zero ("lerp: zero vector").

Source: mergekit's `multislerp`, https://github.com/arcee-ai/mergekit, release 0.1.5. Its text describes
tangent vectors at the mean direction and an exponential map, but their weighted sum is zero by construction,
so the map does nothing and the formula above is its result (in float64 the two agreed to 7e-12). We differ in
measuring in float64, in rounding once, in refusing weights that sum to zero where it returns NaN, and in the
rule for directions that cancel, where it stops with more than two models.

Cost: two reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import TYPE_CHECKING, Any

from fusion_slerp import passes
from fusion_slerp.methods import span
from fusion_slerp.methods.method import BASE, Method, Unit
from fusion_slerp.methods.task_vector_options import Weights
from fusion_slerp.options import BOOLEAN, NON_NEGATIVE, option

if TYPE_CHECKING:
    from fusion_slerp.passes.gram import GramMatrix
    from fusion_slerp.passes.protocols import Steps


@dataclass(frozen=True, slots=True, kw_only=True)
class MultislerpOptions(Weights):
    """The options of SLERP of any number of models.

    Attributes:
        normalize: Divide the weights by their sum, tensor by tensor.
        epsilon: Length of the mean direction up to which directions count as cancelling each other.
    """

    normalize: bool = option(True, BOOLEAN, True, panel="Merging")
    epsilon: float = option(1e-8, NON_NEGATIVE, 1e-8, panel="Merging")


@dataclass(frozen=True, slots=True)
class MultislerpParameters:
    """The parameters of one unit.

    Attributes:
        weights: By model, divided by their sum if that is wanted.
        epsilon: As in the options.
        has_base: Whether the vectors are differences from the last source.
        towards_base: As in the options.
    """

    weights: tuple[float, ...]
    epsilon: float
    has_base: bool
    towards_base: float


def multislerp(p: MultislerpParameters, unit: Unit) -> Steps:
    """Combines vectors of any number."""
    gram = yield from span.measured(p.has_base)
    own, rule = coefficients(p.weights, p.epsilon, gram)
    every = span.of_task_vectors(own, p.towards_base) if p.has_base else own
    return passes.Made(passes.WeightedSum(tuple(every)), rule, gram, gram.angle_deg)


def coefficients(weights: Sequence[float], epsilon: float, gram: GramMatrix) -> tuple[tuple[float, ...], str]:
    """Returns the coefficients of the vectors, and the rule."""
    norms = gram.lengths
    known = [i for i, norm in enumerate(norms) if norm]
    if not known:
        return tuple(weights), "lerp: zero vector"
    of_known = [weights[i] for i in known]
    length = span.length_of(of_known, span.times(span.cosines(gram, known), of_known))
    if length <= epsilon:
        return tuple(weights), "lerp: directions cancel"
    magnitude = fsum(weights[i] * norms[i] for i in known)
    own = [0.0] * len(weights)
    for i in known:
        own[i] = magnitude / length * (weights[i] / norms[i])
    return tuple(own), "multislerp"


def _parameters(
    options: MultislerpOptions, values: Mapping[str, Any], labels: Sequence[str]
) -> MultislerpParameters:
    weights = span.weights_of(values, labels)
    if options.normalize and weights:
        weights = span.shares_of(weights, labels)
    has_base = BASE in labels
    if not has_base:
        span.check_not_all_zero(weights)
    return MultislerpParameters(weights, options.epsilon, has_base, options.towards_base)


def _used(p: MultislerpParameters) -> list[int]:
    return [*span.used(p.weights), *([len(p.weights)] if p.has_base else [])]


def _copied(p: MultislerpParameters) -> int | None:
    if p.has_base and (p.towards_base == 1 or not any(p.weights)):
        return len(p.weights)
    return None if p.towards_base else span.copied(p.weights)


MULTISLERP = Method(
    name="multislerp",
    n_models=(1, None),
    options=MultislerpOptions,
    parameters=_parameters,
    used=_used,
    copied=_copied,
    passes=lambda p: (1, 3),
    steps=multislerp,
    summary="mean direction with the mean magnitude (multislerp)",
    base="optional",
)
