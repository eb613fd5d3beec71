"""Building blocks of the kernels: functions, loops, words in memory, and lanes of partial sums.

A kernel is an LLVM module with one function, named as the module. It processes one or more sets of arrays
in turn: for small tensors, a call per set would cost more than the arithmetic. LLVM vectorises the
innermost loops. A method that needs its own kernel builds it from these pieces and runs it with
`kernels.run`.

The function's arguments: the number of sets; a table, int64 of shape (sets, 1 + arrays), with each set's
number of words and the addresses of its arrays; the factors, float64 of shape (sets, factors); the results,
of shape (sets, sums) or (sets,); lanes for sums, float64 of shape (sums, LANES).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce

from llvmlite import ir

from fusion_slerp.kernels.elements import F64, I64, LLVM_TYPES, Builder, Value, decode, encode, is_not_finite

LANES = 64
"""Parallel partial sums: enough for any vector unit, and few enough that arrays are read in short stretches.
On an AMD EPYC, sums over four arrays outside the cache took half as long again with four times as many.
"""

ROWS = 4
"""Rows of lanes whose terms are added to each other before they are added to the lanes."""

MOST_SUMS = 16
"""Sums of one loop: more do not fit into the registers (8 vectors: 10.8 ns an element in one loop, else 1.7).
"""

ONE = "_of_one"

VOID, POINTER = ir.VoidType(), ir.PointerType()

Arithmetic = Callable[[Builder, Sequence[Value], Sequence[Value]], Value]
"""Computes a float64 from one element of each array and the factors."""


def storing(name: str, dtypes: Sequence[str], n_factors: int, value: Arithmetic) -> ir.Module:
    """Returns a loop that computes one word of the last array from one word of each other array.

    Its result, int64, is the number of words that are infinite or NaN.
    """
    module = ir.Module(name)
    of_each(module, storing_one(module, f"{name}{ONE}", dtypes, n_factors, value), len(dtypes), n_factors)
    return module


def storing_one(
    module: ir.Module, name: str, dtypes: Sequence[str], n_factors: int, value: Arithmetic
) -> ir.Function:
    """Returns the part of `storing` for one set; it returns the number of words that are infinite or NaN."""
    made, b, n, arrays, factors = of_one(module, name, I64, len(dtypes), n_factors)
    count = b.alloca(I64)
    b.store(I64(0), count)
    with loop(b, n) as i:
        values = [load(b, array, i, dtype) for array, dtype in zip(arrays[:-1], dtypes[:-1], strict=True)]
        word = encode(b, value(b, values, factors), dtypes[-1])
        b.store(word, element(b, arrays[-1], i, LLVM_TYPES[dtypes[-1]]))
        b.store(b.add(b.load(count, typ=I64), is_not_finite(b, word, dtypes[-1])), count)
    b.ret(b.load(count, typ=I64))
    return made


def summing(name: str, dtypes: Sequence[str], n_factors: int, terms: Sequence[Arithmetic]) -> ir.Module:
    """Returns a loop that adds a term of each element to lanes, and finally the lanes to each other.

    Its results, float64, are the sums.
    """
    module = ir.Module(name)
    made = summing_one(module, f"{name}{ONE}", dtypes, n_factors, terms)
    of_each(module, made, len(dtypes), n_factors, len(terms))
    return module


def summing_one(
    module: ir.Module, name: str, dtypes: Sequence[str], n_factors: int, terms: Sequence[Arithmetic]
) -> ir.Function:
    """Returns the part of `summing` for one set, which adds to the lanes that are its last array."""
    made, b, n, (*arrays, sums), factors = of_one(module, name, VOID, len(dtypes) + 1, n_factors)
    groups = [range(i, min(i + MOST_SUMS, len(terms))) for i in range(0, len(terms), MOST_SUMS)]

    def add_terms(starts: Sequence[Value], lane: Value, group: range) -> None:
        rows = []
        for start in starts:
            i = b.add(start, lane)
            values = [load(b, array, i, dtype) for array, dtype in zip(arrays, dtypes, strict=True)]
            rows.append([terms[k](b, values, factors) for k in group])
        for k, of_rows in zip(group, zip(*rows, strict=True), strict=True):
            add_to(b, element(b, sums, b.add(lane, I64(k * LANES)), F64), reduce(b.fadd, of_rows))

    def add_lanes(starts: Sequence[Value], n_lanes: Value) -> None:
        for group in groups:
            with loop(b, n_lanes) as lane:
                add_terms(starts, lane, group)

    block = LANES * ROWS
    n_blocks = b.mul(b.udiv(n, I64(block)), I64(block))
    with loop(b, n_blocks, step=block) as start:
        add_lanes([b.add(start, I64(row * LANES)) for row in range(ROWS)], I64(LANES))
    n_rest = b.sub(n, n_blocks)
    with loop(b, n_rest, step=LANES) as start:
        add_lanes([b.add(n_blocks, start)], least(b, b.sub(n_rest, start), LANES))
    b.ret_void()
    return made


def of_one(
    module: ir.Module, name: str, returns: ir.Type, n_arrays: int, n_factors: int
) -> tuple[ir.Function, Builder, Value, Sequence[Value], Sequence[Value]]:
    """Begins the part for one set, which takes the number of words, the arrays, and the factors.

    A separate function tells LLVM that the arrays share no memory; inlining it would only take longer.

    Returns:
        The function, its builder, and its arguments.
    """
    made, b = function(module, name, returns, [I64, *[POINTER] * n_arrays, *[F64] * n_factors])
    made.linkage = "internal"
    made.attributes.add("noinline")
    arrays = made.args[1 : 1 + n_arrays]
    for array in arrays:
        array.add_attribute("noalias")
    return made, b, made.args[0], arrays, made.args[1 + n_arrays :]


def of_each(module: ir.Module, one: ir.Function, n_arrays: int, n_factors: int, n_sums: int = 0) -> None:
    """Adds the kernel's function, which calls the part for one set for each set in turn.

    Args:
        module: The module.
        one: The part.
        n_arrays: Number of arrays.
        n_factors: Number of factors.
        n_sums: Rows of lanes to which it adds, which are then its last array; 0 if it returns a number.
    """
    made, b = function(module, module.name, VOID, [I64, *[POINTER] * 4])
    many, table, factors, results, lanes = made.args
    with loop(b, many) as k:
        row = b.mul(k, I64(1 + n_arrays))
        n, *addresses = (
            b.load(element(b, table, b.add(row, I64(i)), I64), typ=I64) for i in range(1 + n_arrays)
        )
        arrays = [b.inttoptr(address, POINTER) for address in addresses]
        own = b.mul(k, I64(n_factors))
        given = [b.load(element(b, factors, b.add(own, I64(i)), F64), typ=F64) for i in range(n_factors)]
        if n_sums:
            _sums_of_one(b, one, [n, *arrays, lanes, *given], lanes, n_sums)
        for i in range(n_sums):
            total = b.load(element(b, lanes, I64(i * LANES), F64), typ=F64)
            b.store(total, element(b, results, b.add(b.mul(k, I64(n_sums)), I64(i)), F64))
        if not n_sums:
            b.store(b.call(one, [n, *arrays, *given]), element(b, results, k, I64))
    b.ret_void()


def _sums_of_one(b: Builder, one: ir.Function, arguments: Sequence[Value], lanes: Value, n_sums: int) -> None:
    """Calls a summing function after setting its lanes to zero, and then adds the lanes to each other."""
    with loop(b, I64(n_sums * LANES)) as lane:
        b.store(F64(0.0), element(b, lanes, lane, F64))
    b.call(one, arguments)
    _fold(b, lanes, n_sums)


def _fold(b: Builder, sums: Value, n_rows: int) -> None:
    """Adds the upper half of each row to the lower half, repeatedly: pairwise, so errors stay small."""
    n_levels = LANES.bit_length() - 1
    with loop(b, I64(n_rows * LANES), step=LANES) as row, loop(b, I64(n_levels)) as level:
        width = b.lshr(I64(LANES // 2), level)
        with loop(b, width) as lane:
            low = b.add(row, lane)
            high = b.load(element(b, sums, b.add(low, width), F64), typ=F64)
            add_to(b, element(b, sums, low, F64), high)


def function(
    module: ir.Module, name: str, returns: ir.Type, parameters: Sequence[ir.Type]
) -> tuple[ir.Function, Builder]:
    """Adds a function to a module; returns it and its builder."""
    made = ir.Function(module, ir.FunctionType(returns, parameters), name)
    return made, ir.IRBuilder(made.append_basic_block("entry"))


@contextmanager
def loop(b: Builder, stop: Value, step: int = 1) -> Iterator[Value]:
    """Repeats the instructions of its body for 0, step, 2*step, ... below `stop`."""
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


def least(b: Builder, n: Value, most: int) -> Value:
    """The smaller of both, i64."""
    return b.select(b.icmp_unsigned("<", n, I64(most)), n, I64(most))


def element(b: Builder, array: Value, i: Value, kind: ir.Type) -> Value:
    """Returns the address of an element."""
    return b.gep(array, [i], source_etype=kind, inbounds=True)


def load(b: Builder, array: Value, i: Value, dtype: str) -> Value:
    """Returns the value of a word, as float64."""
    kind = LLVM_TYPES[dtype]
    return decode(b, b.load(element(b, array, i, kind), typ=kind), dtype)


def add_to(b: Builder, address: Value, term: Value) -> None:
    """Adds a float64 to the one at an address."""
    b.store(b.fadd(b.load(address, typ=F64), term), address)
