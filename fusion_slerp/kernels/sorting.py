"""Instructions that sort a few integers in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llvmlite import ir

from fusion_slerp.kernels.building import POINTER, VOID, element, function, loop
from fusion_slerp.kernels.elements import I64, Builder, Value

SHRINK = 5, 11
"""The factor from one gap to the next: 1/2.2."""


def sorting(module: ir.Module, name: str) -> ir.Function:
    """Adds a function that sorts n unsigned i64 in ascending order; it takes n and the array.

    Shell's method: it needs no memory, is fast for a few numbers, and not quadratic for many.
    """
    made, b = function(module, name, VOID, [I64, POINTER])
    made.linkage = "internal"
    n, array = made.args
    gap_at, i_at = b.alloca(I64), b.alloca(I64)
    b.store(n, gap_at)
    with repeat_while(b, lambda: b.icmp_unsigned(">", b.load(gap_at, typ=I64), I64(1))):
        shrunk = b.udiv(b.mul(b.load(gap_at, typ=I64), I64(SHRINK[0])), I64(SHRINK[1]))
        gap = b.select(b.icmp_unsigned("<", shrunk, I64(1)), I64(1), shrunk)
        b.store(gap, gap_at)
        with loop(b, b.sub(n, gap)) as k:
            _insert(b, array, b.add(k, gap), gap, i_at)
    b.ret_void()
    return made


def _insert(b: Builder, array: Value, i: Value, gap: Value, i_at: Value) -> None:
    """Moves element i to its position among the elements i - gap, i - 2 gap, ..."""
    value = b.load(element(b, array, i, I64), typ=I64)
    b.store(i, i_at)

    def must_move() -> Value:
        has_before = b.icmp_unsigned(">=", b.load(i_at, typ=I64), gap)
        index = b.select(has_before, b.sub(b.load(i_at, typ=I64), gap), i)
        other = b.load(element(b, array, index, I64), typ=I64)
        return b.and_(has_before, b.icmp_unsigned(">", other, value))

    with repeat_while(b, must_move):
        j = b.load(i_at, typ=I64)
        b.store(b.load(element(b, array, b.sub(j, gap), I64), typ=I64), element(b, array, j, I64))
        b.store(b.sub(j, gap), i_at)
    b.store(value, element(b, array, b.load(i_at, typ=I64), I64))


@contextmanager
def repeat_while(b: Builder, condition: Callable[[], Value]) -> Iterator[None]:
    """Repeats the instructions of its body as long as a condition, computed before each time, holds."""
    head, body, after = (b.append_basic_block(name) for name in ("head", "body", "after"))
    b.branch(head)
    b.position_at_end(head)
    b.cbranch(condition(), body, after)
    b.position_at_end(body)
    yield
    b.branch(head)
    b.position_at_end(after)
