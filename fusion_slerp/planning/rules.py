"""The rules of arithmetic, by number: they say whether a merged model's bytes can be reproduced."""

from __future__ import annotations

RULES = 6
"""The rules of this version; every manifest states its model's, and two merges by different rules are not the
same merge.

    1   fusion_slerp up to format 1 of the manifest.
    2   The sums of columns, and the means that fill rows which no model has, are added in another order, so
        their last digits may differ. Everything else gives the same bytes as rules 1.
    3   Each matrix of an expert is a unit, also where a tensor holds several. Everything else gives the same
        bytes as rules 2.
    4   Methods that draw elements by rank give equal magnitudes one probability. Everything else gives the
        same bytes as rules 3.
    5   The random words of methods that draw elements are taken from the generator in halves. Everything else
        gives the same bytes as rules 4.
    6   The sums that methods measure over the elements of a tensor or a row are added in a different order,
        so their last digits may differ. Tensors that are not measured have the same bytes as under rules 5.
"""

EXPERTS_APART = 3
"""From these rules on, the report of a merge lists a tensor of all experts matrix by matrix."""

WORDS_IN_HALVES = 5
"""From these rules on, the halves of a random word come from two counters."""

SUMS_IN_64_LANES = 6
"""From these rules on, sums over the elements of a chunk are added in the order of `kernels.building`."""
