"""The kernels' loops as LLVM modules; each has one function, named as the kernel.

A function takes the number of words, a pointer for every array (see `kernels` for the arrays and
their order), then its float64 factors. LLVM vectorises the loops over words and lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce

from llvmlite import ir

from fusion_slerp.kernels.elements import F64, I64, LLVM_TYPES, Builder, Value, decode, encode, is_not_finite

LANES = 256
"""Partial sums held side by side; wide enough for any vector unit, 6 KB for three sums (L1)."""

ROWS = 2
"""Rows of lanes whose terms are added to one another before they are added to the lanes."""

VOID, POINTER = ir.VoidType(), ir.PointerType()


def measure(dtypes: Sequence[str]) -> ir.Module:
    """Adds x*x, y*y and x*y to three rows of lanes, then each row into its first lane."""
    return _sums("measure", dtypes, n_factors=0, terms=_products)


def measure_chords(dtypes: Sequence[str]) -> ir.Module:
    """Adds (u-v)^2 and (u+v)^2 of the scaled elements to two rows of lanes."""
    return _sums("measure_chords", dtypes, n_factors=2, terms=_squared_chords)


def combine(dtypes: Sequence[str]) -> ir.Module:
    """Stores s0*x + s1*y, rounded once; returns how many results are not finite."""
    return _stores("combine", dtypes, n_factors=2, value=_weighted_sum)


def convert(dtypes: Sequence[str]) -> ir.Module:
    """Stores x in another type, rounded once; returns how many results are not finite."""
    return _stores("convert", dtypes, n_factors=0, value=lambda b, values, factors: values[0])


def read(dtypes: Sequence[str]) -> ir.Module:
    """Calls the system's pread for every piece; returns the index of the first that came short, or n."""
    module, b, (n, places, counts, offsets, data, descriptor) = _function("read", I64, 5, 0)
    types = [ir.IntType(32), POINTER, I64, I64]
    pread = ir.Function(module, ir.FunctionType(I64, types), "pread")
    file = b.trunc(b.load(descriptor, typ=I64), types[0])
    first = b.alloca(I64)
    b.store(n, first)
    with _loop(b, n) as i:
        place, count, offset = (
            b.load(_element(b, array, i, I64), typ=I64) for array in (places, counts, offsets)
        )
        got = b.call(pread, [file, _element(b, data, place, ir.IntType(8)), count, offset])
        known = b.load(first, typ=I64)
        is_first = b.and_(b.icmp_signed("!=", got, count), b.icmp_unsigned("<", i, known))
        b.store(b.select(is_first, i, known), first)
    b.ret(b.load(first, typ=I64))
    return module


Arithmetic = Callable[[Builder, Sequence[Value], Sequence[Value]], Value]


def _weighted_sum(b: Builder, values: Sequence[Value], factors: Sequence[Value]) -> Value:
    return b.fadd(b.fmul(factors[0], values[0]), b.fmul(factors[1], values[1]))


def _products(b: Builder, values: Sequence[Value], factors: Sequence[Value]) -> tuple[Value, ...]:
    x, y = values
    return b.fmul(x, x), b.fmul(y, y), b.fmul(x, y)


def _squared_chords(b: Builder, values: Sequence[Value], factors: Sequence[Value]) -> tuple[Value, ...]:
    u, v = (b.fmul(value, factor) for value, factor in zip(values, factors, strict=True))
    minus, plus = b.fsub(u, v), b.fadd(u, v)
    return b.fmul(minus, minus), b.fmul(plus, plus)


def _stores(name: str, dtypes: Sequence[str], n_factors: int, value: Arithmetic) -> ir.Module:
    """A loop that makes one word of the last array from one word of each other array."""
    module, b, arguments = _function(name, I64, len(dtypes), n_factors)
    n, arrays, factors = arguments[0], arguments[1 : 1 + len(dtypes)], arguments[1 + len(dtypes) :]
    count = b.alloca(I64)
    b.store(I64(0), count)
    with _loop(b, n) as i:
        values = [_load(b, array, i, dtype) for array, dtype in zip(arrays[:-1], dtypes[:-1], strict=True)]
        word = encode(b, value(b, values, factors), dtypes[-1])
        b.store(word, _element(b, arrays[-1], i, LLVM_TYPES[dtypes[-1]]))
        b.store(b.add(b.load(count, typ=I64), is_not_finite(b, word, dtypes[-1])), count)
    b.ret(b.load(count, typ=I64))
    return module


