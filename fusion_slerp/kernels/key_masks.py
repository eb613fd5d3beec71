"""Kernels that make masks by key: which models take part in an element, by the size of their differences.

The arrays of a kernel are the words of the models, of their base, and arrays of its own. Bit i of a
mask says whether model i takes part; keys are those of `kernels.keys`.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from fusion_slerp.kernels.building import element, least, loop, of_each, of_one
from fusion_slerp.kernels.elements import I16, I32, I64, Builder, Value
from fusion_slerp.kernels.keys import (
    SPAN,
    integer,
    key_of_difference,
    key_of_spread,
    values_at,
)
from fusion_slerp.kernels.sorting import repeat_while

KeyLimits = tuple[Value, Value]
"""The first key that is taken of a model, and how many from it on, i32."""


def select(dtypes: Sequence[str]) -> ir.Module:
    """Stores masks: bit i is set if the key of model i is in [factor 2i, factor 2i+1).

    Arrays: models, base, masks.
    """
    n = len(dtypes) - 2
    module = ir.Module("select")
    made, b, size, (*arrays, masks), factors = of_one(module, "select_one", I64, len(dtypes), 2 * n)
    limits = key_limits(b, factors)
    with loop(b, size) as i:
        mask = mask_by_key(b, values_at(b, arrays, dtypes, i), limits)
        b.store(b.trunc(mask, I16), element(b, masks, i, I16))
    b.ret(I64(0))
    of_each(module, made, len(dtypes), 2 * n)
    return module


def key_limits(b: Builder, factors: Sequence[Value]) -> list[KeyLimits]:
    """The first key and the number of keys for each model, from factors: its first key and the end."""
    firsts, ends = [integer(b, each) for each in factors[::2]], [integer(b, each) for each in factors[1::2]]
    return [(first, b.sub(end, first)) for first, end in zip(firsts, ends, strict=True)]


def mask_by_key(b: Builder, values: Sequence[Value], limits: Sequence[KeyLimits]) -> Value:
    """The mask, i32, of the models whose keys are inside limits; the last of the values is the base's."""
    *models, base = values
    mask: Value = I32(0)
    for k, (model, (first, width)) in enumerate(zip(models, limits, strict=True)):
        is_inside = b.icmp_unsigned("<", b.sub(key_of_difference(b, [model, base]), first), width)
        mask = b.or_(mask, b.select(is_inside, I32(1 << k), I32(0)))
    return mask


def count_equal(dtypes: Sequence[str]) -> ir.Module:
    """Counts the elements of each model that have its key: once, or for two lists of keys.

    Arrays: models, base; for each list counts (int64, by model), which are overwritten. Factors: the lists.
    """
    n_lists = dtypes.count("int64")
    n = len(dtypes) - n_lists - 1
    module = ir.Module("count_equal")
    made, b, size, arrays, factors = of_one(module, "count_equal_one", I64, len(dtypes), n * n_lists)
    wanted = [integer(b, each) for each in factors]
    totals = [b.alloca(I64) for _ in wanted]
    for total in totals:
        b.store(I64(0), total)
    with loop(b, size) as i:
        *values, base = values_at(b, arrays, dtypes[: n + 1], i)
        found = [key_of_difference(b, [value, base]) for value in values]
        for key, each, total in zip(found * n_lists, wanted, totals, strict=True):
            _count_if(b, b.icmp_unsigned("==", key, each), total)
    for k, total in enumerate(totals):
        b.store(b.load(total, typ=I64), element(b, arrays[n + 1 + k // n], I64(k % n), I64))
    b.ret(I64(0))
    of_each(module, made, len(dtypes), n * n_lists)
    return module


def find_equal(dtypes: Sequence[str]) -> ir.Module:
    """Finds the span of elements that has the n-th one with a key; there is one.

    Arrays: a model, base, numbers (int64, overwritten): the span's first element, and how many before it have
    the key. Factors: the key, n.
    """
    module = ir.Module("find_equal")
    made, b, size, (*arrays, numbers), (wanted, n) = of_one(module, "find_equal_one", I64, len(dtypes), 2)
    key, n = integer(b, wanted), b.fptosi(n, I64)
    start_at, n_before_at, n_at = (b.alloca(I64) for _ in range(3))
    b.store(I64(-SPAN), start_at)
    b.store(I64(0), n_at)

    def is_later() -> Value:
        has_more = b.icmp_signed("<", b.add(b.load(start_at, typ=I64), I64(SPAN)), size)
        return b.and_(has_more, b.icmp_unsigned("<", b.load(n_at, typ=I64), n))

    with repeat_while(b, is_later):
        start = b.add(b.load(start_at, typ=I64), I64(SPAN))
        b.store(start, start_at)
        b.store(b.load(n_at, typ=I64), n_before_at)
        with loop(b, least(b, b.sub(size, start), SPAN)) as i:
            found = key_of_difference(b, values_at(b, arrays, dtypes, b.add(start, i)))
            _count_if(b, b.icmp_unsigned("==", found, key), n_at)
    n_before = b.load(n_before_at, typ=I64)
    for k, number in enumerate((b.load(start_at, typ=I64), n_before)):
        b.store(number, element(b, numbers, I64(k), I64))
    b.ret(I64(0))
    of_each(module, made, len(dtypes), 2)
    return module


def _count_if(b: Builder, condition: Value, address: Value) -> None:
    """Adds 1 to the i64 at an address if a condition holds."""
    b.store(b.add(b.load(address, typ=I64), b.zext(condition, I64)), address)


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
