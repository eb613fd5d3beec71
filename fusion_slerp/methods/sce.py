"""SCE: selects the elements in which the models differ most, weights models by what they changed there, and
elects signs.

    d_i = x_i - base                                     task vectors
    select:    the variance of d_i over the models, for each element; the k = floor(select_topk m) elements
               of the largest variance, of the m whose variance is not zero, and all whose variance is equal
               to the smallest of these; all elements if `select_topk` is 1
    calculate: w_i = E_i / sum of all E, with E_i the sum of the squares of d_i over the selected elements
    erase:     for each element the sign of sum_i d_i; a sum of zero counts as positive
    merge:     D = sum of w_i d_i / sum of w_i over the models whose d_i has that sign
    result:    base + D

Selected elements with equal variance are all taken, so the result does not depend on the order of elements.
If k is 0, as where no models differ, the result is the base. One model alone has no variance: all its
elements are taken, so the result is that model.

Purpose: fusing chat models that were tuned from one base to follow other chat models, without weights to
choose: a model that changed a tensor more counts more there. The evidence is that of the paper, for its own
models. A study of merging four language models with twelve fine-tunes of each
(https://arxiv.org/abs/2511.21437) found that only task arithmetic gained reliably, and methods that resolve
conflicts by selecting elements rarely did. So compare the result with `task_arithmetic`, and with the best of
the models.

Source: F. Wan et al., "FuseChat: Knowledge Fusion of Chat Models", https://arxiv.org/abs/2408.07990;
parameters and defaults are those of mergekit's `sce`. We differ from mergekit 0.1.5 in the weights: it takes
equal ones if the mean squares add up to less than 1e-6, as those of ordinary fine-tunes do (of rms 2e-4 and
6e-4 it makes 0.5 and 0.5, not 0.1 and 0.9); here no size is special. If `select_topk` is below 1,
its result of one model is the base. Its sort leaves open which of equal variances are taken. It computes in
the models' type; here variances are compared as float32, everything else is float64, and the result is
rounded once.

Cost: four reads at most: the ranks of the variance in one or two, the squares, the sum; two if `select_topk`
is 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import TYPE_CHECKING, Any

from fusion_slerp import passes
from fusion_slerp.methods.method import Method, Unit
from fusion_slerp.methods.sparse import by_set, check_number
from fusion_slerp.methods.task_vector_options import TowardsBase
from fusion_slerp.options import Check, is_number, option

if TYPE_CHECKING:
    from fusion_slerp.passes.protocols import Steps
    from fusion_slerp.passes.selections import Selection

KEPT_NBYTES = 16 << 20
"""Masks of a tensor that are kept from measuring to writing, at most."""

SHARE = Check(lambda v: is_number(v) and 0 < v <= 1, "a number in (0, 1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class SceOptions(TowardsBase):
    """The options of SCE.

    Attributes:
        select_topk: The part of the elements in which the models differ that is merged, in (0, 1]: those of
            the largest variance, tensor by tensor.
    """

    select_topk: float = option(1.0, SHARE, 0.2, panel="Merging")


@dataclass(frozen=True, slots=True)
class SceParameters:
    """The parameters of one unit.

    Attributes:
        n: Number of models.
        share: The part of the differing elements that is selected, in (0, 1].
        factor: Of the merged task vector, in front of the base.
    """

    n: int
    share: float
    factor: float


def sce(p: SceParameters, unit: Unit) -> Steps:
    """Selects elements, weights the models, and merges those that agree."""
    if p.n == 1:
        return passes.Made(passes.WeightedSum((p.factor, fsum((1.0, -p.factor)))), "sce: one model")
    selection: Selection = passes.BySpread(0)
    if p.share < 1:
        cut = yield from passes.cut_of_spread(p.share)
        selection = passes.BySpread(cut.key + (not cut.quota))
        selection = passes.Kept(selection, KEPT_NBYTES) if unit.has_one_order else selection
    energies = yield passes.SelectedSquares(selection)

    def of_set(chosen: Sequence[int]) -> list[float]:
        total = fsum(energies[i] for i in chosen)
        return [p.factor * (energies[i] / total) if total else 0.0 for i in chosen]

    return passes.Made(passes.SelectedSum(selection, by_set(p.n, of_set), votes=(1.0,) * p.n), "sce")


def _parameters(options: SceOptions, values: Mapping[str, Any], labels: Sequence[str]) -> SceParameters:
    n = len(labels) - 1
    check_number(n)
    return SceParameters(n, options.select_topk, 1.0 - options.towards_base)


def _copied(p: SceParameters) -> int | None:
    if not p.factor:
        return p.n
    return 0 if p.n == 1 and p.factor == 1 else None


def _passes(p: SceParameters) -> tuple[int, int]:
    if p.n == 1:
        return 0, 0
    return (2, 3) if p.share < 1 else (1, 1)


SCE = Method(
    name="sce",
    n_models=(1, None),
    options=SceOptions,
    parameters=_parameters,
    used=lambda p: range(p.n + 1),
    copied=_copied,
    passes=_passes,
    steps=sce,
    summary="elements that differ most, by what each model changed (SCE)",
    base="needed",
    is_in_span=False,
)
