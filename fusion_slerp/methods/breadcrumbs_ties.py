"""Breadcrumbs with elected signs: the masks of `breadcrumbs`, then the election and the sum of `ties`.

    mask:   as `breadcrumbs`: without the largest floor(gamma_i n) elements, the next floor(density_i n)
    elect:  the sign of sum_i w_i d_i over what was kept; a sum of zero counts as positive
    merge:  D = sum of w_i d_i over the models whose w_i d_i has that sign,
            divided by the sum of their w_i with `normalize`
    result: base + scaling_factor D

Purpose: `ties` whose largest changes are left out as outliers. It is a combination that mergekit offers and
nobody has published an evaluation of; what `breadcrumbs` and `ties` say about theirs holds here too.

Source: M. Davari, E. Belilovsky, "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks",
ECCV 2024, https://arxiv.org/abs/2312.06795; P. Yadav et al., "TIES-Merging: Resolving Interference When
Merging Models", NeurIPS 2023, https://arxiv.org/abs/2306.01708. Parameters and defaults are those of
mergekit's `breadcrumbs_ties`: `normalize` is false, unlike that of `ties`. We differ from mergekit as both
methods do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusion_slerp.methods.breadcrumbs import (
    BreadcrumbsOptions,
    BreadcrumbsParameters,
    breadcrumbs_parameters,
    breadcrumbs_passes,
    masked,
)
from fusion_slerp.methods.method import Method, Unit
from fusion_slerp.methods.sparse import copied, used

if TYPE_CHECKING:
    from fusion_slerp.passes.protocols import Steps


def breadcrumbs_ties(p: BreadcrumbsParameters, unit: Unit) -> Steps:
    """Masks task vectors, elects signs, and adds up those that agree."""
    return (yield from masked(p, unit, is_elected=True))


BREADCRUMBS_TIES = Method(
    name="breadcrumbs_ties",
    n_models=(1, None),
    options=BreadcrumbsOptions,
    parameters=breadcrumbs_parameters,
    used=used,
    copied=copied,
    passes=breadcrumbs_passes,
    steps=breadcrumbs_ties,
    summary="task vectors' middle elements, with elected signs (breadcrumbs_ties)",
    base="needed",
    is_in_span=False,
)
