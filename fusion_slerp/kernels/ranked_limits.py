"""The thresholds of rank sums (see `ranked_masks`), and the limits of bins, which decide most elements.

The limits of a bin are two numbers of 16 bits, compared with words without their last WORD_BITS. A word below
the lower one is below every threshold in the bin; a word that is not below the upper one is below none.

They are computed in float32. A threshold without its last bits is below 2^15, so that each of the five
roundings changes it by 2^-10 at most, and that of the threshold itself by 2^-18: MARGIN is more than enough.
Rank sums are exact below 2^24.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from fusion_slerp.kernels.building import POINTER, VOID, element, loop
from fusion_slerp.kernels.doubts import WIDTH, F32s, I32s, floats, ints, of_all
from fusion_slerp.kernels.elements import F32, F64, I32, I64, Builder, Value
from fusion_slerp.kernels.ranked_rows import COUNTERS, LOWEST_BIN, NO_DIFFERENCE, WORD_BITS, is_narrow, step

MARGIN = 2.0**-6

MOST_ELEMENTS = 1 << 23
"""Of a row: twice as many ranks are exact in float32."""

NOTHING_OPEN = 0
"""Limits that no word is below."""

LARGEST_WORD = float((1 << 32) - 1)


def limits_of_bins(module: ir.Module, name: str, dtypes: Sequence[str]) -> ir.Function:
    """Stores the smallest and the largest rank of each bin, and its limits; sets its counters to zero.

    Arguments: number of bins, a multiple of WIDTH; how many elements too many are in the first (i32);
    counters, firsts, lasts, limits; the code minus the bin (i32), chances (two f64).
    """
    made, b = step(module, name, VOID, [I64, I32, *[POINTER] * 4, I32, F64, F64])
    n_bins, surplus, counters, firsts, lasts, limits, shift, *chance = made.args
    below_at = b.alloca(I32)
    b.store(b.neg(surplus), below_at)
    scaled = [of_all(b, b.fptrunc(b.fmul(each, F64(2.0**-WORD_BITS)), F32)) for each in chance]
    with loop(b, n_bins, step=WIDTH) as i:
        counts = ints(0)
        for k in range(COUNTERS):
            address = element(b, counters, b.add(i, b.mul(n_bins, I64(k))), I32)
            counts = b.add(counts, b.load(address, typ=I32s, align=4))
            b.store(ints(0), address, align=4)
        ends = b.add(_up_to_each(b, counts), of_all(b, b.load(below_at, typ=I32)))
        b.store(b.extract_element(ends, I32(WIDTH - 1)), below_at)
        first, last = b.sub(ends, counts), b.sub(ends, ints(1))
        bins = b.add(of_all(b, b.trunc(i, I32)), I32s(list(range(WIDTH))))
        has_more = may_vary(b, bins, of_all(b, shift), dtypes)
        low, high = _limits(b, first, last, has_more, scaled)
        both = b.or_(b.shl(low, ints(16)), high)
        for array, vector in ((firsts, first), (lasts, last), (limits, both)):
            b.store(vector, element(b, array, i, I32), align=4)
    b.store(I32(NOTHING_OPEN), element(b, limits, I64(NO_DIFFERENCE), I32))
    b.ret_void()
    return made


def _up_to_each(b: Builder, x: Value) -> Value:
    """The sums of each lane and all lanes before it."""
    for distance in (1, 2, 4, 8):
        lanes = [0] * distance + list(range(WIDTH, 2 * WIDTH - distance))
        x = b.add(x, b.shuffle_vector(ints(0), x, I32s(lanes)))
    return x


def _limits(b: Builder, first: Value, last: Value, has_more: Value, chance: Sequence[Value]) -> list[Value]:
    """The lower and the upper limit of each bin."""
    lowest, rise = chance
    together = b.add(first, last)
    limits = []
    for rank, margin in ((first, -MARGIN), (last, MARGIN)):
        rank_sum = b.select(has_more, b.add(rank, rank), together)
        exact = b.fadd(lowest, b.fmul(b.sitofp(rank_sum, F32s), rise))
        limits.append(b.fptosi(b.fadd(exact, floats(margin)), I32s))
    low, high = limits
    return [low, b.add(high, ints(1))]


def may_vary(b: Builder, bin_of: Value, shift: Value, dtypes: Sequence[str]) -> Value:
    """Whether a bin may have several keys.

    Args:
        b: The builder.
        bin_of: The bin, i32 or a vector of them.
        shift: The code minus the bin, of the same type.
        dtypes: Of model and base.
    """

    def same(value: int) -> Value:
        return I32s([value] * WIDTH) if isinstance(bin_of.type, ir.VectorType) else I32(value)

    if not is_narrow(dtypes):
        return b.icmp_unsigned("==", bin_of, bin_of)
    is_between = b.icmp_unsigned("!=", b.and_(b.add(bin_of, shift), same(1)), same(0))
    return b.or_(b.icmp_unsigned("==", bin_of, same(LOWEST_BIN)), is_between)


def threshold_of(b: Builder, rank_sum: Value, chance: Sequence[Value]) -> Value:
    """The threshold of a rank sum, i32."""
    lowest, rise = chance
    exact = b.fadd(lowest, b.fmul(b.uitofp(rank_sum, F64), rise))
    rounded = b.call(b.module.declare_intrinsic("llvm.rint", [F64]), [exact])
    is_too_large = b.fcmp_ordered(">", rounded, F64(LARGEST_WORD))
    return b.fptoui(b.select(is_too_large, F64(LARGEST_WORD), rounded), I32)