def _sums(
    name: str,
    dtypes: Sequence[str],
    n_factors: int,
    terms: Callable[[Builder, Sequence[Value], Sequence[Value]], tuple[Value, ...]],
) -> ir.Module:
    """A loop that adds terms of each pair of words to rows of lanes, and the lanes to one another."""
    module, b, arguments = _function(name, VOID, 3, n_factors)
    n, pair, sums, factors = arguments[0], arguments[1:3], arguments[3], arguments[4:]

    def add_terms(starts: Sequence[Value], lane: Value) -> int:
        rows = []
        for start in starts:
            i = b.add(start, lane)
            values = [_load(b, array, i, dtype) for array, dtype in zip(pair, dtypes, strict=True)]
            rows.append(terms(b, values, factors))
        totals = [reduce(b.fadd, found) for found in zip(*rows, strict=True)]
        for row, total in enumerate(totals):
            _add(b, _element(b, sums, b.add(lane, I64(row * LANES)), F64), total)
        return len(totals)

    block = LANES * ROWS
    n_blocks, n_whole = (b.mul(b.udiv(n, I64(size)), I64(size)) for size in (block, LANES))
    with _loop(b, n_blocks, step=block) as start, _loop(b, I64(LANES)) as lane:
        n_rows = add_terms([b.add(start, I64(row * LANES)) for row in range(ROWS)], lane)
    with _loop(b, b.sub(n_whole, n_blocks), step=LANES) as start, _loop(b, I64(LANES)) as lane:
        add_terms([b.add(n_blocks, start)], lane)
    with _loop(b, b.sub(n, n_whole)) as lane:
        add_terms([n_whole], lane)
    _fold(b, sums, n_rows)
    b.ret_void()
    return module


def _fold(b: Builder, sums: Value, n_rows: int) -> None:
    """Adds the upper half of each row to the lower, again and again: pairwise, so errors stay small."""
    n_levels = LANES.bit_length() - 1
    with _loop(b, I64(n_rows * LANES), step=LANES) as row, _loop(b, I64(n_levels)) as level:
        width = b.lshr(I64(LANES // 2), level)
        with _loop(b, width) as lane:
            low = b.add(row, lane)
            high = b.load(_element(b, sums, b.add(low, width), F64), typ=F64)
            _add(b, _element(b, sums, low, F64), high)


def _function(
    name: str, returns: ir.Type, n_arrays: int, n_factors: int
) -> tuple[ir.Module, Builder, Sequence[Value]]:
    module = ir.Module(name)
    parameters = [I64, *[POINTER] * n_arrays, *[F64] * n_factors]
    function = ir.Function(module, ir.FunctionType(returns, parameters), name)
    for argument in function.args[1 : 1 + n_arrays]:
        argument.add_attribute("noalias")
    return module, ir.IRBuilder(function.append_basic_block("entry")), function.args


@contextmanager
def _loop(b: Builder, stop: Value, step: int = 1) -> Iterator[Value]:
    """Repeats the instructions made in its body for 0, step, 2*step, ... below `stop`."""
    before = b.block
    body, after = b.append_basic_block("body"), b.append_basic_block("after")
    b.cbranch(b.icmp_unsigned("<", I64(0), stop), body, after)
    b.position_at_end(body)
    i = b.phi(I64)
    i.add_incoming(I64(0), before)
    yield i
    following = b.add(i, I64(step), flags=("nuw", "nsw"))
    i.add_incoming(following, b.block)
    b.cbranch(b.icmp_unsigned("<", following, stop), body, after)
    b.position_at_end(after)


def _element(b: Builder, array: Value, i: Value, element: ir.Type) -> Value:
    return b.gep(array, [i], source_etype=element, inbounds=True)


def _load(b: Builder, array: Value, i: Value, dtype: str) -> Value:
    kind = LLVM_TYPES[dtype]
    return decode(b, b.load(_element(b, array, i, kind), typ=kind), dtype)


def _add(b: Builder, place: Value, term: Value) -> None:
    b.store(b.fadd(b.load(place, typ=F64), term), place)
