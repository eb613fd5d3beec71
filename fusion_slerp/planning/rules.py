"""The rules of arithmetic, by number: they say whether the bytes of a merged model can be made again."""

from __future__ import annotations

RULES = 2
"""The rules that this version merges by; every manifest names those of its model, and two merges by different
rules are not the same merge.

    1   fusion_slerp up to format 1 of the manifest.
    2   The sums of columns, and the means that fill rows which no model gives, are added in another order, so
        their last digits may differ. Everything else gives the bytes of rules 1.
"""
