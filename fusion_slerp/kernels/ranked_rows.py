"""The steps of `ranked_masks` for one row. Each adds a function, whose loops LLVM vectorises where it can.

A bin holds neighbouring keys. Differences of bfloat16 are mostly multiples of a unit, with few significant
bits, and many are equal. So for this type a number that fits into the bits that bins distinguish has a bin of
its own, and the numbers between it and the next have another.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

from llvmlite import ir

from fusion_slerp.kernels.building import POINTER, VOID, element, function, least, load, loop
from fusion_slerp.kernels.elements import I8, I16, I32, I64, Builder, Value
from fusion_slerp.kernels.keys import key_of_difference
from fusion_slerp.kernels.random_words import HALF_BITS, MOST_MORE_HALVES

COUNTERS = 2
"""Counters per bin, used in turn: neighbours often fall into one bin, and would wait for each other."""

PADDING = 128
"""Elements after a row that the steps may read or write: MOST_MORE_HALVES at most."""

assert PADDING >= MOST_MORE_HALVES

COMPARED = 512
"""Elements whose limits are looked up, and then compared while they are still in the first cache."""

AT_ONCE = 16
"""Elements looked up per turn of the loop, without a branch."""

NO_DIFFERENCE, LOWEST_BIN = 0, 1
"""The bin of the elements without a difference, and that of the smallest differences."""

WORD_BITS = 17
"""Last bits of a word that limits do not see: so a limit of all words, 2^15, fits into 16 bits."""

NARROW = ("uint16",)
"""Types of models and base for which numbers have bins of their own: bfloat16."""


def codes_of_row(module: ir.Module, name: str, dtypes: Sequence[str], stores_keys: bool) -> ir.Function:
    """Stores codes in place of bins, and returns the largest. A code is 0 for a key of 0, and rises with it.

    Arguments: n, model, base, bins, bits of a key that bins do not distinguish, memory for the keys if they
    are stored.
    """
    made, b = step(module, name, I32, [I64, *[POINTER] * 3, I32, POINTER])
    n, model, base, bins, n_bits, keys = made.args
    largest = b.alloca(I32)
    b.store(I32(0), largest)
    rest = b.sub(b.shl(I32(1), n_bits), I32(1))
    with loop(b, n) as i:
        key = key_of_difference(b, [load(b, model, i, dtypes[0]), load(b, base, i, dtypes[1])])
        if stores_keys:
            b.store(key, element(b, keys, i, I32))
        code = b.lshr(b.add(key, rest), n_bits)
        if is_narrow(dtypes):  # twice the upper bits, and one more for the numbers between
            code = b.add(code, b.lshr(key, n_bits))
        b.store(b.trunc(code, I16), element(b, bins, i, I16))
        before = b.load(largest, typ=I32)
        b.store(b.select(b.icmp_unsigned(">", code, before), code, before), largest)
    b.ret(b.load(largest, typ=I32))
    return made


def is_narrow(dtypes: Sequence[str]) -> bool:
    """Whether numbers have bins of their own."""
    return set(dtypes) <= set(NARROW)


def bins_of_row(module: ir.Module, name: str, dtypes: Sequence[str]) -> ir.Function:
    """Replaces codes by bins: those of large keys are distinguished, all others are in the lowest bin.

    Arguments: n, bins, the code minus the bin (i32).
    """
    made, b = step(module, name, VOID, [I64, POINTER, I32])
    n, bins, shift = made.args
    shift = b.trunc(shift, I16)
    subtract = module.declare_intrinsic("llvm.usub.sat", [I16], ir.FunctionType(I16, [I16, I16]))
    with loop(b, n) as i:
        address = element(b, bins, i, I16)
        code = b.load(address, typ=I16)
        lowered = b.call(subtract, [code, shift])
        lowest = b.select(b.icmp_unsigned("==", code, I16(0)), I16(NO_DIFFERENCE), I16(LOWEST_BIN))
        b.store(b.select(b.icmp_unsigned(">", lowered, lowest), lowered, lowest), address)
    with loop(b, I64(PADDING)) as i:
        b.store(I16(NO_DIFFERENCE), element(b, bins, b.add(n, i), I16))
    b.ret_void()
    return made


def count_bins(b: Builder, bins: Value, counters: Sequence[Value], first: Value, n: int) -> None:
    """Counts the bins of some elements.

    Args:
        b: The builder.
        bins: The row's.
        counters: Arrays of i32, used in turn.
        first: The index of the first element, i64.
        n: How many.
    """
    for k, array in enumerate(islice(cycle(counters), n)):
        bin_of = b.load(element(b, bins, b.add(first, I64(k)), I16), typ=I16)
        address = element(b, array, b.zext(bin_of, I64), I32)
        b.store(b.add(b.load(address, typ=I32), I32(1)), address)


def compare_row(module: ir.Module, name: str, dtypes: Sequence[str]) -> ir.Function:
    """Adds the bit to the masks of elements whose words are below the lower limit of their bins.

    It flags those whose words are between the limits. Arguments: n, bins, upper halves of the words, limits,
    masks, flags, memory for the limits of each element (i32), bit.
    """
    made, b = step(module, name, VOID, [I64, *[POINTER] * 6, I16])
    n, bins, words, limits, masks, flags, found, bit = made.args
    with loop(b, n, step=COMPARED) as first:
        many = least(b, b.sub(n, first), COMPARED)
        _look_up(b, element(b, bins, first, I16), limits, found, many)
        with loop(b, many) as k:
            i = b.add(first, k)
            upper = b.zext(b.load(element(b, words, i, I16), typ=I16), I32)
            word = b.lshr(upper, I32(WORD_BITS - HALF_BITS))
            both = b.load(element(b, found, k, I32), typ=I32)
            is_drawn = b.icmp_unsigned("<", word, b.lshr(both, I32(16)))
            is_open = b.and_(b.not_(is_drawn), b.icmp_unsigned("<", word, b.and_(both, I32(0xFFFF))))
            add_bit(b, element(b, masks, i, I16), is_drawn, bit)
            b.store(b.zext(is_open, I8), element(b, flags, i, I8))
    with loop(b, I64(PADDING)) as i:
        b.store(I8(0), element(b, flags, b.add(n, i), I8))
    b.ret_void()
    return made


def _look_up(b: Builder, bins: Value, limits: Value, found: Value, n: Value) -> None:
    """Stores the limits of n elements, two per store: processors store one number per cycle.

    Loads are atomic, which costs nothing, so that LLVM does not vectorise them: gathering takes longer.
    It reads and stores up to AT_ONCE - 1 elements beyond these. Numbers are little-endian.
    """
    with loop(b, n, step=AT_ONCE) as first:
        for k in range(0, AT_ONCE, 2):
            both: Value = I64(0)
            for half in range(2):
                bin_of = b.zext(b.load(element(b, bins, b.add(first, I64(k + half)), I16), typ=I16), I64)
                own = b.load_atomic(element(b, limits, bin_of, I32), "monotonic", 4, typ=I32)
                both = b.or_(both, b.shl(b.zext(own, I64), I64(32 * half)))
            b.store(both, element(b, found, b.add(first, I64(k)), I32), align=4)


def add_bit(b: Builder, address: Value, condition: Value, bit: Value) -> None:
    """Adds a bit to the mask at an address if a condition holds."""
    b.store(b.or_(b.load(address, typ=I16), b.select(condition, bit, I16(0))), address)


def step(
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
