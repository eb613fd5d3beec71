"""The merge of WARP: SLERP of task vectors, of any number of models, and a step back towards the base.

    v_1 = d_1, d_i = x_i - base                       task vectors
    v_k = SLERP of v_(k-1) and d_k at t = 1/k         in the order of the models
    result: base + (1 - towards_base) v_M

With two models it is `slerp` with a base at t = 0.5. Of more than two, the order matters: on a sphere,
folding pairs is not a mean; `karcher` of models without a base has no order. `towards_base` is the paper's
linear interpolation towards the initialization (LITI), with 0.3 as its usual value there.

What it is for: policies that were tuned by reinforcement learning from one checkpoint with different seeds or
data orders. Their task vectors are nearly orthogonal (angles near 90°), where an average loses much of their
length and SLERP keeps it; the step towards the base then restores general abilities. The evidence is that
paper's, with Gemma 7B; for task vectors that are nearly parallel it does what an average does.

Source: A. Ramé et al., "WARP: On the Benefits of Weight Averaged Rewarded Policies", 2024,
https://arxiv.org/abs/2406.16768. We differ in measuring one angle per tensor, where the paper takes one per
decoder layer: a layer's tensors would all have to be read before the first of them could be written, and a
merge would no longer stream tensor by tensor. The rules of SLERP for zero, parallel and opposite vectors
apply to each fold.

Cost: two reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusion_slerp import passes
from fusion_slerp.methods import span
from fusion_slerp.methods.method import Method, Unit
from fusion_slerp.methods.slerp import SlerpParameters, coefficients
from fusion_slerp.methods.task_vector_options import TowardsBase

if TYPE_CHECKING:
    from fusion_slerp.passes.gram import GramMatrix
    from fusion_slerp.passes.protocols import Steps

THRESHOLD, EPSILON = 0.9995, 0.0
"""Of SLERP: |cosine| above which a fold is linear, and the norm up to which a vector counts as zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarpOptions(TowardsBase):
    """The options of WARP's merge, all of them shared with other methods."""


@dataclass(frozen=True, slots=True)
class WarpParameters:
    """The parameters of one unit.

    Attributes:
        n: Number of models.
        towards_base: As in the options.
    """

    n: int
    towards_base: float


def warp(p: WarpParameters, unit: Unit) -> Steps:
    """Folds task vectors by SLERP."""
    gram = yield from span.measured(is_relative=True)
    own, rule = folded(gram)
    return passes.Made(
        passes.WeightedSum(span.of_task_vectors(own, p.towards_base)), rule, gram, gram.angle_deg
    )


def folded(gram: GramMatrix) -> tuple[list[float], str]:
    """Returns the coefficients of the task vectors, and the rule: that of the first fold without SLERP."""
    norms, n = gram.lengths, gram.n
    unit = [[0.0 if not (norms[i] and norms[j]) else _cosine(gram, i, j) for j in range(n)] for i in range(n)]
    in_units = [norms[0], *[0.0] * (n - 1)]
    rules = []
    for k in range(1, n):
        products = span.times(unit, in_units)
        length = span.length_of(in_units, products)
        cosine = max(-1.0, min(1.0, products[k] / length)) if length else 0.0
        parameters = SlerpParameters(1.0 / (k + 1), THRESHOLD, EPSILON)
        s0, s1, rule, _ = coefficients(parameters, (length, norms[k]), cosine)
        in_units = [s0 * each for each in in_units]
        in_units[k] += s1 * norms[k]
        rules.append(rule)
    unlike = [rule for rule in rules if rule != "slerp"]
    own = [each / norm if norm else 0.0 for each, norm in zip(in_units, norms, strict=True)]
    return own, unlike[0] if unlike else "warp"


def _cosine(gram: GramMatrix, i: int, j: int) -> float:
    return 1.0 if i == j else gram.cosine(min(i, j), max(i, j))


def _parameters(options: WarpOptions, values: Mapping[str, Any], labels: Sequence[str]) -> WarpParameters:
    return WarpParameters(len(labels) - 1, options.towards_base)


WARP = Method(
    name="warp",
    n_models=(2, None),
    options=WarpOptions,
    parameters=_parameters,
    used=lambda p: list(range(p.n + 1)),
    copied=lambda p: p.n if p.towards_base == 1 else None,
    passes=lambda p: (1, 3),
    steps=warp,
    summary="SLERP of task vectors, one model after the other (WARP)",
    base="needed",
)
