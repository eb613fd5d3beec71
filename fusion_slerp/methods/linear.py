"""Weighted average of any number of models.

    result = (w_a a + w_b b + ...) / (w_a + w_b + ...)       the division only with `normalize`

Source: M. Wortsman et al., "Model soups", ICML 2022, https://arxiv.org/abs/2203.05482; the weights per
model and `normalize` are those of mergekit's `linear`. We differ in refusing weights that sum to zero if
they are normalized, in skipping models whose weight is zero, and in rounding once: with three or more models,
each element is the value of its type nearest to the exact sum, whatever their order (with two, nearest to the
float64 sum).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import TYPE_CHECKING, Any

from fusion_slerp import passes
from fusion_slerp.errors import setting
from fusion_slerp.methods.method import Method, UnusableError
from fusion_slerp.options import BOOLEAN, FINITE, option

if TYPE_CHECKING:
    from fusion_slerp.passes.protocols import Steps


LARGE = 2.0**900
"""Larger weights are scaled before they are added up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearOptions:
    """The options of `linear`.

    Attributes:
        weight: Weight of each model: one number for all, a gradient or entries by name as for `t` of SLERP,
            or a mapping from labels to these: `{"a": 0.4, "b": [0, 0.6]}`; models that it omits weigh 1.
        normalize: Divide the weights by their sum, tensor by tensor.
    """

    weight: Any = option(
        1.0, FINITE, {"a": 0.4, "b": 0.6}, panel="Merging", is_schedule=True, is_per_model=True, flag="-w"
    )
    normalize: bool = option(True, BOOLEAN, True, panel="Merging")


@dataclass(frozen=True, slots=True)
class LinearParameters:
    """The parameters of one unit's weighted sum.

    Attributes:
        coefficients: One per source; not all zero.
    """

    coefficients: tuple[float, ...]


def linear(p: LinearParameters) -> Steps:
    """Combines the vectors without measuring them."""
    yield from ()
    return passes.Made(passes.WeightedSum(p.coefficients), "linear")


def _parameters(options: LinearOptions, values: Mapping[str, Any], labels: Sequence[str]) -> LinearParameters:
    weights = [values["weight"][label] for label in labels]
    shares = _scaled(weights)
    total = fsum(shares) if options.normalize else 1.0
    if total == 0 or not any(weights):
        shown = ", ".join(f"{label} {weight:g}" for label, weight in zip(labels, weights, strict=True))
        fix = f"change a weight, or use {setting('normalize', False)}"
        raise UnusableError(
            f"weights that sum to zero: {shown}", fix if any(weights) else f"use {setting('weight', 1.0)}"
        )
    return LinearParameters(tuple(each / total for each in (shares if options.normalize else weights)))


def _scaled(weights: Sequence[float]) -> Sequence[float]:
    """The weights, divided by a power of two if float64 could not hold their sum."""
    power = 2.0 ** len(weights).bit_length()
    return [weight / power for weight in weights] if max(map(abs, weights)) > LARGE else weights


def _used(p: LinearParameters) -> list[int]:
    return [i for i, coefficient in enumerate(p.coefficients) if coefficient]


def _copied(p: LinearParameters) -> int | None:
    used = _used(p)
    return used[0] if len(used) == 1 and p.coefficients[used[0]] == 1 else None


LINEAR = Method(
    name="linear",
    n_models=(1, None),
    options=LinearOptions,
    parameters=_parameters,
    used=_used,
    copied=_copied,
    passes=lambda p: (0, 0),
    steps=linear,
    summary="weighted average of the weights (linear)",
)
