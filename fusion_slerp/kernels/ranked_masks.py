"""Kernel that draws masks by rank: in each row, the larger a difference, the more likely its bit is set.

Ranks are those of (key, index), from 0 for the smallest; the bit is set if the element's word is below the
threshold of its rank (see `random_words`). Thresholds rise with the rank, so bins of neighbouring keys decide
most elements: a word is below the threshold of the smallest rank in its bin, or not below that of the
largest. For the few words between the two the exact rank is found. Where all keys of a bin are equal, it
follows from the order of the indexes, which is known from counting; else the bin is sorted.

An element without a difference is never drawn: it would add nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from fusion_slerp.kernels.building import POINTER, VOID, element, function, loop, of_each, of_one
from fusion_slerp.kernels.elements import I16, I32, I64, LLVM_TYPES
from fusion_slerp.kernels.random_words import store_words
from fusion_slerp.kernels.ranked_rows import (
    LOWEST_BIN,
    NOTHING_OPEN,
    add_bit,
    bins_of_row,
    compare_row,
    count_row,
    each_flagged,
    keys_of_row,
    limits_of_bins,
    may_vary,
    settle_bin,
)
from fusion_slerp.kernels.sorting import sorting

BINADES = 16
"""Powers of two below the largest difference that have bins of their own."""

ELEMENTS_PER_BIN, NARROW_ELEMENTS_PER_BIN = 2, 8
"""Elements of a row for each bin, at least; and where numbers have bins of their own."""

MOST_FRACTION_BITS = 8
"""Bits of a key's fraction that bins distinguish, at most."""

FRACTION_BITS = 23
"""Of a key."""


def bins_for(width: int, is_narrow: bool) -> tuple[int, int]:
    """Returns the number of bins for rows of some length, and the bits of a key that they do not distinguish.

    Args:
        width: The length.
        is_narrow: Whether numbers that fit into the distinguished bits have bins of their own.
    """
    per_bin = NARROW_ELEMENTS_PER_BIN if is_narrow else ELEMENTS_PER_BIN
    n_bits = max(0, min(MOST_FRACTION_BITS, (width // (per_bin * BINADES)).bit_length() - 1))
    return LOWEST_BIN + (BINADES << n_bits), FRACTION_BITS - max(0, n_bits - is_narrow)


def rank_masks(dtypes: Sequence[str]) -> ir.Module:
    """Adds a bit to the masks of elements that are drawn by rank, row by row.

    Arrays: a model, base, masks; numbers (int64): the index of the first element, elements of a row, key,
    bit, number of bins, undistinguished bits of a key; thresholds by rank (uint32). Memory for a row and
    PADDING: keys, words, preceding (uint32), pairs (uint64), bins (uint16), flags (uint8). Memory for the
    bins: counts, limits (uint32).
    """
    module = ir.Module("rank_masks")
    row = _row(module, dtypes)
    made, b, size, (model, base, masks, numbers, *memory), _ = of_one(
        module, "rank_masks_one", I64, len(dtypes), 0
    )
    start, width, *others = (b.load(element(b, numbers, I64(i), I64), typ=I64) for i in range(6))
    with loop(b, b.udiv(size, width)) as k:
        first = b.mul(k, width)
        here = [
            element(b, array, first, LLVM_TYPES[dtype])
            for array, dtype in zip((model, base, masks), dtypes, strict=False)
        ]
        b.call(row, [b.add(start, first), width, *others, *here, *memory])
    b.ret(I64(0))
    of_each(module, made, len(dtypes), 0)
    return module


def _row(module: ir.Module, dtypes: Sequence[str]) -> ir.Function:
    """Adds the function for one row; it takes the numbers, then the arrays without them."""
    steps = {
        step: step(module, dtypes)
        for step in (keys_of_row, bins_of_row, count_row, limits_of_bins, compare_row)
    }
    settle = settle_bin(module, sorting(module))
    made, b = function(module, "mask_row", VOID, [*[I64] * 6, *[POINTER] * (len(dtypes) - 1)])
    made.linkage = "internal"
    start, n, key, bit, n_bins, n_bits, model, base, masks, thresholds, *memory = made.args
    keys, words, preceding, pairs, bins, flags, counts, limits = memory
    bit = b.trunc(bit, I16)
    largest = b.call(steps[keys_of_row], [n, model, base, keys])
    b.call(steps[bins_of_row], [n, keys, bins, largest, b.trunc(n_bits, I32), b.trunc(n_bins, I32)])
    b.call(steps[count_row], [n, bins, preceding, counts, n_bins])
    b.call(steps[limits_of_bins], [n_bins, counts, thresholds, limits])
    words = store_words(b, words, start, n, key)
    b.call(steps[compare_row], [n, bins, words, limits, masks, flags, bit])
    with each_flagged(b, flags, n) as i:
        bin_of = b.zext(b.load(element(b, bins, i, I16), typ=I16), I64)
        key_of_it = b.load(element(b, keys, i, I32), typ=I32)
        is_new = b.icmp_unsigned("!=", b.load(element(b, limits, bin_of, I32), typ=I32), I32(NOTHING_OPEN))
        with b.if_then(b.and_(is_new, may_vary(b, bin_of, key_of_it, b.trunc(n_bits, I32), dtypes))):
            b.call(settle, [n, bin_of, keys, bins, preceding, pairs])
            b.store(I32(NOTHING_OPEN), element(b, limits, bin_of, I32))
        first_rank = b.load(element(b, counts, bin_of, I32), typ=I32)
        rank = b.add(first_rank, b.load(element(b, preceding, i, I32), typ=I32))
        threshold = b.load(element(b, thresholds, b.zext(rank, I64), I32), typ=I32)
        is_drawn = b.icmp_unsigned("<", b.load(element(b, words, i, I32), typ=I32), threshold)
        add_bit(b, element(b, masks, i, I16), is_drawn, bit)
    b.ret_void()
    return made
