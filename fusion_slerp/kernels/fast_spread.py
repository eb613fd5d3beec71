"""Spreads of 16-bit models in float32, where that is proven to change no bit of a mask or a count.

Float32 is exact where it holds every difference, square and sum: all of these are whole multiples of the
models' smallest unit in the last place, or of its square, and below 2^24 of them; whether they are shows in
the sum itself. Elsewhere the sum's error is bounded, and an element is doubtful only where a key so close to
it would fall on another side of a limit. Doubtful elements are left to the loop in float64 (see `doubts`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import combinations

from llvmlite import ir

from fusion_slerp.kernels.building import element, loop, of_each, of_one
from fusion_slerp.kernels.doubts import (
    F32s,
    I16s,
    I32s,
    Mask,
    decoded,
    floats,
    ints,
    magnitude,
    of_all,
    suits,
    with_doubts,
)
from fusion_slerp.kernels.elements import FRACTION_BITS, I16, I32, I64, Builder, Value
from fusion_slerp.kernels.keys import FINE_BINS, bin_of, integer, key_of_spread, values_at

MOST_MODELS = 6
"""15 squares, each with up to 3 roundings of 2^-24, and 14 more of the sums: less than MARGIN."""

MARGIN = 32
"""Distance of a key from that of the exact sum, at most."""

LEAST_POWER = 2.0**-60
"""Squares of units in the last place of smaller numbers would not be numbers of float32."""

LARGEST_KEY = 0x7F00_0000
"""Keys from here on, and NaN, are doubtful."""


def can_be_fast(dtypes: Sequence[str]) -> bool:
    """Whether models of these types have kernels here."""
    return 2 <= len(dtypes) <= MOST_MODELS and suits(dtypes)


def fast_select_spread(dtypes: Sequence[str]) -> ir.Module:
    """Stores the same masks as `key_masks.select_spread`. Arrays: models, masks. Factor: as there."""
    everyone = (1 << len(dtypes) - 1) - 1

    def exactly(b: Builder, key: Value, factors: Sequence[Value]) -> Value:
        return b.select(b.icmp_unsigned(">=", key, factors[0]), I32(everyone), I32(0))

    def fast(b: Builder, keys: Value, factors: Sequence[Value]) -> tuple[Value, Value]:
        first = of_all(b, factors[0])
        is_near = b.icmp_unsigned("<=", b.add(b.sub(keys, first), ints(MARGIN)), ints(2 * MARGIN))
        return b.select(b.icmp_unsigned(">=", keys, first), ints(everyone), ints(0)), is_near

    return _spreads("fast_select_spread", dtypes, 1, exactly, fast)


def fast_bins_of_spread(dtypes: Sequence[str]) -> ir.Module:
    """Stores the bin of each element's key. Arrays: models, bins."""

    def exactly(b: Builder, key: Value, factors: Sequence[Value]) -> Value:
        return bin_of(b, key)

    def fast(b: Builder, keys: Value, factors: Sequence[Value]) -> tuple[Value, Value]:
        lower = b.and_(b.add(keys, ints(MARGIN)), ints(FINE_BINS - 1))
        is_between = b.icmp_unsigned("!=", b.and_(keys, ints(FINE_BINS - 1)), ints(0))
        upper = b.and_(b.lshr(keys, ints(15)), ints(-2))
        return b.or_(upper, b.zext(is_between, I32s)), b.icmp_unsigned("<=", lower, ints(2 * MARGIN))

    return _spreads("fast_bins_of_spread", dtypes, 0, exactly, fast)


Exactly = Callable[[Builder, Value, Sequence[Value]], Value]
"""Takes a key and the factors; returns the word, i32."""

Fast = Callable[[Builder, Value, Sequence[Value]], tuple[Value, Value]]
"""Takes sixteen keys and the factors; returns the words, and which could be others for keys nearby."""


def _spreads(name: str, dtypes: Sequence[str], n_factors: int, exactly: Exactly, fast: Fast) -> ir.Module:
    module = ir.Module(name)
    settle = _exact_part(module, dtypes, n_factors, exactly)
    made, b, size, arrays, factors = of_one(module, f"{name}_one", I64, len(dtypes), n_factors)
    limits = [integer(b, factor) for factor in factors]

    def do_exactly(here: Sequence[Value], many: Value) -> None:
        b.call(settle, [many, *here, *factors])

    def sixteen(here: Sequence[Value]) -> Value:
        keys, is_exact = _keys(b, here[:-1], dtypes)
        words, is_near = fast(b, keys, limits)
        b.store(b.trunc(words, I16s), here[-1], align=2)
        is_large = b.icmp_unsigned(">=", keys, ints(LARGEST_KEY))
        return b.bitcast(b.or_(is_large, b.and_(is_near, b.not_(is_exact))), Mask)

    with_doubts(b, size, ir.IntType(1)(1), arrays, sixteen, do_exactly)
    b.ret(I64(0))
    of_each(module, made, len(dtypes), n_factors)
    return module


def _exact_part(module: ir.Module, dtypes: Sequence[str], n_factors: int, exactly: Exactly) -> ir.Function:
    made, b, size, (*models, out), factors = of_one(module, "exactly", I64, len(dtypes), n_factors)
    limits = [integer(b, factor) for factor in factors]
    with loop(b, size) as i:
        values = values_at(b, models, dtypes, i)
        word = exactly(b, key_of_spread(b, [*values, values[0]]), limits)  # whose base does not count
        b.store(b.trunc(word, I16), element(b, out, i, I16))
    b.ret(I64(0))
    return made


def _keys(b: Builder, models: Sequence[Value], dtypes: Sequence[str]) -> tuple[Value, Value]:
    """Sixteen keys of sums in float32, and whether these are exact."""
    words = [b.load(array, typ=I16s, align=2) for array in models]
    values = [decoded(b, each, dtype) for each, dtype in zip(words, dtypes, strict=False)]
    differences = [b.fsub(x, y) for x, y in combinations(values, 2)]
    total = magnitude(b, reduce(b.fadd, [b.fmul(each, each) for each in differences]))
    # Zero becomes the largest integer: it is a multiple of every unit.
    lowered = [b.sub(b.bitcast(magnitude(b, value), I32s), ints(1)) for value in values]
    smallest = reduce(lambda x, y: b.select(b.icmp_unsigned("<", x, y), x, y), lowered)
    power = b.bitcast(b.and_(smallest, ints(0x7F80_0000)), F32s)
    n_bits = max(FRACTION_BITS[dtype] for dtype in dtypes[: len(models)])
    limit = b.fmul(power, floats(2.0 ** (12 - n_bits)))  # 2^12 units in the last place
    is_exact = b.and_(
        b.fcmp_ordered("<", total, b.fmul(limit, limit)), b.fcmp_ordered(">=", power, floats(LEAST_POWER))
    )
    return b.bitcast(total, I32s), is_exact
