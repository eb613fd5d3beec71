"""DELLA without the election: keeps elements of task vectors at random, large ones more often, and adds them.

    d_i = x_i - base                                        task vectors
    rank:    r = 0 ... n-1 of |d_i| in its row of n elements, from the smallest; equal ones have their mean
    drop:    m_i = 1 with probability density_i - epsilon_i + 2 epsilon_i r / (n-1), else 0
    rescale: r_i = sum |d_i| / sum |m_i d_i| over the tensor      (1 without `rescale`, or if nothing is kept)
    merge:   D = sum of w_i r_i m_i d_i, divided by the sum of all w_i with `normalize`
    result:  base + scaling_factor D

Rows, ranks, probabilities and their limits are those of `della`, as are its purpose, evidence and source.
With an epsilon of 0 this is `dare_linear`.

Source: `della_linear` of mergekit, https://github.com/arcee-ai/mergekit, from which we differ as `della`
does.

Cost: two reads, the first for the ratio; one without `rescale`.
"""

from __future__ import annotations

from fusion_slerp.methods.drawing import RankedDrawing, drawing_method

DELLA_LINEAR = drawing_method(
    "della_linear",
    RankedDrawing,
    "the sum of task vectors thinned by magnitude (della_linear)",
    is_elected=False,
)
