"""Kernel that draws masks by rank: in each row, the larger a difference, the more likely its bit is set.

Elements are ordered by key (see `keys`). The rank sum of an element is the smallest plus the largest rank,
from 0, of the elements in the row that have its key: twice their mean rank. The bit is set if the element's
word (see `random_words`) is below the threshold of this sum:

    rint(2^32 * ((density - spread) + sum * (spread / (n - 1))))          in float64; at most 2^32 - 1

Thresholds rise with the sum, so bins of neighbouring keys decide most elements. Where a bin has one key, its
count gives the sum. Else a word is below the threshold that the smallest rank in the bin would have if it
were alone, or not below that of the largest; for the few words between the two the bin is sorted.

An element without a difference is never drawn: it would add nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from llvmlite import ir

from fusion_slerp.kernels.building import (
    POINTER,
    VOID,
    element,
    function,
    loop,
    of_each,
    of_one,
    summing_one,
)
from fusion_slerp.kernels.doubts import WIDTH
from fusion_slerp.kernels.elements import F64, I8, I16, I32, I64, LLVM_TYPES, MASK, Builder, Value
from fusion_slerp.kernels.packed_masks import pack_one
from fusion_slerp.kernels.random_words import HALVES_PER_COUNTER, UPPER, lower_half, n_stored, store_halves
from fusion_slerp.kernels.ranked_doubts import decide_flagged
from fusion_slerp.kernels.ranked_limits import limits_of_bins
from fusion_slerp.kernels.ranked_rows import (
    COUNTERS,
    LOWEST_BIN,
    bins_of_row,
    codes_of_row,
    compare_row,
    count_bins,
)
from fusion_slerp.kernels.selection import terms_of_magnitudes

BINADES = 10
"""Powers of two below the largest difference that have bins of their own."""

ELEMENTS_PER_BIN, NARROW_ELEMENTS_PER_BIN = 2, 6
"""Elements of a row for each bin, at least; and where numbers have bins of their own."""

MOST_FRACTION_BITS = 7
"""Bits of a key's fraction that bins distinguish, at most: with sign and exponent they fit into 16 bits."""

FRACTION_BITS = 23
"""Of a key."""

LINE_NBYTES = 64
"""Of a cache."""

START_AT, WIDTH_AT, IS_FRESH = range(3)
"""Where the numbers are that count for all models."""

OF_ALL, NUMBERS = 3, 4
"""How many numbers there are for all models together, and for each."""


