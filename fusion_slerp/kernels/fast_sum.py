"""The weighted sum of 16-bit types in float32, where that is proven to change no bit of the result.

The sum is computed in float32, together with the sum of the terms' magnitudes, which bounds its error. If
both ends of the interval that contains the exact sum round to the same word, so does every other way to
compute the sum. Elements for which they do not, or for which float32 comes near its limits, are collected and
computed by the loop in float64: one in a few thousand, or a few in a hundred if round weights like 0.4 bring
sums close to a tie. If there are too many, a stretch is computed in float64 before float32 is tried again.

Source: A. Ziv, "Fast evaluation of elementary mathematical functions with correctly rounded last bit", ACM
Trans. Math. Softw. 17 (1991), https://doi.org/10.1145/114697.116813 (rounding both ends); N. Higham,
"Accuracy and Stability of Numerical Algorithms", SIAM 2002, section 3.1: with u = 2^-24, n+1 roundings lie
between the weights and words of n terms and their sum. One more makes an end of the interval. The bound
counts n+4, for what is of second order in u.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
from llvmlite import ir

from fusion_slerp.kernels.building import element, loop, of_each, of_one, storing_one
from fusion_slerp.kernels.elements import F16, F32, F64, I16, I32, I64, Builder, Value, has_float16
from fusion_slerp.kernels.loops import sum_of_terms

WIDTH = 16
"""Elements per vector: one of AVX-512; LLVM splits it for other processors."""

BLOCK = 64
"""Elements whose doubt bits fit into one word."""

SPAN = 1024
"""Elements whose doubtful ones are collected together."""

MOST_DOUBTFUL = SPAN // 8
"""Limit in a span; with more, float64 is faster for all."""

STRETCH = 16 * SPAN
"""Elements computed in float64 after such a span."""

AT_ONCE = 8
"""Bits of a word that are listed without testing how many are set, a branch that processors predict badly."""

LEAST_WEIGHT = 2.0**-16
"""A smaller weight, except zero, could bring a product below float32's smallest number, which is 2^-149."""

LEAST_SUM, MOST_SUM = 2.0**-100, {"uint16": 2.0**100, "int16": 65000.0}
"""Limits of the sum of magnitudes, by the result's type: nothing under- or overflows between them."""

I1, Mask = ir.IntType(1), ir.IntType(WIDTH)
I16s, I32s, F16s, F32s = (ir.VectorType(kind, WIDTH) for kind in (I16, I32, F16, F32))


def suits(dtypes: Sequence[str]) -> bool:
    """Whether a sum of these types can be computed in this way on this processor."""
    return set(dtypes) <= {"uint16", "int16"} and (has_float16() or "int16" not in dtypes)


def fast_weighted_sum(dtypes: Sequence[str]) -> ir.Module:
    """Stores the same words as `loops.weighted_sum`."""
    n_factors = len(dtypes) - 1
    module = ir.Module("fast_weighted_sum")
    exactly = storing_one(module, "exactly", dtypes, n_factors, sum_of_terms(dtypes))
    made, b, n, arrays, factors = of_one(module, "fast", I64, len(dtypes), n_factors)
    doubtful = b.alloca(I32, SPAN + AT_ONCE)
    collected = [b.alloca(I16, SPAN) for _ in arrays]
    weights = [_of_all(b, b.fptrunc(factor, F32)) for factor in factors]
    n_fast = b.select(_are_safe(b, factors), n, I64(0))
    count = b.alloca(I64)
    b.store(I64(0), count)

    def do_exactly(arrays: Sequence[Value], many: Value) -> None:
        b.store(b.add(b.load(count, typ=I64), b.call(exactly, [many, *arrays, *factors])), count)

    entry = b.block
    head, span, settle, stretch, end = map(b.append_basic_block, ("head", "span", "settle", "stretch", "end"))
    b.branch(head)

    b.position_at_end(head)
    start = b.phi(I64)
    start.add_incoming(I64(0), entry)
    here = [element(b, array, start, I16) for array in arrays]
    has_span = b.icmp_signed(">=", b.sub(n_fast, start), I64(SPAN))
    b.cbranch(has_span, span, stretch)

    b.position_at_end(span)
    n_doubtful = _span(b, here, weights, dtypes, doubtful)
    b.cbranch(b.icmp_unsigned(">", n_doubtful, I64(MOST_DOUBTFUL)), stretch, settle)

    b.position_at_end(settle)
    _settle(b, here, collected, doubtful, n_doubtful, do_exactly)
    start.add_incoming(b.add(start, I64(SPAN)), b.block)
    b.branch(head)

    b.position_at_end(stretch)
    left = b.sub(n, start)
    many = b.select(b.icmp_unsigned("<", left, I64(STRETCH)), left, I64(STRETCH))
    do_exactly(here, many)
    following = b.add(start, many)
    start.add_incoming(following, b.block)
    b.cbranch(b.icmp_unsigned("<", following, n), head, end)

    b.position_at_end(end)
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


