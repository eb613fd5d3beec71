"""The steps of `ranked_masks` for one row. Each adds a function, whose loops LLVM vectorises where it can.

A bin holds neighbouring keys. Differences of 16-bit types are mostly multiples of a unit, with few
significant bits, and many are equal. So for these types a number that fits into the bits that bins
distinguish has a bin of its own, and the numbers between it and the next have another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llvmlite import ir

from fusion_slerp.kernels.building import POINTER, VOID, element, function, load, loop
from fusion_slerp.kernels.elements import I16, I32, I64, Builder, Value
from fusion_slerp.kernels.keys import key_of_difference
from fusion_slerp.kernels.sorting import repeat_while

GROUP = 8
"""Elements whose flags fit into one word."""

SCANNED = 32
"""Elements whose bins are compared at a time."""

NO_DIFFERENCE, LOWEST_BIN = 0, 1
"""The bin of the elements without a difference, and that of the smallest differences."""

WORD_BITS = 17
"""Low bits of a word that limits do not see: so a limit of all words, 2^15, fits into 16 bits."""

NOTHING_OPEN = 0
"""Limits that no word is below."""

NARROW = ("uint16", "int16")

PADDING = SCANNED
"""Elements after a row that the steps may read or write."""

I8 = ir.IntType(8)
ScannedBins = ir.VectorType(I16, SCANNED)


def keys_of_row(module: ir.Module, dtypes: Sequence[str]) -> ir.Function:
    """Stores the keys, and returns the largest. Arguments: n, model, base, keys."""
    made, b = _function(module, "keys_of_row", I32, [I64, *[POINTER] * 3])
    n, model, base, keys = made.args
    largest = b.alloca(I32)
    b.store(I32(0), largest)
    with loop(b, n) as i:
        key = key_of_difference(b, [load(b, model, i, dtypes[0]), load(b, base, i, dtypes[1])])
        b.store(key, element(b, keys, i, I32))
        before = b.load(largest, typ=I32)
        b.store(b.select(b.icmp_unsigned(">", key, before), key, before), largest)
    b.ret(b.load(largest, typ=I32))
    return made


def bins_of_row(module: ir.Module, dtypes: Sequence[str]) -> ir.Function:
    """Stores bins: the highest has the largest key, and keys below all bins are in the lowest.

    Arguments: n, keys, bins, the largest key, bits of a key that bins do not distinguish, number of bins.
    """
    made, b = _function(module, "bins_of_row", VOID, [I64, *[POINTER] * 2, *[I32] * 3])
    n, keys, bins, largest, n_bits, n_bins = made.args
    is_narrow = _is_narrow(dtypes)

    def unclamped(key: Value) -> Value:
        upper = b.lshr(key, n_bits)
        return b.or_(b.shl(upper, I32(1)), b.zext(_is_between(b, key, n_bits), I32)) if is_narrow else upper

    offset = b.sub(b.sub(n_bins, I32(1)), unclamped(largest))
    with loop(b, n) as i:
        key = b.load(element(b, keys, i, I32), typ=I32)
        moved = b.add(unclamped(key), offset)
        is_low = b.icmp_signed("<", moved, I32(LOWEST_BIN))
        clamped = b.select(is_low, I32(LOWEST_BIN), moved)
        is_zero = b.icmp_unsigned("==", key, I32(0))
        b.store(b.trunc(b.select(is_zero, I32(NO_DIFFERENCE), clamped), I16), element(b, bins, i, I16))
    with loop(b, I64(SCANNED)) as i:
        b.store(I16(NO_DIFFERENCE), element(b, bins, b.add(n, i), I16))
    b.ret_void()
    return made


def may_vary(b: Builder, bin_of: Value, key: Value, n_bits: Value, dtypes: Sequence[str]) -> Value:
    """Whether a bin may have other keys than this one."""
    if not _is_narrow(dtypes):
        return ir.Constant(ir.IntType(1), 1)
    is_lowest = b.icmp_unsigned("==", bin_of, I64(LOWEST_BIN))
    return b.or_(is_lowest, _is_between(b, key, n_bits))


def _is_narrow(dtypes: Sequence[str]) -> bool:
    return set(dtypes[:2]) <= set(NARROW)


def _is_between(b: Builder, key: Value, n_bits: Value) -> Value:
    """Whether a key does not fit into the bits that bins distinguish."""
    rest = b.sub(b.shl(I32(1), n_bits), I32(1))
    return b.icmp_unsigned("!=", b.and_(key, rest), I32(0))


def count_row(module: ir.Module, dtypes: Sequence[str]) -> ir.Function:
    """Counts the elements of each bin, and stores for each element how many precede it in its bin.

    Arguments: n, bins, preceding, counts, number of bins.
    """
    made, b = _function(module, "count_row", VOID, [I64, *[POINTER] * 3, I64])
    n, bins, preceding, counts, n_bins = made.args
    with loop(b, n_bins) as i:
        b.store(I32(0), element(b, counts, i, I32))
    with loop(b, n) as i:
        bin_of = b.zext(b.load(element(b, bins, i, I16), typ=I16), I64)
        address = element(b, counts, bin_of, I32)
        n_before = b.load(address, typ=I32)
        b.store(n_before, element(b, preceding, i, I32))
        b.store(b.add(n_before, I32(1)), address)
    b.ret_void()
    return made


def limits_of_bins(module: ir.Module, dtypes: Sequence[str]) -> ir.Function:
    """Stores the limits of bins, and the smallest rank in each in place of its count.

    The limits are two numbers of 16 bits, compared with words without their last WORD_BITS. A word below the
    lower one is below the threshold of the bin's smallest rank; a word that is not below the upper one is not
    below that of the largest.

    Arguments: number of bins, counts, thresholds, limits.
    """
    made, b = _function(module, "limits_of_bins", VOID, [I64, *[POINTER] * 3])
    n_bins, counts, thresholds, limits = made.args
    rank_at = b.alloca(I32)
    b.store(I32(0), rank_at)
    with loop(b, n_bins) as i:
        first = b.load(rank_at, typ=I32)
        address = element(b, counts, i, I32)
        count = b.load(address, typ=I32)
        b.store(first, address)
        b.store(b.add(first, count), rank_at)
        last = b.sub(b.add(first, count), I32(1))
        is_empty = b.icmp_unsigned("==", count, I32(0))
        low, high = (
            b.lshr(b.load(element(b, thresholds, b.zext(rank, I64), I32), typ=I32), I32(WORD_BITS))
            for rank in (b.select(is_empty, I32(0), each) for each in (first, last))
        )
        b.store(b.or_(b.shl(low, I32(16)), b.add(high, I32(1))), element(b, limits, i, I32))
    b.store(I32(NOTHING_OPEN), element(b, limits, I64(NO_DIFFERENCE), I32))
    b.ret_void()
    return made


def compare_row(module: ir.Module, dtypes: Sequence[str]) -> ir.Function:
    """Adds the bit to the masks of elements whose words are below the lower limit of their bins.

    It flags those whose words are between the limits. Arguments: n, bins, words, limits, masks, flags, bit.
    """
    made, b = _function(module, "compare_row", VOID, [I64, *[POINTER] * 5, I16])
    n, bins, words, limits, masks, flags, bit = made.args
    with loop(b, n) as i:
        bin_of = b.zext(b.load(element(b, bins, i, I16), typ=I16), I64)
        word = b.lshr(b.load(element(b, words, i, I32), typ=I32), I32(WORD_BITS))
        both = b.load(element(b, limits, bin_of, I32), typ=I32)
        is_drawn = b.icmp_unsigned("<", word, b.lshr(both, I32(16)))
        is_open = b.and_(b.not_(is_drawn), b.icmp_unsigned("<", word, b.and_(both, I32(0xFFFF))))
        add_bit(b, element(b, masks, i, I16), is_drawn, bit)
        b.store(b.zext(is_open, I8), element(b, flags, i, I8))
    with loop(b, I64(GROUP)) as i:
        b.store(I8(0), element(b, flags, b.add(n, i), I8))
    b.ret_void()
    return made


def add_bit(b: Builder, address: Value, condition: Value, bit: Value) -> None:
    """Adds a bit to the mask at an address if a condition holds."""
    b.store(b.or_(b.load(address, typ=I16), b.select(condition, bit, I16(0))), address)


@contextmanager
def each_flagged(b: Builder, flags: Value, n: Value) -> Iterator[Value]:
    """Repeats the instructions of its body for the index of each flagged element."""
    with b.goto_entry_block():
        left_at = b.alloca(I64)
    with loop(b, n, step=GROUP) as first:
        b.store(b.load(element(b, flags, first, I8), typ=I64, align=1), left_at)
        with repeat_while(b, lambda: b.icmp_unsigned("!=", b.load(left_at, typ=I64), I64(0))):
            left = b.load(left_at, typ=I64)
            b.store(b.and_(left, b.sub(left, I64(1))), left_at)
            yield b.add(first, b.lshr(b.cttz(left, ir.Constant(ir.IntType(1), 1)), I64(3)))


def settle_bin(module: ir.Module, sort: ir.Function) -> ir.Function:
    """Stores for each element of a bin how many precede it by (key, index) instead of by index.

    Arguments: n, the bin, keys, bins, preceding, pairs (i64: memory for the row).
    """
    made, b = _function(module, "settle_bin", VOID, [I64, I64, *[POINTER] * 4])
    n, bin_of, keys, bins, preceding, pairs = made.args
    size, varying = _members(b, n, b.trunc(bin_of, I16), keys, bins, pairs)
    with b.if_then(b.icmp_unsigned("!=", varying, I32(0))):
        b.call(sort, [size, pairs])
        with loop(b, size) as j:
            i = b.and_(b.load(element(b, pairs, j, I64), typ=I64), I64((1 << 32) - 1))
            b.store(b.trunc(j, I32), element(b, preceding, i, I32))
    b.ret_void()
    return made


def _members(
    b: Builder, n: Value, bin_of: Value, keys: Value, bins: Value, pairs: Value
) -> tuple[Value, Value]:
    """Stores (key, index) of a bin's elements; returns their number, and the bits in which keys differ."""
    size_at, any_at, all_at, left_at = b.alloca(I64), b.alloca(I32), b.alloca(I32), b.alloca(I32)
    for address, value in ((size_at, I64(0)), (any_at, I32(0)), (all_at, I32(-1))):
        b.store(value, address)
    wanted = b.insert_element(ir.Constant(ScannedBins, ir.Undefined), bin_of, I32(0))
    zeros = ir.Constant(ir.VectorType(I32, SCANNED), [0] * SCANNED)
    wanted = b.shuffle_vector(wanted, wanted, zeros)
    with loop(b, n, step=SCANNED) as first:
        here = b.load(element(b, bins, first, I16), typ=ScannedBins, align=2)
        b.store(b.bitcast(b.icmp_unsigned("==", here, wanted), I32), left_at)
        with repeat_while(b, lambda: b.icmp_unsigned("!=", b.load(left_at, typ=I32), I32(0))):
            left = b.load(left_at, typ=I32)
            i = b.add(first, b.zext(b.cttz(left, ir.Constant(ir.IntType(1), 1)), I64))
            b.store(b.and_(left, b.sub(left, I32(1))), left_at)
            key = b.load(element(b, keys, i, I32), typ=I32)
            b.store(b.or_(b.load(any_at, typ=I32), key), any_at)
            b.store(b.and_(b.load(all_at, typ=I32), key), all_at)
            size = b.load(size_at, typ=I64)
            b.store(b.or_(b.shl(b.zext(key, I64), I64(32)), i), element(b, pairs, size, I64))
            b.store(b.add(size, I64(1)), size_at)
    varying = b.xor(b.load(any_at, typ=I32), b.load(all_at, typ=I32))
    return b.load(size_at, typ=I64), varying


def _function(
    module: ir.Module, name: str, returns: ir.Type, kinds: Sequence[ir.Type]
) -> tuple[ir.Function, Builder]:
    """Begins a function whose arrays share no memory."""
    made, b = function(module, name, returns, kinds)
    made.linkage = "internal"
    made.attributes.add("noinline")
    for argument in made.args:
        if argument.type == POINTER:
            argument.add_attribute("noalias")
    return made, b
