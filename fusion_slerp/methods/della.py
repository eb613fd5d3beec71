"""DELLA: keeps elements of task vectors at random, large ones more often, and of these what agrees in sign.

    d_i = x_i - base                                        task vectors
    rank:    r = 0 ... n-1 of |d_i| in its row of n elements, from the smallest; equal ones have their mean
    drop:    m_i = 1 with probability density_i - epsilon_i + 2 epsilon_i r / (n-1), else 0
    rescale: r_i = sum |d_i| / sum |m_i d_i| over the tensor      (1 without `rescale`, or if nothing is kept)
    elect:   the sign of sum_i w_i r_i m_i d_i; a sum of zero counts as positive
    merge:   D = sum of w_i r_i m_i d_i over the models whose term has that sign,
             divided by the sum of their w_i with `normalize`
    result:  base + scaling_factor D

A row runs along all dimensions but the first: a row of a matrix, the whole of a vector. Rows of one element
have the probability `density`. Elements without a difference count in the ranks, and are never kept: they
would add nothing. Rows that are longer than a chunk (1,048,576 elements) are ranked in parts, which end at
its multiples in the tensor. Magnitudes are compared as float32. Equal magnitudes have equal probabilities:
that of the mean of their ranks.

All probabilities must be inside (0, 1), or the merge is refused. A density of 0 keeps nothing of a model and
a density of 1, the default, everything, whatever epsilon is.

Purpose: as `dare_ties`, with a probability that follows the size of a change, since the largest changes of a
fine-tune carry most of what it learned. With an epsilon of 0 it is `dare_ties` with `normalize`. The paper
reports 3.6 points more than TIES and 1.2 more than DARE, on average over combinations of three fine-tunes of
one model of 13 billion parameters (instructions, mathematics, code). It was not part of the largest
comparison of merging for language models (https://arxiv.org/abs/2511.21437), in which plain task arithmetic
was the only method that gained reliably. So compare the result with `task_arithmetic`.

Source: P. T. Deep, R. Bhardwaj, S. Poria, "DELLA-Merging: Reducing Interference in Model Merging through
Magnitude-Based Sampling", https://arxiv.org/abs/2406.11617. `epsilon` is half the paper's spread. The paper
divides each kept element by its own probability; the ratio of sums of magnitudes is mergekit's. We differ
from mergekit 0.1.5 in ranking along the rows of tensors of three dimensions as well (it ranks along their
second dimension); in rows of one element, which end it with an error; in equal magnitudes, of which
differences of bfloat16 models have many (there each has a rank of its own, in an order that its sort leaves
open); in random numbers that do not depend on the order of the models (there, swapping them changes 75 % of
the elements; see `methods.drawing`); and in an exact sum that is rounded once.

Cost: two reads, the first for the ratio; one without `rescale`. Ranks are found by counting, row by row, and
only where a random word leaves a doubt are magnitudes sorted (see `kernels.ranked_masks`).
"""

from __future__ import annotations

from dataclasses import dataclass

from fusion_slerp.methods.drawing import RankedDrawing, drawing_method
from fusion_slerp.options import BOOLEAN, option


@dataclass(frozen=True, slots=True, kw_only=True)
class DellaOptions(RankedDrawing):
    """The options of DELLA.

    Attributes:
        normalize: Divide each element's sum by the sum of the weights of the models that agree.
    """

    normalize: bool = option(True, BOOLEAN, True, panel="Merging")


DELLA = drawing_method(
    "della",
    DellaOptions,
    "task vectors thinned by magnitude, with elected signs (DELLA)",
    is_elected=True,
)