def _span(
    b: Builder, arrays: Sequence[Value], weights: Sequence[Value], dtypes: Sequence[str], doubtful: Value
) -> Value:
    """Stores the words of a span, lists the indexes of the doubtful ones, and returns their number."""
    before = b.block
    block, some, more, after = map(b.append_basic_block, ("block", "some", "more", "after"))
    b.branch(block)

    b.position_at_end(block)
    start, n = b.phi(I64), b.phi(I64)
    doubts: Value = I64(0)
    for first in range(0, BLOCK, WIDTH):
        i = b.add(start, I64(first))
        bits = b.zext(_sixteen(b, [element(b, array, i, I16) for array in arrays], weights, dtypes), I64)
        doubts = b.or_(doubts, b.shl(bits, I64(first)))
    following = b.add(start, I64(BLOCK))
    total = b.add(n, b.ctpop(doubts))
    b.cbranch(b.icmp_unsigned("==", doubts, I64(0)), more, some)

    b.position_at_end(some)
    left, at = b.phi(I64), b.phi(I64)
    left.add_incoming(doubts, block)
    at.add_incoming(n, block)
    bits = left
    for k in range(AT_ONCE):
        index = b.trunc(b.add(start, b.cttz(bits, I1(0))), I32)
        b.store(index, element(b, doubtful, b.add(at, I64(k)), I32))
        bits = b.and_(bits, b.sub(bits, I64(1)))
    left.add_incoming(bits, some)
    at.add_incoming(b.add(at, I64(AT_ONCE)), some)
    b.cbranch(b.icmp_unsigned("==", bits, I64(0)), more, some)

    b.position_at_end(more)
    for phi, first, then in ((start, I64(0), following), (n, I64(0), total)):
        phi.add_incoming(first, before)
        phi.add_incoming(then, more)
    b.cbranch(b.icmp_unsigned("<", following, I64(SPAN)), block, after)
    b.position_at_end(after)
    return total


def _settle(
    b: Builder,
    arrays: Sequence[Value],
    collected: Sequence[Value],
    doubtful: Value,
    n_doubtful: Value,
    do_exactly: Callable[[Sequence[Value], Value], None],
) -> None:
    """Collects the doubtful elements of a span, sums them in float64, and puts the words back."""
    *sources, out = arrays
    *copies, result = collected
    with loop(b, n_doubtful) as k:
        i = _listed(b, doubtful, k)
        for source, copy in zip(sources, copies, strict=True):
            _move(b, source, i, copy, k)
    do_exactly(collected, n_doubtful)
    with loop(b, n_doubtful) as k:
        _move(b, result, k, out, _listed(b, doubtful, k))


def _sixteen(b: Builder, arrays: Sequence[Value], weights: Sequence[Value], dtypes: Sequence[str]) -> Value:
    """Stores the words nearest to sixteen sums; returns a bit for each doubtful one."""
    *types, out = dtypes
    words = [b.load(array, typ=I16s, align=2) for array in arrays[:-1]]
    terms = [
        b.fmul(weight, _decoded(b, word, dtype))
        for weight, word, dtype in zip(weights, words, types, strict=True)
    ]
    total = reduce(b.fadd, terms)
    size = reduce(b.fadd, [_magnitude(b, term) for term in terms])
    error = b.fmul(size, _floats((len(terms) + 4) * 2.0**-24))
    low, high = (_encoded(b, end, out) for end in (b.fsub(total, error), b.fadd(total, error)))
    b.store(b.trunc(high, I16s), arrays[-1], align=2)
    bits = b.bitcast(size, I32s)
    is_small = b.icmp_unsigned("<", b.sub(bits, _ints(1)), _ints(_bits(LEAST_SUM) - 1))  # except zero
    is_large = b.icmp_unsigned(">=", bits, _ints(_bits(MOST_SUM[out])))  # or NaN
    return b.bitcast(b.or_(b.icmp_unsigned("!=", low, high), b.or_(is_small, is_large)), Mask)


def _decoded(b: Builder, words: Value, dtype: str) -> Value:
    """The values of words, float32."""
    if dtype == "uint16":
        return b.bitcast(b.shl(b.zext(words, I32s), _ints(16)), F32s)
    return b.fpext(b.bitcast(words, F16s), F32s)


def _encoded(b: Builder, x: Value, dtype: str) -> Value:
    """The words nearest to float32 numbers, as int32; bfloat16 rounds ties away from zero.

    The exact sum lies strictly inside its interval. So if both ends give the same word, it is not a tie.
    """
    if dtype == "uint16":
        return b.lshr(b.add(b.bitcast(x, I32s), _ints(0x8000)), _ints(16))
    return b.zext(b.bitcast(b.fptrunc(x, F16s), I16s), I32s)


def _magnitude(b: Builder, x: Value) -> Value:
    return b.bitcast(b.and_(b.bitcast(x, I32s), _ints(0x7FFF_FFFF)), F32s)


def _magnitude64(b: Builder, x: Value) -> Value:
    return b.bitcast(b.and_(b.bitcast(x, I64), I64((1 << 63) - 1)), F64)


def _listed(b: Builder, indexes: Value, k: Value) -> Value:
    """Loads an index of a list; atomically, which costs nothing, so that LLVM does not vectorise the loop."""
    return b.zext(b.load_atomic(element(b, indexes, k, I32), "monotonic", 4, typ=I32), I64)


def _move(b: Builder, source: Value, i: Value, target: Value, k: Value) -> None:
    """Copies word i of an array to index k of another."""
    b.store(b.load(element(b, source, i, I16), typ=I16), element(b, target, k, I16))


def _of_all(b: Builder, x: Value) -> Value:
    """A vector with a number in every lane."""
    alone = b.insert_element(_floats(0.0), x, I32(0))
    return b.shuffle_vector(alone, alone, _ints(0))


def _ints(value: int) -> Value:
    return I32s([value] * WIDTH)


def _floats(value: float) -> Value:
    return F32s([value] * WIDTH)


def _bits(value: float) -> int:
    """The bits of a float32."""
    return int(np.float32(value).view(np.uint32))
