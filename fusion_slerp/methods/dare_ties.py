"""DARE with TIES' election: keeps elements of task vectors at random, and of these what agrees in sign.

    d_i = x_i - base                                        task vectors
    drop:    m_i = 1 with probability density_i, else 0, for each element of each model
    rescale: r_i = sum |d_i| / sum |m_i d_i| over the tensor      (1 without `rescale`, or if nothing is kept)
    elect:   the sign of sum_i w_i r_i m_i d_i; a sum of zero counts as positive
    merge:   D = sum of w_i r_i m_i d_i over the models whose term has that sign,
             divided by the sum of their w_i with `normalize`
    result:  base + scaling_factor D

A density of 0 keeps nothing of a model, a density of 1 everything: then this is `ties` without trimming.

Purpose: as `dare_linear`, and models that disagree about an element's direction do not cancel each other. At
low densities few elements are kept of more than one model, so the election changes little: at a density of
0.3, two models meet in 9 % of the elements. Many recipes on the Hub use it; the evidence is that for
`dare_linear`.

Source: L. Yu et al., "Language Models are Super Mario", ICML 2024, https://arxiv.org/abs/2311.03099;
P. Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", NeurIPS 2023,
https://arxiv.org/abs/2306.01708; their combination, weights per model, `normalize` and `rescale` are those of
mergekit's `dare_ties`, from which we differ as `dare_linear` does.

Cost: two reads, the first for the ratio; one without `rescale`.
"""

from __future__ import annotations

from fusion_slerp.methods.drawing import Drawing, drawing_method

DARE_TIES = drawing_method(
    "dare_ties",
    Drawing,
    "randomly thinned task vectors with elected signs (dare_ties)",
    is_elected=True,
)
