"""Model stock: moves the mean of fine-tuned models towards their base, by the angle between them.

    d_i = x_i - base                                  task vectors
    c   = mean of cos(d_i, d_j) over all pairs        0 for a pair with a zero vector
    t   = N c / (1 + (N - 1) c)                       in [0, 1]; c <= 0 gives 0: the base
    result: t mean(x_i) + (1 - t) base

Fine-tuned models lie on a thin shell around the point that an average of infinitely many of them would reach;
t brings the mean of a few to the nearest point to it that their angles allow. It has no free parameters. The
more the models agree (c near 1), the closer the result is to their mean; models tuned on different tasks have
nearly orthogonal task vectors, and then the result is close to the base.

What the evidence says: it was made for fine-tunes of one model on one task with different seeds, and saves
the training of many for an average. For models of different tasks it is too cautious; in the comparison of O.
Hitit et al., 2025 (https://arxiv.org/abs/2511.21437), only task arithmetic gained reliably over its source
models.

Source: D.-H. Jang et al., "Model Stock: All we need is just a few fine-tuned models", ECCV 2024,
https://arxiv.org/abs/2403.19522; `granularity: row` is `filter_wise` of mergekit's `model_stock`. We differ
from mergekit in measuring the differences in float64 and rounding the sum once; in limiting t to [0, 1],
where two opposite vectors with c = -0.9 give it t = -18; and in having no absolute threshold: its 1e-6 below
products of norms turned t = 0.89 into 0.004 at a product of 2e-9, as single tensors of small fine-tunes have.

Cost: two reads; by row, one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, combinations_with_replacement
from math import fsum
from typing import TYPE_CHECKING, Any, Literal

from fusion_slerp import passes
from fusion_slerp.methods import span
from fusion_slerp.methods.method import Method, Unit
from fusion_slerp.methods.task_vector_options import TowardsBase
from fusion_slerp.options import one_of, option

if TYPE_CHECKING:
    import numpy as np

    from fusion_slerp.passes.gram import GramMatrix
    from fusion_slerp.passes.many import AtOnce, Decided
    from fusion_slerp.passes.protocols import Steps

RowOrTensor = Literal["tensor", "row"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStockOptions(TowardsBase):
    """The options of model stock.

    Attributes:
        granularity: The unit with its own t: the whole `"tensor"`, or each `"row"` of a matrix.
    """

    granularity: RowOrTensor = option("tensor", one_of(RowOrTensor), "tensor", panel="Merging")


@dataclass(frozen=True, slots=True)
class ModelStockParameters:
    """The parameters of one unit.

    Attributes:
        n: Number of models.
        towards_base: As in the options.
    """

    n: int
    towards_base: float


def model_stock(p: ModelStockParameters, unit: Unit) -> Steps:
    """Interpolates between the base and the mean of the models."""
    gram = yield from span.measured(is_relative=True)
    t, rule = position(gram)
    combine = passes.WeightedSum(span.of_task_vectors([t / p.n] * p.n, p.towards_base))
    return passes.Made(combine, rule, gram, gram.angle_deg)


def position(gram: GramMatrix) -> tuple[float, str]:
    """Returns t, from the base (0) to the mean (1), and the rule."""
    pairs = list(combinations(range(gram.n), 2))
    known = [gram.cosine(i, j) for i, j in pairs if gram.norms[i] and gram.norms[j]]
    c = fsum(known) / len(pairs)
    t = min(1.0, gram.n * c / (1.0 + (gram.n - 1) * c)) if c > 0 else 0.0
    return t, _rule(c, bool(known))


def _rule(c: float, has_directions: bool) -> str:
    if c > 0:
        return "model_stock"
    return "model_stock: base" if has_directions else "model_stock: zero vectors"


def at_once(p: ModelStockParameters) -> AtOnce:
    """Returns what decides many units by one call, each as `model_stock` decides it."""
    from fusion_slerp.passes.many import AtOnce

    return AtOnce(is_relative=True, decide=partial(_decide, p))


def _decide(p: ModelStockParameters, products: np.ndarray) -> Decided:
    import numpy as np  # the options are available without it

    from fusion_slerp.passes.many import Decided

    indexes = list(combinations_with_replacement(range(p.n), 2))
    norms = np.sqrt(products[:, [i == j for i, j in indexes]])
    is_decided = np.isfinite(products).all(axis=1) & ~span.needs_scaling(norms)
    cosines, has_any = [], np.zeros(len(products), bool)
    with np.errstate(all="ignore"):
        for (i, j), product in zip(indexes, products.T, strict=True):
            if i < j:
                is_known = (norms[:, i] > 0) & (norms[:, j] > 0)
                cosine = np.clip(product / (norms[:, i] * norms[:, j]), -1.0, 1.0)
                cosines.append(np.where(is_known & is_decided, cosine, 0.0))
                has_any |= is_known
        of_units = zip(*(each.tolist() for each in cosines), strict=True)
        c = np.array([fsum(of_unit) / len(cosines) for of_unit in of_units])
        t = np.where(c > 0, np.minimum(1.0, p.n * c / (1.0 + (p.n - 1) * c)), 0.0)
    rules = [_rule(*each) for each in zip(c.tolist(), has_any.tolist(), strict=True)]
    return Decided(span.of_many_task_vectors(t / p.n, p.n, p.towards_base), rules, is_decided)


def _parameters(
    options: ModelStockOptions, values: Mapping[str, Any], labels: Sequence[str]
) -> ModelStockParameters:
    return ModelStockParameters(len(labels) - 1, options.towards_base)


MODEL_STOCK = Method(
    name="model_stock",
    n_models=(2, None),
    options=ModelStockOptions,
    parameters=_parameters,
    used=lambda p: list(range(p.n + 1)),
    copied=lambda p: p.n if p.towards_base == 1 else None,
    passes=lambda p: (1, 3),
    steps=model_stock,
    summary="mean of the models, moved towards their base by their angles (model_stock)",
    base="needed",
    at_once=at_once,
)