def bins_for(width: int, is_narrow: bool) -> tuple[int, int]:
    """Returns the number of bins for rows of some length, and the bits of a key that they do not distinguish.

    Args:
        width: The length.
        is_narrow: Whether numbers that fit into the distinguished bits have bins of their own.
    """
    per_bin = NARROW_ELEMENTS_PER_BIN if is_narrow else ELEMENTS_PER_BIN
    n_bits = max(0, min(MOST_FRACTION_BITS, (width // (per_bin * BINADES)).bit_length() - 1))
    n_bins = -(-(LOWEST_BIN + (BINADES << n_bits)) // WIDTH) * WIDTH
    return n_bins, FRACTION_BITS - max(0, n_bits - is_narrow)


def rank_masks(dtypes: Sequence[str]) -> ir.Module:
    """Adds bits to the masks of elements that are drawn by rank, row by row.

    Arrays: models, base, masks; numbers (int64): the index of the first element, elements of a row, 1 to
    clear the masks first, else 0, and for each model its key, bit, number of bins, and undistinguished bits
    of a key; chances (float64): for each model the threshold, not rounded, of the rank sum 0, and how much it
    rises for each further one.
    Memory for a row and PADDING: bins, upper halves of words (uint16), limits and then sums (uint32), pairs
    (uint64), flags (uint8). Memory for the bins: COUNTERS counters for each, zeros before and after; firsts,
    lasts, limits (uint32).
    """
    n_models = dtypes.index(MASK) - 1
    module = ir.Module("rank_masks")
    draw = _rows(module, dtypes[: n_models + 1], stores_keys=False)
    made, b, size, arrays, _ = of_one(module, "rank_masks_one", I64, len(dtypes), 0)
    words, (masks, *drawing) = arrays[: n_models + 1], arrays[n_models + 1 :]
    is_fresh, width = (b.load(element(b, drawing[0], I64(i), I64), typ=I64) for i in (IS_FRESH, WIDTH_AT))
    with loop(b, b.udiv(size, width)) as k:
        first = b.mul(k, width)
        own = element(b, masks, first, I16)
        with b.if_then(b.icmp_unsigned("!=", is_fresh, I64(0))):
            _clear(b, own, width)
        draw(b, first, words, own, None, drawing)
    b.ret(I64(0))
    of_each(module, made, len(dtypes), 0)
    return module


def rank_and_measure(dtypes: Sequence[str]) -> ir.Module:
    """Draws masks by rank, row by row, packs them, and adds up magnitudes as `selection.magnitudes` does.

    One row's masks are all that is in memory. Rows have an even number of elements. The sums are those of the
    rows, each in lanes.

    Arrays: models, base, packed masks (uint8), masks for a row, magnitudes (float32) for a row of each model;
    the others are those of `rank_masks`.
    """
    n_models = dtypes.index("uint8") - 1
    module = ir.Module("rank_and_measure")
    draw, pack = _rows(module, dtypes[: n_models + 1], stores_keys=True), pack_one(module)
    of_row = [*["float32"] * n_models, MASK]
    measure = summing_one(module, "measure_row", of_row, 0, terms_of_magnitudes(n_models))
    made, b, size, (*arrays, sums), _ = of_one(module, "rank_and_measure_one", VOID, len(dtypes) + 1, 0)
    words, (packed, masks, magnitudes, *drawing) = arrays[: n_models + 1], arrays[n_models + 1 :]
    width = b.load(element(b, drawing[0], I64(WIDTH_AT), I64), typ=I64)
    of_models = [element(b, magnitudes, b.mul(width, I64(k)), I32) for k in range(n_models)]
    with loop(b, b.udiv(size, width)) as k:
        first = b.mul(k, width)
        _clear(b, masks, width)
        draw(b, first, words, masks, magnitudes, drawing)
        b.call(measure, [width, *of_models, masks, sums])
        b.call(pack, [b.lshr(width, I64(1)), element(b, packed, b.lshr(first, I64(1)), I8), masks])
    b.ret_void()
    of_each(module, made, len(dtypes), 0, 2 * n_models)
    return module


DrawRow = Callable[[Builder, Value, Sequence[Value], Value, Value | None, Sequence[Value]], None]
"""Adds instructions that add bits to the masks of a row, for all models.

It takes the index of the row's first element, the words of the models and the base, the row's masks, memory
for the keys of all models (None if they are not stored), and the arrays of `rank_masks` after its masks.
"""


def _rows(module: ir.Module, dtypes: Sequence[str], stores_keys: bool) -> DrawRow:
    """Adds the functions for rows of models and base of these types; returns what calls them."""
    n_models = len(dtypes) - 1
    pairs = [(dtype, dtypes[-1]) for dtype in dtypes[:-1]]
    lower = lower_half(module, "lower_half")
    rows = {
        pair: _row(module, pair, f"mask_row_{i}", lower, stores_keys)
        for i, pair in enumerate(dict.fromkeys(pairs))
    }

    def draw(
        b: Builder,
        first: Value,
        words: Sequence[Value],
        masks: Value,
        keys: Value | None,
        drawing: Sequence[Value],
    ) -> None:
        numbers, chances, *memory = drawing
        start, width = (b.load(element(b, numbers, I64(i), I64), typ=I64) for i in (START_AT, WIDTH_AT))
        here = element(b, words[n_models], first, LLVM_TYPES[dtypes[n_models]]), masks
        for i, pair in enumerate(pairs):
            own = [element(b, numbers, I64(OF_ALL + NUMBERS * i), I64), element(b, chances, I64(2 * i), F64)]
            model = element(b, words[i], first, LLVM_TYPES[pair[0]])
            own_keys = element(b, keys, b.mul(width, I64(i)), I32) if keys else ir.Constant(POINTER, None)
            b.call(rows[pair], [b.add(start, first), width, model, *here, own_keys, *own, *memory])

    return draw


def _clear(b: Builder, masks: Value, n: Value) -> None:
    with loop(b, n) as i:
        b.store(I16(0), element(b, masks, i, I16))


def _row(
    module: ir.Module, dtypes: tuple[str, str], name: str, lower: ir.Function, stores_keys: bool
) -> ir.Function:
    """Adds the function for one row of one model."""
    codes = codes_of_row(module, f"{name}_codes_of_row", dtypes, stores_keys)
    steps = {
        step: step(module, f"{name}_{step.__name__}", dtypes)
        for step in (bins_of_row, limits_of_bins, compare_row)
    }
    decide = decide_flagged(module, f"{name}_decide_flagged", dtypes, lower)
    made, b = function(module, name, VOID, [I64, I64, *[POINTER] * 15])
    made.linkage = "internal"
    start, n, model, base, masks, keys, numbers, chances, *memory = made.args
    bins, words, sums, pairs, flags, counters, firsts, lasts, limits = memory
    key, bit, n_bins, n_bits = (b.load(element(b, numbers, I64(i), I64), typ=I64) for i in range(NUMBERS))
    bit, n_bits = b.trunc(bit, I16), b.trunc(n_bits, I32)
    chance = [b.load(element(b, chances, I64(i), F64), typ=F64) for i in range(2)]
    largest = b.call(codes, [n, model, base, bins, n_bits, keys])
    with b.if_then(b.icmp_unsigned("==", largest, I32(0)), likely=False):  # no element has a difference
        b.ret_void()
    most = b.sub(b.trunc(n_bins, I32), I32(1))
    shift = b.select(b.icmp_unsigned(">", largest, most), b.sub(largest, most), I32(0))
    b.call(steps[bins_of_row], [n, bins, shift])
    words = _count_and_draw(b, dtypes, (bins, counters, n_bins), (model, base), (words, start, n, key))
    surplus = b.trunc(b.sub(n_stored(b, start, n), n), I32)
    b.call(steps[limits_of_bins], [n_bins, surplus, counters, firsts, lasts, limits, shift, *chance])
    b.call(steps[compare_row], [n, bins, words, limits, masks, flags, sums, bit])
    in_bins = [bins, firsts, lasts, limits]
    b.call(
        decide, [n, flags, model, base, *in_bins, words, masks, sums, pairs, shift, bit, *chance, start, key]
    )
    b.ret_void()
    return made


def _count_and_draw(
    b: Builder,
    dtypes: Sequence[str],
    counted: tuple[Value, Value, Value],
    read: Sequence[Value],
    drawn: tuple[Value, Value, Value, Value],
) -> Value:
    """Stores upper halves as `store_halves` does, and meanwhile counts bins and requests the next row.

    Args:
        b: The builder.
        dtypes: Of model and base.
        counted: The bins of the row and PADDING, counters, and the number of bins.
        read: Model and base.
        drawn: Arguments of `store_halves`.
    """
    bins, counters, n_bins = counted
    in_turn = [element(b, counters, b.mul(n_bins, I64(k)), I32) for k in range(COUNTERS)]

    def meanwhile(group: Value, k: int) -> None:
        count_bins(b, bins, in_turn, b.add(group, I64(k)), HALVES_PER_COUNTER)
        for array, dtype in zip(read, dtypes, strict=True):
            _prefetch(b, array, b.add(n, group), dtype, k)

    _, _, n, _ = drawn
    return store_halves(b, *drawn, UPPER, meanwhile)


def _prefetch(b: Builder, array: Value, first: Value, dtype: str, k: int) -> None:
    """Requests element k of a group, if a line of the cache begins with it.

    Processors recognise that memory is read in order, but only inside a page, and a row is often about one.
    """
    nbytes = np.dtype(dtype).itemsize
    if k * nbytes % LINE_NBYTES == 0:
        address = b.gep(array, [b.add(first, I64(k))], source_etype=LLVM_TYPES[dtype])
        kind = ir.FunctionType(VOID, [POINTER, I32, I32, I32])
        request = b.module.declare_intrinsic("llvm.prefetch", [POINTER], kind)
        b.call(request, [address, I32(0), I32(3), I32(1)])  # to read, into the first cache, data
