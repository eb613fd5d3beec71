"""The last step of `ranked_masks` for a row: elements for which the limits of their bins leave a doubt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llvmlite import ir

from fusion_slerp.kernels.building import POINTER, VOID, element, load, loop
from fusion_slerp.kernels.elements import F64, I8, I16, I32, I64, Builder, Value
from fusion_slerp.kernels.keys import key_of_difference
from fusion_slerp.kernels.random_words import HALF_BITS
from fusion_slerp.kernels.ranked_limits import NOTHING_OPEN, may_vary, threshold_of
from fusion_slerp.kernels.ranked_rows import add_bit, step
from fusion_slerp.kernels.sorting import repeat_while, sorting

SCANNED = 64
"""Elements whose flags or bins are compared at a time."""

INDEX = (1 << 32) - 1
"""The lower half of a pair; the upper half is the key."""

Found = ir.IntType(SCANNED)


def decide_flagged(
    module: ir.Module, name: str, dtypes: Sequence[str], lower_half: ir.Function
) -> ir.Function:
    """Adds the bit to the masks of flagged elements whose words are below the threshold of their rank sums.

    Arguments: n, flags, model, base, bins, firsts, lasts, limits, upper halves of the words, masks; memory
    for the row: sums (i32), pairs (i64); the code minus the bin (i32), bit, chances (two f64), the index of
    the first element, the key of the words.
    """
    settle = _settle_bin(module, f"{name}_settle", dtypes)
    made, b = step(module, name, VOID, [I64, *[POINTER] * 11, I32, I16, F64, F64, I64, I64])
    n, flags, model, base, bins, firsts, lasts, limits, uppers, masks, sums, pairs, *rest = made.args
    shift, bit, *chance, start, key = rest
    drawn_at = b.alloca(ir.IntType(1))
    with _each(b, flags, I8, n, I8(1)) as i:
        bin_of = b.zext(b.load(element(b, bins, i, I16), typ=I16), I64)
        first, last, limit = (
            b.load(element(b, array, bin_of, I32), typ=I32) for array in (firsts, lasts, limits)
        )
        has_more = may_vary(b, b.trunc(bin_of, I32), shift, dtypes)
        with b.if_then(b.and_(has_more, b.icmp_unsigned("!=", limit, I32(NOTHING_OPEN)))):
            b.call(settle, [n, b.trunc(bin_of, I16), first, model, base, bins, sums, pairs])
            b.store(I32(NOTHING_OPEN), element(b, limits, bin_of, I32))
        own = b.load(element(b, sums, i, I32), typ=I32)
        threshold = threshold_of(b, b.select(has_more, own, b.add(first, last)), chance)
        upper = b.zext(b.load(element(b, uppers, i, I16), typ=I16), I32)
        above = b.lshr(threshold, I32(HALF_BITS))
        b.store(b.icmp_unsigned("<", upper, above), drawn_at)
        with b.if_then(b.icmp_unsigned("==", upper, above), likely=False):
            lower = b.call(lower_half, [b.add(start, i), key])
            b.store(b.icmp_unsigned("<", lower, b.trunc(threshold, I16)), drawn_at)
        add_bit(b, element(b, masks, i, I16), b.load(drawn_at, typ=ir.IntType(1)), bit)
    b.ret_void()
    return made


@contextmanager
def _each(b: Builder, array: Value, kind: ir.IntType, n: Value, wanted: Value) -> Iterator[Value]:
    """Repeats the instructions of its body for the index of each element that has a value; it is not zero.

    After the array's n elements are zeros.
    """
    vector = ir.VectorType(kind, SCANNED)
    with b.goto_entry_block():
        left_at = b.alloca(Found)
    lanes = b.insert_element(ir.Constant(vector, ir.Undefined), wanted, I32(0))
    lanes = b.shuffle_vector(lanes, lanes, ir.VectorType(I32, SCANNED)([0] * SCANNED))
    with loop(b, n, step=SCANNED) as first:
        address = b.bitcast(element(b, array, first, kind), ir.PointerType(vector))
        here = b.load(address, typ=vector, align=1)
        b.store(b.bitcast(b.icmp_unsigned("==", here, lanes), Found), left_at)
        with repeat_while(b, lambda: b.icmp_unsigned("!=", b.load(left_at, typ=Found), Found(0))):
            left = b.load(left_at, typ=Found)
            b.store(b.and_(left, b.sub(left, Found(1))), left_at)
            yield b.add(first, b.cttz(left, ir.Constant(ir.IntType(1), 1)))


def _settle_bin(module: ir.Module, name: str, dtypes: Sequence[str]) -> ir.Function:
    """Stores the rank sum of each element of a bin.

    Arguments: n, the bin (i16), the elements in the bins below it (i32), model, base, bins, sums, pairs.
    """
    sort = sorting(module, f"{name}_sort")
    made, b = step(module, name, VOID, [I64, I16, I32, *[POINTER] * 5])
    n, bin_of, first, model, base, bins, sums, pairs = made.args
    size_at, varying_at, begin_at = b.alloca(I64), b.alloca(I64), b.alloca(I64)
    for address in (size_at, varying_at, begin_at):
        b.store(I64(0), address)
    with _each(b, bins, I16, n, bin_of) as i:
        key = key_of_difference(b, [load(b, model, i, dtypes[0]), load(b, base, i, dtypes[1])])
        pair, size = b.or_(b.shl(b.zext(key, I64), I64(32)), i), b.load(size_at, typ=I64)
        b.store(pair, element(b, pairs, size, I64))
        differs = b.xor(pair, b.load(element(b, pairs, I64(0), I64), typ=I64))
        b.store(b.or_(b.load(varying_at, typ=I64), differs), varying_at)
        b.store(b.add(size, I64(1)), size_at)
    size = b.load(size_at, typ=I64)
    with b.if_then(_has_other_key(b, b.load(varying_at, typ=I64))):
        b.call(sort, [size, pairs])
    b.store(I64(-1), element(b, pairs, size, I64))
    with loop(b, size) as j:
        both = [b.load(element(b, pairs, each, I64), typ=I64) for each in (j, b.add(j, I64(1)))]
        with b.if_then(_has_other_key(b, b.xor(*both))):  # the last of equal keys
            begin, end = b.load(begin_at, typ=I64), b.add(j, I64(1))
            rank_sum = b.add(b.shl(first, I32(1)), b.trunc(b.add(begin, j), I32))
            with loop(b, b.sub(end, begin)) as k:  # atomic, so that LLVM does not vectorise it in vain
                equal = b.load_atomic(element(b, pairs, b.add(begin, k), I64), "monotonic", 8, typ=I64)
                b.store(rank_sum, element(b, sums, b.and_(equal, I64(INDEX)), I32))
            b.store(end, begin_at)
    b.ret_void()
    return made


def _has_other_key(b: Builder, difference: Value) -> Value:
    """Whether bits differ in which two pairs, or more, have another key."""
    return b.icmp_unsigned(">", difference, I64(INDEX))
