"""TIES: trims task vectors, elects a sign for each element, and averages the models that agree with it.

    d_i = x_i - base                                  task vectors
    trim:   keep the k = max(1, floor(density_i n)) largest |d_i|; of equal ones, those with the lower index
    elect:  the sign of sum_i w_i d_i over what was kept; a sum of zero counts as positive
    merge:  D = sum of w_i d_i over the models whose w_i d_i has that sign,
            divided by the sum of their w_i with `normalize`
    result: base + scaling_factor D

k is 0 if the density is 0. Each tensor is trimmed on its own. If the weights of those that agree add up to
zero, as negative weights can, their sum is not divided. With `rescale`, each trimmed d_i is multiplied by the
sum of all its magnitudes over the sum of those that were kept, before the election.

Purpose: merging fine-tunes of one base for different tasks. Most of what a fine-tune changes is small and, so
the idea, has no effect, and where the rest of two models disagree in sign, adding them up cancels both. A
usual start is a density of 0.5 and equal weights; at low densities, `scaling_factor` or `rescale` make up for
what was trimmed. The paper's evidence is vision models and T5. It does not carry over to language models as
such: in a study of four of them, with twelve fine-tunes of each and 16 benchmarks
(https://arxiv.org/abs/2511.21437), plain `task_arithmetic` was the only method that gained reliably, and TIES
mostly stayed at the base's level or below. So compare the result with `task_arithmetic`, and with the best of
the models.

Source: P. Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", NeurIPS 2023,
https://arxiv.org/abs/2306.01708; weights per model, `normalize` and `rescale` are those of mergekit's `ties`.
The k-th largest magnitude is exact, found by counting (see `passes.ranks`), and the sign is that of the exact
sum. Magnitudes are compared as float32. We differ from mergekit 0.1.5 in two ways. Its sort leaves open which
of equal magnitudes are kept: of 65,536 differences of bfloat16 models only 585 were distinct, and 5,710 had
the magnitude of the cut. And it computes in the models' type, so that signs and sums are those of rounded
numbers, and `rescale` in float16 can overflow; here everything is float64, and the result is rounded once.
FusionBench trims the whole model as one vector, keeps all elements that are equal to the cut, and gives sums
of zero the sign of the model's majority.

Cost: three reads at most, of which the second is rarely needed for 16-bit models: counting, and the sum;
`rescale` takes one more. No sort, and memory that does not grow with the tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
from fusion_slerp.options import BOOLEAN, option

if TYPE_CHECKING:
    from fusion_slerp.passes.protocols import Steps


@dataclass(frozen=True, slots=True, kw_only=True)
class TiesOptions(Sparse):
    """The options of TIES.

    Attributes:
        normalize: Divide each element's sum by the sum of the weights of the models that agree.
    """

    normalize: bool = option(True, BOOLEAN, True, panel="Merging")


def ties(p: SparseParameters, unit: Unit) -> Steps:
    """Trims, elects and merges task vectors."""
    n = unit.n_elements
    ranks = {i: [_n_kept(density, n)] for i, density in enumerate(p.densities)}
    cuts = yield from passes.cuts(ranks, n)
    selection = passes.ByMagnitude(tuple((passes.NOTHING, cut) for (cut,) in cuts.values()))
    factors = (yield from rescaling(selection)) if p.rescale else None
    table = table_of(p, factors, is_elected=True)
    return passes.Made(passes.SelectedSum(selection, table, votes_of(p, factors)), "ties")


def _n_kept(density: float, n: int) -> int:
    return min(n, max(1, int(density * n))) if density else 0


def _passes(p: SparseParameters) -> tuple[int, int]:
    trims = any(0 < density < 1 for density in p.densities)
    return trims + p.rescale, 2 * trims + p.rescale


TIES = Method(
    name="ties",
    n_models=(1, None),
    options=TiesOptions,
    parameters=parameters_of,
    used=used,
    copied=copied,
    passes=_passes,
    steps=ties,
    summary="trimmed task vectors with elected signs (TIES)",
    base="needed",
    is_in_span=False,
)
