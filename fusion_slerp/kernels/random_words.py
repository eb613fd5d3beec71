"""Random words by counting: Philox4x32-10 computes 128 random bits of any counter from a key.

No state passes from one word to the next. So an element's word depends on its index and the key alone, and
threads may compute any part in any order. A word has two halves of 16 bits. The upper ones of eight elements
are the bits of one counter, the lowest first: their index divided by eight. The lower ones are those of
another counter, in the same way: UPPER and LOWER are its third word. A comparison with a threshold needs
the lower half only if the upper one is that of the threshold, once in 65,536 times.

Source: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
https://doi.org/10.1145/2063384.2063405; the words are those of its reference implementation, Random123. Of
the counter's 128 bits the lower 64 are the index divided by eight, and the next 32 are UPPER or LOWER.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from fusion_slerp.kernels.building import element, function, loop
from fusion_slerp.kernels.elements import I16, I32, I64, Builder, Value

ROUNDS = 10

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)

KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
"""Added to the two halves of the key after each round."""

HALVES_PER_COUNTER = 8

HALF_BITS = 16

UPPER, LOWER = 0, 1
"""The halves of a word, and the third words of their counters."""

COUNTERS = 8
"""Counters that are processed at a time: i64 in a vector of AVX-512; LLVM splits it for other processors."""

GROUP = COUNTERS * HALVES_PER_COUNTER
"""Halves of these."""

MOST_MORE_HALVES = HALVES_PER_COUNTER - 1 + GROUP - 1
"""Halves that are stored besides those of the elements: the first counter's others, and the rest of the last
group.
"""

LOW = (1 << 32) - 1

Meanwhile = Callable[[Value, int], None]
"""Adds instructions to the loop over halves. The processor executes them along with those for the halves,
which leave most of its units idle. For each GROUP of halves it is called with the index of the group's first
one, and with 0, HALVES_PER_COUNTER, 2 * HALVES_PER_COUNTER, ... below GROUP: after one round each.
"""

I64s, I32s = ir.VectorType(I64, COUNTERS), ir.VectorType(I32, 2 * COUNTERS)

INTERLEAVED = [lane + COUNTERS * half for lane in range(COUNTERS) for half in range(2)]
"""Lanes of two vectors, in turn."""

EVEN = [2 * lane + 2 * COUNTERS * half for lane in range(COUNTERS) for half in range(2)]
"""Of two vectors, the lower halves of i64 in turn."""

ODD = [2 * lane + 1 for lane in range(COUNTERS) for _ in range(2)]
"""Upper halves of i64, twice each."""


def store_halves(
    b: Builder,
    memory: Value,
    start: Value,
    n: Value,
    key: Value,
    which: int = UPPER,
    meanwhile: Meanwhile | None = None,
) -> Value:
    """Stores halves of the words of n elements; returns the address of the first one's.

    Args:
        b: The builder.
        memory: For n i16 and MOST_MORE_HALVES more; overwritten.
        start: The index of the first element, i64.
        n: How many, i64.
        key: i64; its lower half is the first.
        which: UPPER or LOWER.
        meanwhile: Adds instructions of its own between the rounds.
    """
    skipped = b.and_(start, I64(HALVES_PER_COUNTER - 1))
    first = b.udiv(start, I64(HALVES_PER_COUNTER))
    keys = _round_keys(b, key)
    with loop(b, n_stored(b, start, n), step=GROUP) as i:

        def between_rounds(k: int) -> None:
            if meanwhile and k < GROUP // HALVES_PER_COUNTER:
                meanwhile(i, k * HALVES_PER_COUNTER)

        counter = b.add(first, b.udiv(i, I64(HALVES_PER_COUNTER)))
        for k, part in enumerate(_words_of(b, counter, which, keys, between_rounds)):
            address = element(b, memory, b.add(i, I64(k * GROUP // 2)), I16)
            b.store(part, b.bitcast(address, ir.PointerType(I32s)), align=2)
    return element(b, memory, skipped, I16)


def lower_half(module: ir.Module, name: str) -> ir.Function:
    """Adds a function that returns the lower half, i16, of the word of an index, i64, with a key, i64."""
    made, b = function(module, name, I16, [I64, I64])
    made.linkage = "internal"
    made.attributes.add("noinline")
    index, key = made.args
    memory = b.alloca(I16, 1 + MOST_MORE_HALVES)
    b.ret(b.load(store_halves(b, memory, index, I64(1), key, LOWER), typ=I16))
    return made


def n_stored(b: Builder, start: Value, n: Value) -> Value:
    """The number of halves that are stored for n elements, of which the first has the index `start`."""
    skipped = b.and_(start, I64(HALVES_PER_COUNTER - 1))
    return b.and_(b.add(b.add(skipped, n), I64(GROUP - 1)), I64(-GROUP))


def _words_of(
    b: Builder, first: Value, which: int, keys: list[tuple[Value, Value]], between: Callable[[int], None]
) -> list[Value]:
    """The bits of COUNTERS counters in the order of elements: two vectors of i32.

    After each round, counted from 0, instructions may be added.
    """
    counters = b.add(_of_all(b, first), I64s(list(range(COUNTERS))))
    state = [counters, b.lshr(counters, _longs(32)), _longs(which), _longs(0)]
    for k, of_round in enumerate(keys):
        state = _after_round(b, state, of_round)
        between(k)
    pairs = [_shuffled(b, *halves, EVEN) for halves in zip(state[::2], state[1::2], strict=True)]
    return [
        b.bitcast(b.shuffle_vector(*pairs, ir.VectorType(I32, COUNTERS)(lanes)), I32s)
        for lanes in (INTERLEAVED[:COUNTERS], INTERLEAVED[COUNTERS:])
    ]


def _round_keys(b: Builder, key: Value) -> list[tuple[Value, Value]]:
    first, second = b.and_(key, I64(LOW)), b.lshr(key, I64(32))
    keys = []
    for _ in range(ROUNDS):
        keys.append((_of_all(b, first), _of_all(b, second)))
        first = b.and_(b.add(first, I64(KEY_STEPS[0])), I64(LOW))
        second = b.and_(b.add(second, I64(KEY_STEPS[1])), I64(LOW))
    return keys


def _after_round(b: Builder, state: list[Value], key: tuple[Value, Value]) -> list[Value]:
    """The state after a round. Each word is the lower half of an i64, whose upper half is not cleared:
    processors multiply lower halves of i64 as they are.
    """
    first, second = (
        b.mul(b.and_(word, _longs(LOW)), _longs(multiplier))
        for word, multiplier in zip(state[::2], MULTIPLIERS, strict=True)
    )
    return [
        b.xor(b.xor(_upper(b, second), state[1]), key[0]),
        second,
        b.xor(b.xor(_upper(b, first), state[3]), key[1]),
        first,
    ]


def _upper(b: Builder, x: Value) -> Value:
    """The upper halves, in place of the lower ones: by a shuffle, for which processors have a unit that
    multiplications do not need.
    """
    return _shuffled(b, x, x, ODD)


def _shuffled(b: Builder, x: Value, y: Value, lanes: list[int]) -> Value:
    halves = [b.bitcast(each, I32s) for each in (x, y)]
    return b.bitcast(b.shuffle_vector(*halves, ir.VectorType(I32, len(lanes))(lanes)), I64s)


def _of_all(b: Builder, x: Value) -> Value:
    """A vector with a number in every lane."""
    alone = b.insert_element(ir.Constant(I64s, ir.Undefined), x, I32(0))
    return b.shuffle_vector(alone, alone, ir.VectorType(I32, COUNTERS)([0] * COUNTERS))


def _longs(value: int) -> Value:
    return I64s([value] * COUNTERS)
