"""The weighted sum of 16-bit types in float32, where that is proven to change no bit of the result.

The sum is computed in float32, together with the sum of the terms' magnitudes, which bounds its error. If
both ends of the interval that contains the exact sum round to the same word, so does every other way to
compute the sum. Elements for which they do not, or for which float32 comes near its limits, are collected and
computed by the loop in float64 (see `doubts`): one in a few thousand, or a few in a hundred if round weights
like 0.4 bring sums close to a tie. A quarter of the means of four models are ties: if all weights are powers
of two, sums are exact wherever the terms have nearly the same exponent, and then no bound is needed.

Source: A. Ziv, "Fast evaluation of elementary mathematical functions with correctly rounded last bit", ACM
Trans. Math. Softw. 17 (1991), https://doi.org/10.1145/114697.116813 (rounding both ends); N. Higham,
"Accuracy and Stability of Numerical Algorithms", SIAM 2002, section 3.1: with u = 2^-24, n+1 roundings lie
between the weights and words of n terms and their sum. One more makes an end of the interval. The bound
counts n+4, for what is of second order in u.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import frexp

from llvmlite import ir

from fusion_slerp.kernels.building import of_each, of_one, storing_one
from fusion_slerp.kernels.doubts import (
    I1,
    I16s,
    I32s,
    Mask,
    bits_of,
    decoded,
    encoded,
    floats,
    ints,
    magnitude,
    nearest,
    of_all,
    range_of,
    with_doubts,
)
from fusion_slerp.kernels.elements import F32, F64, FRACTION_BITS, I64, Builder, Value
from fusion_slerp.kernels.loops import sum_of_terms

LEAST_WEIGHT = 2.0**-16
"""A smaller weight, except zero, could bring a product below float32's smallest number, which is 2^-149."""

LEAST_SUM, MOST_SUM = 2.0**-100, {"uint16": 2.0**100, "int16": 65000.0}
"""Limits of the sum of magnitudes, by the result's type: nothing under- or overflows between them."""


def fast_weighted_sum(dtypes: Sequence[str]) -> ir.Module:
    """Stores the same words as `loops.weighted_sum`."""
    return _fast("fast_weighted_sum", dtypes, has_ties=False)


def fast_sum_of_powers(dtypes: Sequence[str]) -> ir.Module:
    """Stores the same words as `loops.weighted_sum`, for factors of which `are_powers` is true."""
    return _fast("fast_sum_of_powers", dtypes, has_ties=True)


def are_powers(factors: Sequence[float]) -> bool:
    """Whether all factors are powers of two, of any sign, or zero."""
    return all(abs(frexp(factor)[0]) in (0.0, 0.5) for factor in factors)


def _fast(name: str, dtypes: Sequence[str], has_ties: bool) -> ir.Module:
    n_factors = len(dtypes) - 1
    module = ir.Module(name)
    exactly = storing_one(module, "exactly", dtypes, n_factors, sum_of_terms(dtypes))
    made, b, n, arrays, factors = of_one(module, "fast", I64, len(dtypes), n_factors)
    weights = [of_all(b, b.fptrunc(factor, F32)) for factor in factors]
    count = b.alloca(I64)
    b.store(I64(0), count)

    def do_exactly(arrays: Sequence[Value], many: Value) -> None:
        b.store(b.add(b.load(count, typ=I64), b.call(exactly, [many, *arrays, *factors])), count)

    def fast(here: Sequence[Value]) -> Value:
        return _sixteen(b, here, weights, dtypes, has_ties)

    with_doubts(b, n, _are_safe(b, factors), arrays, fast, do_exactly)
    b.ret(b.load(count, typ=I64))
    of_each(module, made, len(dtypes), n_factors)
    return module


def _are_safe(b: Builder, factors: Sequence[Value]) -> Value:
    """Whether no factor, other than zero, is so small that its products could underflow."""
    safe: Value = I1(1)
    for factor in factors:
        is_large = b.fcmp_ordered(">=", _magnitude64(b, factor), F64(LEAST_WEIGHT))
        safe = b.and_(safe, b.or_(is_large, b.fcmp_ordered("==", factor, F64(0.0))))
    return safe


def _sixteen(
    b: Builder, arrays: Sequence[Value], weights: Sequence[Value], dtypes: Sequence[str], has_ties: bool
) -> Value:
    """Stores the words nearest to sixteen sums; returns a bit for each doubtful one."""
    *types, out = dtypes
    words = [b.load(array, typ=I16s, align=2) for array in arrays[:-1]]
    terms = [
        b.fmul(weight, decoded(b, word, dtype))
        for weight, word, dtype in zip(weights, words, types, strict=True)
    ]
    total = reduce(b.fadd, terms)
    size = reduce(b.fadd, [magnitude(b, term) for term in terms])
    error = b.fmul(size, floats((len(terms) + 4) * 2.0**-24))
    low, high = (encoded(b, end, out) for end in (b.fsub(total, error), b.fadd(total, error)))
    word, is_open = high, b.icmp_unsigned("!=", low, high)
    if has_ties:
        is_exact = b.and_(_are_narrow(b, terms, types), b.fcmp_ordered("!=", total, floats(0.0)))
        word, is_open = nearest(b, total, out), b.and_(is_open, b.not_(is_exact))
    b.store(b.trunc(word, I16s), arrays[-1], align=2)
    bits = b.bitcast(size, I32s)
    is_small = b.icmp_unsigned("<", b.sub(bits, ints(1)), ints(bits_of(LEAST_SUM) - 1))  # except zero
    is_large = b.icmp_unsigned(">=", bits, ints(bits_of(MOST_SUM[out])))  # or NaN
    return b.bitcast(b.or_(is_open, b.or_(is_small, is_large)), Mask)


def _are_narrow(b: Builder, terms: Sequence[Value], dtypes: Sequence[str]) -> Value:
    """Whether no term, except zero, is so much smaller than another that a sum may need more than 24 bits."""
    n_bits = 1 + max(FRACTION_BITS[dtype] for dtype in dtypes) + len(terms).bit_length()
    largest, smallest = range_of(b, terms)
    return b.icmp_signed("<=", b.sub(largest, smallest), ints((24 - n_bits) << 23))


def _magnitude64(b: Builder, x: Value) -> Value:
    return b.bitcast(b.and_(b.bitcast(x, I64), I64((1 << 63) - 1)), F64)
