"""Model breadcrumbs: task vectors without their smallest and without their largest elements, added to the
base.

    d_i = x_i - base                                       task vectors
    order:  largest |d_i| first; of equal ones, those with the lower index first
    mask:   leave out the first floor(gamma_i n), keep the next floor(density_i n), leave out the others
    merge:  D = sum of w_i d_i over what was kept, divided by the sum of all w_i with `normalize`
    result: base + scaling_factor D

Each tensor is masked on its own. If gamma and density add up to more than 1, there are fewer elements left
than the density asks for: all of these are kept, and gamma is honoured.

Purpose: the largest changes of a fine-tune are taken for outliers that harm the other models, the smallest
for noise. Typical values are a density of 0.9 and a gamma of 0.01. The evidence is that of the paper: vision
models (CLIP), and T5 on GLUE. In a study of four language models, with twelve fine-tunes of each and 16
benchmarks (https://arxiv.org/abs/2511.21437), plain task arithmetic was the only method that gained reliably;
it did not try breadcrumbs, but methods that select elements, as this one does, rarely gained anything. So
compare the result with `task_arithmetic`, and with the best of the models.

Source: M. Davari, E. Belilovsky, "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks",
ECCV 2024, https://arxiv.org/abs/2312.06795; weights per model, `density` (the paper's percentiles between
beta and gamma), `normalize` and `rescale` are those of mergekit's `breadcrumbs`. We differ from mergekit
0.1.5 in three ways. It ignores gamma at a density of 1, its default, and drops fewer outliers than gamma asks
for if the two add up to more than 1 (5 % instead of 10 % at 0.95 and 0.1). Its sort leaves open which of
equal magnitudes are kept, of which differences of bfloat16 models have many (585 distinct ones among 65,536).
It computes in the models' type; here the sum is exact and rounded once.

Cost: three reads at most, of which the second is rarely needed for 16-bit models: counting (see
`passes.ranks`), and the sum; `rescale` takes one more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusion_slerp import passes
from fusion_slerp.methods.method import Method, Unit
from fusion_slerp.methods.sparse import (
    SparseParameters,
    copied,
    parameters_of,
    rescaling,
    table_of,
    used,
    votes_of,
)
from fusion_slerp.methods.task_vector_options import Sparse
from fusion_slerp.options import UNIT_INTERVAL, option

if TYPE_CHECKING:
    from fusion_slerp.passes.protocols import Steps


LEAST_SHARE = 2.0**-20
"""A smaller part of a tensor of a chunk is no element."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreadcrumbsOptions(Sparse):
    """The options of breadcrumbs.

    Attributes:
        gamma: The part of each task vector that is left out because it is largest, in [0, 1]: one for all
            models, or in the forms of `weight`.
    """

    gamma: Any = option(0.01, UNIT_INTERVAL, 0.02, panel="Merging", is_schedule=True, is_per_model=True)


@dataclass(frozen=True, slots=True)
class BreadcrumbsParameters(SparseParameters):
    """The parameters of one unit.

    Attributes:
        gammas: The part of each task vector that is left out because it is largest, in [0, 1].
    """

    gammas: tuple[float, ...]


def breadcrumbs(p: BreadcrumbsParameters, unit: Unit) -> Steps:
    """Masks task vectors and adds them up."""
    return (yield from masked(p, unit, is_elected=False))


def masked(p: BreadcrumbsParameters, unit: Unit, is_elected: bool) -> Steps:
    """Masks task vectors, and adds them up, or those that agree with an elected sign."""
    n = unit.n_elements
    ranks = {
        i: (int(gamma * n), min(n, int(gamma * n) + int(density * n)))
        for i, (gamma, density) in enumerate(zip(p.gammas, p.densities, strict=True))
    }
    cuts = yield from passes.cuts(ranks, n)
    selection = passes.ByMagnitude(tuple((left_out, kept) for left_out, kept in cuts.values()))
    factors = (yield from rescaling(selection)) if p.rescale else None
    table = table_of(p, factors, is_elected)
    votes = votes_of(p, factors) if is_elected else None
    rule = "breadcrumbs_ties" if is_elected else "breadcrumbs"
    return passes.Made(passes.SelectedSum(selection, table, votes), rule)


def breadcrumbs_parameters(
    options: BreadcrumbsOptions, values: Mapping[str, Any], labels: Sequence[str]
) -> BreadcrumbsParameters:
    """Returns the parameters; see `Method.parameters`."""
    gammas = tuple(values["gamma"][label] for label in labels[:-1])
    p = parameters_of(options, values, labels)
    return BreadcrumbsParameters(p.weights, p.densities, p.factor, p.normalize, p.rescale, gammas)


def breadcrumbs_passes(p: BreadcrumbsParameters) -> tuple[int, int]:
    """Returns the fewest and the most passes that measure a tensor of more than a chunk."""
    shares = [(gamma, gamma + density) for gamma, density in zip(p.gammas, p.densities, strict=True)]
    has_ranks = any(LEAST_SHARE <= share < 1 for pair in shares for share in pair)
    return has_ranks + p.rescale, 2 * has_ranks + p.rescale


BREADCRUMBS = Method(
    name="breadcrumbs",
    n_models=(1, None),
    options=BreadcrumbsOptions,
    parameters=breadcrumbs_parameters,
    used=used,
    copied=copied,
    passes=breadcrumbs_passes,
    steps=breadcrumbs,
    summary="task vectors without their smallest and largest elements (breadcrumbs)",
    base="needed",
    is_in_span=False,
)
