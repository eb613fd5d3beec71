"""Kernels that make masks by key: which models take part in an element, by the size of their differences.

The arrays of a kernel are the words of the models, of their base, and arrays of its own. Bit i of a
mask says whether model i takes part; keys are those of `kernels.keys`.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from fusion_slerp.kernels.building import element, loop, of_each, of_one
from fusion_slerp.kernels.elements import I16, I32, I64, MASK, Builder, Value
from fusion_slerp.kernels.keys import add, integer, key_of_difference, key_of_spread, values_at


def select(dtypes: Sequence[str]) -> ir.Module:
    """Stores masks: bit i is set if the key of model i is in [factor 2i, factor 2i+1).

    Arrays: models, base, masks.
    """
    n = len(dtypes) - 2
    module = ir.Module("select")
    made, b, size, (*arrays, masks), factors = of_one(module, "select_one", I64, len(dtypes), 2 * n)
    firsts, ends = [integer(b, each) for each in factors[::2]], [integer(b, each) for each in factors[1::2]]
    widths = [b.sub(end, first) for first, end in zip(firsts, ends, strict=True)]
    with loop(b, size) as i:
        *values, base = values_at(b, arrays, dtypes, i)
        inside = [
            b.icmp_unsigned("<", b.sub(key_of_difference(b, [value, base]), first), width)
            for value, first, width in zip(values, firsts, widths, strict=True)
        ]
        b.store(_mask_of(b, inside), element(b, masks, i, I16))
    b.ret(I64(0))
    of_each(module, made, len(dtypes), 2 * n)
    return module


def select_and_flag(dtypes: Sequence[str]) -> ir.Module:
    """Stores masks as `select` does, and flags what has certain keys: bit i is set where model i has its key.

    Arrays: models, base, masks; flags, once or twice; counts (int64 of shape (flags, models)) of the bits set
    in the flags, overwritten. Factors: those of `select`; for each of the flags, the key of each model.
    """
    n = dtypes.index(MASK) - 1
    n_flags = dtypes.count(MASK) - 1
    n_factors = (2 + n_flags) * n
    module = ir.Module("select_and_flag")
    made, b, size, arrays, factors = of_one(module, "select_and_flag_one", I64, len(dtypes), n_factors)
    words, (masks, *flags, counts) = arrays[: n + 1], arrays[n + 1 :]
    keys = [integer(b, each) for each in factors]
    totals = [b.alloca(I32) for _ in range(n_flags * n)]
    for total in totals:
        b.store(I32(0), total)
    with loop(b, size) as i:
        *values, base = values_at(b, words, dtypes, i)
        found = [key_of_difference(b, [value, base]) for value in values]
        inside = [
            b.icmp_unsigned("<", b.sub(key, first), b.sub(end, first))
            for key, first, end in zip(found, keys[::2], keys[1::2], strict=False)
        ]
        equal = [b.icmp_unsigned("==", *pair) for pair in zip(found * n_flags, keys[2 * n :], strict=True)]
        for total, flag in zip(totals, equal, strict=True):
            add(b, total, b.zext(flag, I32))
        by_array = [inside, *(equal[k * n : (k + 1) * n] for k in range(n_flags))]
        for array, bits in zip((masks, *flags), by_array, strict=True):
            b.store(_mask_of(b, bits), element(b, array, i, I16))
    for k, total in enumerate(totals):
        b.store(b.zext(b.load(total, typ=I32), I64), element(b, counts, I64(k), I64))
    b.ret(I64(0))
    of_each(module, made, len(dtypes), n_factors)
    return module


def add_flagged(dtypes: Sequence[str]) -> ir.Module:
    """Adds bits to masks where they are set in flags. Arrays: masks, flags. Factor: the bits."""
    module = ir.Module("add_flagged")
    made, b, size, (masks, flags), (factor,) = of_one(module, "add_flagged_one", I64, len(dtypes), 1)
    bits = b.trunc(integer(b, factor), I16)
    with loop(b, size) as i:
        address = element(b, masks, i, I16)
        added = b.and_(b.load(element(b, flags, i, I16), typ=I16), bits)
        b.store(b.or_(b.load(address, typ=I16), added), address)
    b.ret(I64(0))
    of_each(module, made, len(dtypes), 1)
    return module


def _mask_of(b: Builder, bits: Sequence[Value]) -> Value:
    """The mask whose bit i is that of model i."""
    mask: Value = I32(0)
    for k, bit in enumerate(bits):
        mask = b.or_(mask, b.select(bit, I32(1 << k), I32(0)))
    return b.trunc(mask, I16)


def select_spread(dtypes: Sequence[str]) -> ir.Module:
    """Stores masks of all models where the key of their spread is at least the factor, else of none.

    Arrays: models, base, masks.
    """
    everyone = (1 << len(dtypes) - 2) - 1
    module = ir.Module("select_spread")
    made, b, size, (*arrays, masks), (factor,) = of_one(module, "select_spread_one", I64, len(dtypes), 1)
    first = integer(b, factor)
    with loop(b, size) as i:
        is_inside = b.icmp_unsigned(">=", key_of_spread(b, values_at(b, arrays, dtypes, i)), first)
        b.store(b.select(is_inside, I16(everyone), I16(0)), element(b, masks, i, I16))
    b.ret(I64(0))
    of_each(module, made, len(dtypes), 1)
    return module
