"""DARE: keeps elements of task vectors at random, rescales them, and adds their weighted sum to the base.

    d_i = x_i - base                                        task vectors
    drop:    m_i = 1 with probability density_i, else 0, for each element of each model
    rescale: r_i = sum |d_i| / sum |m_i d_i| over the tensor      (1 without `rescale`, or if nothing is kept)
    merge:   D = sum of w_i r_i m_i d_i, divided by the sum of all w_i with `normalize`
    result:  base + scaling_factor D

A density of 0 keeps nothing of a model, a density of 1 everything.

Purpose: fine-tuned models interfere less if their differences from the base overlap less. Most of a task
vector is redundant: the paper drops 90 % and more of it at random without loss, if the rest is scaled up.
Where this fails, according to the paper: after continued pretraining, whose differences of around 0.03 are
larger than the 0.002 of a fine-tune. The evidence is the paper's, for GLUE, instructions, mathematics and
code. The largest comparison of merging for language models (four of 3 to 8 billion parameters, with twelve
fine-tunes of each and 16 benchmarks, https://arxiv.org/abs/2511.21437) did not try it; there, plain task
arithmetic was the only method that gained reliably, and dropping parts of task vectors, as TIES does, rarely
gained anything. So compare the result with `task_arithmetic`, which is this method with a density of 1.

Source: L. Yu, B. Yu, H. Yu, F. Huang, Y. Li, "Language Models are Super Mario: Absorbing Abilities from
Homologous Models as a Free Lunch", ICML 2024, https://arxiv.org/abs/2311.03099. The paper divides by the
density. The ratio of sums of magnitudes is mergekit's: it has the same expectation, and preserves the sum of
magnitudes exactly; at a density of 0.3 it was 3.314 in one tensor, where 1/0.3 is 3.333. We differ from
mergekit 0.1.5 in three ways. Its masks come from one stream of random numbers: unseeded unless
`--random-seed` is given, and merging the same models in another order changes 75 % of the elements; ours
depend on names (see `methods.drawing`). In bfloat16 it computes that ratio as 3.312. It works in the models'
type; here the sum is exact and rounded once.

Cost: two reads, the first for the ratio; one without `rescale`.
"""

from __future__ import annotations

from fusion_slerp.methods.drawing import Drawing, drawing_method

DARE_LINEAR = drawing_method(
    "dare_linear",
    Drawing,
    "the sum of randomly thinned task vectors (dare_linear)",
    is_elected=False,
)
