"""A loop over 16-bit words in vectors of float32, which leaves doubtful elements to a loop in float64.

The fast part marks the elements whose words it cannot prove. Span by span these are listed; when there are
enough, they are collected, computed by the loop in float64, and put back. If a span has too many, a stretch
is computed in float64 before the fast part is tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
from llvmlite import ir

from fusion_slerp.kernels.building import element, loop
from fusion_slerp.kernels.elements import F16, F32, I16, I32, I64, Builder, Value, has_float16

WIDTH = 16
"""Elements per vector: one of AVX-512; LLVM splits it for other processors."""

BLOCK = 64
"""Elements whose doubt bits fit into one word."""

SPAN = 1024
"""Elements after which the doubtful ones are listed, and counted: many make float64 faster."""

MOST_DOUBTFUL = SPAN // 8
"""Limit in a span; with more, float64 is faster for all."""

ENOUGH = 128
"""Listed elements from which on they are computed: a few would not fill the vectors of float64."""

STRETCH = 16 * SPAN
"""Elements computed in float64 after such a span."""

AT_ONCE = 8
"""Bits of a word that are listed without testing how many are set, a branch that processors predict badly."""

I1, Mask = ir.IntType(1), ir.IntType(WIDTH)
I16s, I32s, F16s, F32s = (ir.VectorType(kind, WIDTH) for kind in (I16, I32, F16, F32))

Fast = Callable[[Sequence[Value]], Value]
"""Stores sixteen words of the last array, given the addresses; returns a bit for each doubtful one."""

Exact = Callable[[Sequence[Value], Value], None]
"""Stores the given number of words of the last array, from the addresses of all arrays."""


def suits(dtypes: Sequence[str]) -> bool:
    """Whether words of these types can be processed in this way on this processor."""
    return set(dtypes) <= {"uint16", "int16"} and (has_float16() or "int16" not in dtypes)


def with_doubts(
    b: Builder, n: Value, is_safe: Value, arrays: Sequence[Value], fast: Fast, do_exactly: Exact
) -> None:
    """Builds the loop over n elements.

    Args:
        b: The builder, at the function's entry.
        n: Number of elements.
        is_safe: Whether the fast part may be used at all.
        arrays: Of 16-bit words; the last is written.
        fast: Builds the fast part.
        do_exactly: Builds the call of the loop in float64.
    """
    doubtful, n_listed_at = b.alloca(I64, ENOUGH + SPAN + AT_ONCE), b.alloca(I64)
    collected = [b.alloca(I16, ENOUGH + MOST_DOUBTFUL + WIDTH) for _ in arrays]
    b.store(I64(0), n_listed_at)
    n_fast = b.select(is_safe, n, I64(0))
    entry = b.block
    names = "head", "span", "keep", "settle", "stretch", "end"
    head, span, keep, settle, stretch, end = map(b.append_basic_block, names)
    b.branch(head)

    b.position_at_end(head)
    start = b.phi(I64)
    start.add_incoming(I64(0), entry)
    here = [element(b, array, start, I16) for array in arrays]
    has_span = b.icmp_signed(">=", b.sub(n_fast, start), I64(SPAN))
    b.cbranch(has_span, span, stretch)

    b.position_at_end(span)
    n_before = b.load(n_listed_at, typ=I64)
    n_listed = _span(b, here, start, fast, doubtful, n_before)
    after_span = b.add(start, I64(SPAN))
    b.cbranch(b.icmp_unsigned(">", b.sub(n_listed, n_before), I64(MOST_DOUBTFUL)), stretch, keep)

    b.position_at_end(keep)
    b.store(n_listed, n_listed_at)
    start.add_incoming(after_span, keep)
    b.cbranch(b.icmp_unsigned(">=", n_listed, I64(ENOUGH)), settle, head)

    b.position_at_end(settle)
    _settle(b, arrays, collected, doubtful, n_listed, do_exactly)
    b.store(I64(0), n_listed_at)
    start.add_incoming(after_span, b.block)
    b.branch(head)

    b.position_at_end(stretch)
    left = b.sub(n, start)
    many = b.select(b.icmp_unsigned("<", left, I64(STRETCH)), left, I64(STRETCH))
    do_exactly(here, many)
    following = b.add(start, many)
    start.add_incoming(following, b.block)
    b.cbranch(b.icmp_unsigned("<", following, n), head, end)

    b.position_at_end(end)
    _settle(b, arrays, collected, doubtful, b.load(n_listed_at, typ=I64), do_exactly)


def _span(
    b: Builder, here: Sequence[Value], start: Value, fast: Fast, doubtful: Value, n_before: Value
) -> Value:
    """Stores the words of a span, appends the indexes of the doubtful ones to a list, and returns its length.

    Args:
        b: The builder.
        here: The arrays, from the span's first element.
        start: The index of that element.
        fast: Builds the fast part.
        doubtful: The list.
        n_before: Its length.
    """
    with b.goto_entry_block():
        marks, n_at = b.alloca(Mask, SPAN // WIDTH), b.alloca(I64)
    with loop(b, I64(SPAN), step=WIDTH) as i:
        bits = fast([element(b, array, i, I16) for array in here])
        b.store(bits, element(b, marks, b.udiv(i, I64(WIDTH)), Mask))
    b.store(n_before, n_at)
    with loop(b, I64(SPAN), step=BLOCK) as first:
        doubts = b.load(element(b, marks, b.udiv(first, I64(WIDTH)), Mask), typ=I64, align=2)
        with b.if_then(b.icmp_unsigned("!=", doubts, I64(0))):
            n = b.load(n_at, typ=I64)
            _list(b, b.add(start, first), doubts, doubtful, n)
            b.store(b.add(n, b.ctpop(doubts)), n_at)
    return b.load(n_at, typ=I64)


def _list(b: Builder, first: Value, doubts: Value, doubtful: Value, n: Value) -> None:
    """Appends the indexes of a block's doubtful elements to a list of n."""
    before = b.block
    some, after = b.append_basic_block("some"), b.append_basic_block("after")
    b.branch(some)
    b.position_at_end(some)
    left, at = b.phi(I64), b.phi(I64)
    left.add_incoming(doubts, before)
    at.add_incoming(n, before)
    bits = left
    for k in range(AT_ONCE):
        index = b.add(first, b.cttz(bits, I1(0)))
        b.store(index, element(b, doubtful, b.add(at, I64(k)), I64))
        bits = b.and_(bits, b.sub(bits, I64(1)))
    left.add_incoming(bits, some)
    at.add_incoming(b.add(at, I64(AT_ONCE)), some)
    b.cbranch(b.icmp_unsigned("==", bits, I64(0)), after, some)
    b.position_at_end(after)


