"""Kernels that count magnitudes exactly: the keys of differences from a base, and of spreads over models.

A key is an integer that orders numbers as their magnitudes do: the bits, without the sign, of a number that
was rounded to float32. The difference of a model from its base is float64 before that; for narrower types,
its key is that of the exact difference rounded once. The spread of models is the sum of the squares of the
differences between every two of them: n^2 times their variance.

Counting has two stages. The first counts all keys in bins: one for each number that fits into a key's upper
bits, and one for the keys between it and the next. Most differences of 16-bit models are such numbers. The
second counts the keys between two of them one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

from llvmlite import ir

from fusion_slerp.kernels.building import element, least, load, loop, of_each, of_one
from fusion_slerp.kernels.elements import F32, F64, I8, I16, I32, I64, Builder, Value
from fusion_slerp.kernels.loops import sum_and_error

KEY_BITS = 31

LOWER_BITS = 16

COARSE_BINS = 1 << (KEY_BITS - LOWER_BITS + 1)
"""Bins of the first stage: for upper bits u, 2u has the key whose lower bits are zero, 2u+1 the others."""

FINE_BINS = 1 << LOWER_BITS
"""Bins of the second stage: the lower bits."""

SPAN = 256
"""Keys that are computed, with vectors, before they are counted or compared one by one."""

COUNTERS = 2
"""Counters per bin, side by side and used in turn: neighbours often fall into one bin, and would wait for
each other. More of them take too much of the first cache: with four, counting took 15 % longer.
"""

BIN_BITS, AT_ONCE = 16, 4
"""Of a bin; bins that are loaded together, as one i64."""

GROUP = 8
"""Keys whose flags fit into one word."""


Key = Callable[[Builder, Sequence[Value]], Value]
"""Computes a key, i32, from one float64 of each vector."""


def key_of_difference(b: Builder, values: Sequence[Value]) -> Value:
    """The key of a model's element minus the base's."""
    model, base = values
    return key_of(b, b.fptrunc(b.fsub(model, base), F32))


def key_of_spread(b: Builder, values: Sequence[Value]) -> Value:
    """The key of the sum of the squares of the differences between every two models; the last is the base.

    The additions keep their rounding errors, so that the order of the models does not matter.
    """
    differences = [b.fsub(x, y) for x, y in combinations(values[:-1], 2)]
    total, *others = [b.fmul(difference, difference) for difference in differences]
    error: Value = F64(0.0)
    for other in others:
        total, lost = sum_and_error(b, total, other)
        error = b.fadd(error, lost)
    return key_of(b, b.fptrunc(b.fadd(total, error), F32))


def key_of(b: Builder, x: Value) -> Value:
    """The key of a float32."""
    return b.and_(b.bitcast(x, I32), I32(0x7FFF_FFFF))


def bin_of(b: Builder, key: Value) -> Value:
    """The bin of the first stage for a key, i32."""
    is_between = b.icmp_unsigned("!=", b.and_(key, I32(FINE_BINS - 1)), I32(0))
    return b.or_(b.and_(b.lshr(key, I32(LOWER_BITS - 1)), I32(-2)), b.zext(is_between, I32))


def count_upper(dtypes: Sequence[str]) -> ir.Module:
    """Counts the keys of differences in the bins of the first stage.

    Arrays: a model, base, counters (uint32 of shape (COARSE_BINS, COUNTERS), zeros before and after), numbers
    (int64, overwritten: how many keys are zero, the first bin of the others, and the end), counts (int64 of
    shape (COARSE_BINS,), overwritten from this bin to the end).
    """
    return _count_upper("count_upper", dtypes, key_of_difference)


def count_bins(dtypes: Sequence[str]) -> ir.Module:
    """Counts bins. Arrays: bins (MASK), counters, numbers, counts; see `count_upper`."""
    return _count_upper("count_bins", dtypes, None)


def count_upper_of_spread(dtypes: Sequence[str]) -> ir.Module:
    """Counts the keys of spreads in these bins. Arrays: models, base, counters, numbers, counts."""
    return _count_upper("count_upper_of_spread", dtypes, key_of_spread)


def count_lower(dtypes: Sequence[str]) -> ir.Module:
    """Counts by their lower bits the keys of differences whose upper bits are the factor.

    Arrays: a model, base, counters: uint32 of shape (FINE_BINS,), to which the counts are added.
    """
    return _count_lower("count_lower", dtypes, key_of_difference)


def count_lower_of_spread(dtypes: Sequence[str]) -> ir.Module:
    """Counts keys of spreads in the same way. Arrays: models, base, counters."""
    return _count_lower("count_lower_of_spread", dtypes, key_of_spread)


def values_at(b: Builder, arrays: Sequence[Value], dtypes: Sequence[str], i: Value) -> list[Value]:
    """An element of each vector, float64; further types are ignored."""
    return [load(b, array, i, dtype) for array, dtype in zip(arrays, dtypes, strict=False)]


def integer(b: Builder, factor: Value) -> Value:
    """A factor that is a whole number, as i32."""
    return b.trunc(b.fptosi(factor, I64), I32)


def _count_upper(name: str, dtypes: Sequence[str], key: Key | None) -> ir.Module:
    """Counts the bins of keys; without a key, bins that are stored."""
    module = ir.Module(name)
    made, b, size, given, _ = of_one(module, f"{name}_one", I64, len(dtypes), 0)
    *arrays, counters, numbers, counts = given
    bins, lowest, highest = b.alloca(I16, SPAN), b.alloca(I32), b.alloca(I32)
    b.store(I32(-1), lowest)
    b.store(I32(0), highest)

    def increment(k: int, bin_of: Value) -> None:
        add(b, _counter(b, counters, b.zext(bin_of, I64), k), I32(1))

    with loop(b, size, step=SPAN) as start:
        n = least(b, b.sub(size, start), SPAN)
        with loop(b, n) as i:
            at = b.add(start, i)
            if key:
                bin_of_it = bin_of(b, key(b, values_at(b, arrays, dtypes, at)))
            else:
                bin_of_it = b.zext(b.load(element(b, arrays[0], at, I16), typ=I16), I32)
            b.store(b.trunc(bin_of_it, I16), element(b, bins, i, I16))
            _keep_if(b, "<", b.sub(bin_of_it, I32(1)), lowest)  # of zero it becomes the largest
            _keep_if(b, ">", bin_of_it, highest)
        n_rest = b.and_(n, I64(AT_ONCE - 1))
        n_grouped = b.sub(n, n_rest)
        with loop(b, n_grouped, step=AT_ONCE) as i:
            together = b.load(element(b, bins, i, I16), typ=I64, align=2)
            for k in range(AT_ONCE):
                increment(k % COUNTERS, b.trunc(b.lshr(together, I64(BIN_BITS * k)), I16))
        with loop(b, n_rest) as i:
            increment(0, b.load(element(b, bins, b.add(n_grouped, i), I16), typ=I16))
    _take_counts(b, counters, (b.load(lowest, typ=I32), b.load(highest, typ=I32)), numbers, counts)
    b.ret(I64(0))
    of_each(module, made, len(dtypes), 0)
    return module


def _counter(b: Builder, counters: Value, bin_of: Value, k: int) -> Value:
    """The address of a bin's k-th counter."""
    return element(b, counters, b.add(b.mul(bin_of, I64(COUNTERS)), I64(k)), I32)


