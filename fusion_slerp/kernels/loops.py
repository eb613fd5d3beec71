"""The arithmetic of the kernels: Gram matrix, chords, weighted sum, conversion.

A weighted sum of one or two vectors is plain float64. With three or more, the order of the terms would affect
the last bit, although the models have no natural order; so products and additions keep their rounding errors
(Dekker's product, Knuth's sum, without fused multiply-add). The result has about 80 bits, or 106 if the
sources are float64, relative to the largest term, and is then rounded once: in bfloat16, float16 and float32
it is the value nearest to the exact sum, unless terms cancel beyond these bits.

Source: T. Ogita, S. Rump, S. Oishi, "Accurate sum and dot product", SIAM J. Sci. Comput. 26 (2005),
https://doi.org/10.1137/030601818 (the error-free transformations); S. Boldo, G. Melquiond, "Emulation of FMA
and correctly rounded sums", IEEE Trans. Comput. 57 (2008), https://doi.org/10.1109/TC.2007.70819 (rounding to
odd before the last rounding).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import combinations_with_replacement

from llvmlite import ir

from fusion_slerp.kernels.building import Arithmetic, storing, summing
from fusion_slerp.kernels.elements import F64, I64, Builder, Value

PLAIN_TERMS = 2
"""Up to this many terms, the only addition is rounded once, and gives the same result in either order."""

SIGNIFICANT_BITS = {"uint16": 8, "int16": 11, "float32": 24}
"""Significant bits of each type that is narrower than float64."""

HALF_BITS = 27
"""Low bits of a float64's 53: products of halves are exact, except that of both lower ones."""


def gram(dtypes: Sequence[str]) -> ir.Module:
    """Adds the products of every two vectors, and of each with itself, to rows of lanes."""
    pairs = combinations_with_replacement(range(len(dtypes)), 2)
    return summing("gram", dtypes, n_factors=0, terms=[_product(i, j) for i, j in pairs])


def gram_of_differences(dtypes: Sequence[str]) -> ir.Module:
    """Adds the products of every two differences from the last vector, and of each with itself, to lanes."""
    last = len(dtypes) - 1
    pairs = combinations_with_replacement(range(last), 2)
    terms = [_product_of_differences(i, j, last) for i, j in pairs]
    return summing("gram_of_differences", dtypes, n_factors=0, terms=terms)


def chords(dtypes: Sequence[str]) -> ir.Module:
    """Adds (u-v)^2 and (u+v)^2 of the scaled elements to two rows of lanes."""
    return summing(
        "chords", dtypes, n_factors=2, terms=[_chord(ir.IRBuilder.fsub), _chord(ir.IRBuilder.fadd)]
    )


def weighted_sum(dtypes: Sequence[str]) -> ir.Module:
    """Stores the sum of factor times element over all vectors, rounded once."""
    return storing("weighted_sum", dtypes, n_factors=len(dtypes) - 1, value=sum_of_terms(dtypes))


def sum_of_terms(dtypes: Sequence[str]) -> Arithmetic:
    """Returns the arithmetic for the sum of factor times element; the last type is the result's."""
    return _plain_sum if len(dtypes) - 1 <= PLAIN_TERMS else partial(exact_sum, dtypes=dtypes)


def convert(dtypes: Sequence[str]) -> ir.Module:
    """Stores x in another type, rounded once."""
    return storing("convert", dtypes, n_factors=0, value=lambda b, values, factors: values[0])


def _product(i: int, j: int) -> Arithmetic:
    return lambda b, values, factors: b.fmul(values[i], values[j])


def _product_of_differences(i: int, j: int, last: int) -> Arithmetic:
    return lambda b, values, factors: b.fmul(b.fsub(values[i], values[last]), b.fsub(values[j], values[last]))


def _chord(combine: Arithmetic) -> Arithmetic:
    def squared(b: Builder, values: Sequence[Value], factors: Sequence[Value]) -> Value:
        chord = combine(b, b.fmul(values[0], factors[0]), b.fmul(values[1], factors[1]))
        return b.fmul(chord, chord)

    return squared


def _plain_sum(b: Builder, values: Sequence[Value], factors: Sequence[Value]) -> Value:
    total, *others = (b.fmul(factor, value) for factor, value in zip(factors, values, strict=True))
    for other in others:
        total = b.fadd(total, other)
    return total


def exact_sum(b: Builder, values: Sequence[Value], factors: Sequence[Value], dtypes: Sequence[str]) -> Value:
    """The sum to far more digits than float64 has, rounded to odd if it is then narrowed."""
    total, error = None, None
    for factor, value, dtype in zip(factors, values, dtypes[:-1], strict=True):
        product, missing = _product_and_error(b, factor, value, dtype)
        if total is None or error is None:
            total, error = product, missing
            continue
        total, lost = sum_and_error(b, total, product)
        error = b.fadd(error, b.fadd(missing, lost))
    high = b.fadd(total, error)
    low = b.fsub(error, b.fsub(high, total))
    return high if dtypes[-1] == "float64" else _rounded_to_odd(b, high, low)


def _product_and_error(b: Builder, factor: Value, x: Value, dtype: str) -> tuple[Value, Value]:
    """factor*x as two numbers; both are exact products, unless x is float64."""
    if dtype in SIGNIFICANT_BITS:
        high, low = _halves(b, factor, SIGNIFICANT_BITS[dtype])
        return b.fmul(high, x), b.fmul(low, x)
    product = b.fmul(factor, x)
    (factor_high, factor_low), (x_high, x_low) = (_halves(b, each, HALF_BITS) for each in (factor, x))
    error = b.fsub(b.fmul(factor_high, x_high), product)
    for one, other in ((factor_high, x_low), (factor_low, x_high), (factor_low, x_low)):
        error = b.fadd(error, b.fmul(one, other))
    return product, error


def _halves(b: Builder, x: Value, n_bits: int) -> tuple[Value, Value]:
    """x without the last bits of its fraction, and the remainder."""
    high = b.bitcast(b.and_(b.bitcast(x, I64), I64(-(1 << n_bits))), F64)
    return high, b.fsub(x, high)


def sum_and_error(b: Builder, x: Value, y: Value) -> tuple[Value, Value]:
    total = b.fadd(x, y)
    of_y = b.fsub(total, x)
    return total, b.fadd(b.fsub(x, b.fsub(total, of_y)), b.fsub(y, of_y))


def _rounded_to_odd(b: Builder, high: Value, low: Value) -> Value:
    """high + low as one number that rounds to fewer bits as the exact sum would.

    If it is inexact and the last bit is even, the number moves to its odd neighbour on the side of `low`.
    """
    bits = b.bitcast(high, I64)
    is_even = b.icmp_unsigned("==", b.and_(bits, I64(1)), I64(0))
    is_inexact = b.fcmp_unordered("une", low, F64(0.0))
    is_outward = b.icmp_signed(">=", b.xor(b.bitcast(low, I64), bits), I64(0))
    step = b.select(b.and_(is_even, is_inexact), b.select(is_outward, I64(1), I64(-1)), I64(0))
    return b.bitcast(b.add(bits, step), F64)
