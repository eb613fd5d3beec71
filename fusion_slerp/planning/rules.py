"""The rules of arithmetic, by number: they say whether a merged model's bytes can be reproduced."""

from __future__ import annotations

RULES = 2
"""The rules of this version; every manifest states its model's, and two merges by different rules are not the
same merge.

    1   fusion_slerp up to format 1 of the manifest.
    2   The sums of columns, and the means that fill rows which no model has, are added in another order, so
        their last digits may differ. Everything else gives the same bytes as rules 1.
"""