def _take_counts(
    b: Builder, counters: Value, bins: tuple[Value, Value], numbers: Value, counts: Value
) -> None:
    """Stores the numbers and counts of `count_upper`, and sets the counters to zero.

    Args:
        b: The builder.
        counters: The counters.
        bins: The lowest bin that is not that of zero, minus one, and the highest, i32.
        numbers: As there.
        counts: As there.
    """
    first, end = (b.add(b.zext(each, I64), I64(1)) for each in bins)
    first = b.select(b.icmp_unsigned("<", first, end), first, end)

    def take(i: Value) -> Value:
        total: Value = I64(0)
        for k in range(COUNTERS):
            address = _counter(b, counters, i, k)
            total = b.add(total, b.zext(b.load(address, typ=I32), I64))
            b.store(I32(0), address)
        return total

    for k, number in enumerate((take(I64(0)), first, end)):
        b.store(number, element(b, numbers, I64(k), I64))
    with loop(b, b.sub(end, first)) as k:
        i = b.add(first, k)
        b.store(take(i), element(b, counts, i, I64))


def _count_lower(name: str, dtypes: Sequence[str], key: Key) -> ir.Module:
    module = ir.Module(name)
    made, b, size, (*arrays, counters), (wanted,) = of_one(module, f"{name}_one", I64, len(dtypes), 1)
    lower, flags = b.alloca(I16, SPAN + GROUP), b.alloca(I8, SPAN + GROUP)
    upper = integer(b, wanted)
    with loop(b, size, step=SPAN) as start:
        n = least(b, b.sub(size, start), SPAN)
        with loop(b, n) as i:
            found = key(b, values_at(b, arrays, dtypes, b.add(start, i)))
            is_wanted = b.icmp_unsigned("==", b.lshr(found, I32(LOWER_BITS)), upper)
            b.store(b.trunc(found, I16), element(b, lower, i, I16))
            b.store(b.zext(is_wanted, I8), element(b, flags, i, I8))
        for k in range(GROUP):  # the end of the last group
            b.store(I16(0), element(b, lower, b.add(n, I64(k)), I16))
            b.store(I8(0), element(b, flags, b.add(n, I64(k)), I8))
        with loop(b, n, step=GROUP) as i:
            any_wanted = b.icmp_unsigned("!=", b.load(element(b, flags, i, I8), typ=I64, align=1), I64(0))
            with b.if_then(any_wanted):  # rare, and then mostly one of them
                for k in range(GROUP):
                    at = b.add(i, I64(k))
                    slot = b.zext(b.load(element(b, lower, at, I16), typ=I16), I64)
                    add(
                        b,
                        element(b, counters, slot, I32),
                        b.zext(b.load(element(b, flags, at, I8), typ=I8), I32),
                    )
    b.ret(I64(0))
    of_each(module, made, len(dtypes), 1)
    return module


def _keep_if(b: Builder, comparison: str, x: Value, address: Value) -> None:
    """Replaces the i32 at an address by another if the comparison with it holds."""
    kept = b.load(address, typ=I32)
    b.store(b.select(b.icmp_unsigned(comparison, x, kept), x, kept), address)


def add(b: Builder, address: Value, many: Value) -> None:
    """Adds to the i32 at an address."""
    b.store(b.add(b.load(address, typ=I32), many), address)
