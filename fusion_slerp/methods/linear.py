"""Weighted average of any number of models.

    result = (w_a a + w_b b + ...) / (w_a + w_b + ...)       the division only with `normalize`
    with `towards_base` s: (1 - s) result + s base           the only use of a base

What it is for: fine-tunes of one model, and steps back from a fine-tune towards its ancestor (`towards_base`,
"LITI"). It is what any other method has to beat.

What the evidence says: the paper averages fine-tunes for one task, which differ in their hyperparameters, and
reports better accuracy than that of the best of them. That says nothing about models with different purposes:
compare the average with each of them. The average of vectors in different directions is shorter than they
are: two of equal length at a right angle lose 29 % of it, two at 10° less than 0.4 %.

Source: M. Wortsman et al., "Model soups", ICML 2022, https://arxiv.org/abs/2203.05482; the weights per
model and `normalize` are those of mergekit's `linear`. We differ in refusing weights that sum to zero if
they are normalized (it writes infinities or NaN without a message), in skipping models whose weight is zero,
and in rounding once: with three or more models, each element is the value of its type nearest to the exact
sum, whatever their order (with two, nearest to the float64 sum). The step towards the base: A. Ramé et al.,
"WARP", 2024, https://arxiv.org/abs/2406.16768.

Cost: one read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusion_slerp import passes
from fusion_slerp.methods import span
from fusion_slerp.methods.method import BASE, Method, Unit
from fusion_slerp.methods.task_vector_options import Weights
from fusion_slerp.options import BOOLEAN, option

if TYPE_CHECKING:
    from fusion_slerp.passes.protocols import Steps


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearOptions(Weights):
    """The options of `linear`.

    Attributes:
        normalize: Divide the weights by their sum, tensor by tensor.
    """

    normalize: bool = option(True, BOOLEAN, True, panel="Merging")


@dataclass(frozen=True, slots=True)
class LinearParameters:
    """The parameters of one unit's weighted sum.

    Attributes:
        coefficients: One per source; not all zero.
    """

    coefficients: tuple[float, ...]


def linear(p: LinearParameters, unit: Unit) -> Steps:
    """Combines the vectors without measuring them."""
    yield from ()
    return passes.Made(passes.WeightedSum(p.coefficients), "linear")


def _parameters(options: LinearOptions, values: Mapping[str, Any], labels: Sequence[str]) -> LinearParameters:
    weights = span.weights_of(values, labels)
    if options.normalize and weights:
        weights = span.shares_of(weights, labels)
    span.check_not_all_zero(weights)
    return LinearParameters(span.of_models(weights, BASE in labels, options.towards_base))


LINEAR = Method(
    name="linear",
    n_models=(1, None),
    options=LinearOptions,
    parameters=_parameters,
    used=lambda p: span.used(p.coefficients),
    copied=lambda p: span.copied(p.coefficients),
    passes=lambda p: (0, 0),
    steps=linear,
    summary="weighted average of the weights (linear)",
    base="optional",
    base_is_target=True,
)