def _settle(
    b: Builder,
    arrays: Sequence[Value],
    collected: Sequence[Value],
    doubtful: Value,
    n_doubtful: Value,
    do_exactly: Exact,
) -> None:
    """Collects the doubtful elements of a list, computes them in float64, and puts the words back."""
    *sources, out = arrays
    *copies, result = collected
    with loop(b, n_doubtful) as k:
        i = _listed(b, doubtful, k)
        for source, copy in zip(sources, copies, strict=True):
            _move(b, source, i, copy, k)
    for copy in copies:  # zeros, so that the loop in float64 has whole vectors
        address = b.bitcast(element(b, copy, n_doubtful, I16), ir.PointerType(I16s))
        b.store(I16s([0] * WIDTH), address, align=2)
    do_exactly(collected, b.and_(b.add(n_doubtful, I64(WIDTH - 1)), I64(-WIDTH)))
    with loop(b, n_doubtful) as k:
        _move(b, result, k, out, _listed(b, doubtful, k))


def decoded(b: Builder, words: Value, dtype: str) -> Value:
    """The values of words, float32."""
    if dtype == "uint16":
        return b.bitcast(b.shl(b.zext(words, I32s), ints(16)), F32s)
    return b.fpext(b.bitcast(words, F16s), F32s)


def encoded(b: Builder, x: Value, dtype: str) -> Value:
    """The words nearest to float32 numbers, as int32; bfloat16 rounds ties away from zero.

    The exact sum lies strictly inside its interval. So if both ends give the same word, it is not a tie.
    """
    if dtype == "uint16":
        return b.lshr(b.add(b.bitcast(x, I32s), ints(0x8000)), ints(16))
    return b.zext(b.bitcast(b.fptrunc(x, F16s), I16s), I32s)


def magnitude(b: Builder, x: Value) -> Value:
    return b.bitcast(b.and_(b.bitcast(x, I32s), ints(0x7FFF_FFFF)), F32s)


def nearest(b: Builder, x: Value, dtype: str) -> Value:
    """The words nearest to float32 numbers, ties to even, as int32."""
    if dtype != "uint16":
        return encoded(b, x, dtype)
    bits = b.bitcast(x, I32s)
    last_kept = b.and_(b.lshr(bits, ints(16)), ints(1))
    return b.lshr(b.add(bits, b.add(last_kept, ints(0x7FFF))), ints(16))


def range_of(b: Builder, values: Sequence[Value]) -> tuple[Value, Value]:
    """The bits of the largest magnitude, and those of the smallest except zero, minus one: both as int32."""
    bits = [b.bitcast(magnitude(b, value), I32s) for value in values]
    largest = reduce(lambda x, y: b.select(b.icmp_unsigned(">", x, y), x, y), bits)
    lowered = [b.sub(each, ints(1)) for each in bits]  # zero becomes the largest integer
    return largest, reduce(lambda x, y: b.select(b.icmp_unsigned("<", x, y), x, y), lowered)


def of_all(b: Builder, x: Value) -> Value:
    """A vector with a number, i32 or float32, in every lane."""
    alone = b.insert_element(floats(0.0) if x.type == F32 else ints(0), x, I32(0))
    return b.shuffle_vector(alone, alone, ints(0))


def ints(value: int) -> Value:
    return I32s([value] * WIDTH)


def floats(value: float) -> Value:
    return F32s([value] * WIDTH)


def bits_of(value: float) -> int:
    """The bits of a float32."""
    return int(np.float32(value).view(np.uint32))


def _listed(b: Builder, indexes: Value, k: Value) -> Value:
    """Loads an index of a list; atomically, which costs nothing, so that LLVM does not vectorise the loop."""
    return b.load_atomic(element(b, indexes, k, I64), "monotonic", 8, typ=I64)


def _move(b: Builder, source: Value, i: Value, target: Value, k: Value) -> None:
    """Copies word i of an array to index k of another."""
    b.store(b.load(element(b, source, i, I16), typ=I16), element(b, target, k, I16))
