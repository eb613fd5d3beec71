"""Random words by counting: Philox4x32-10 computes the four words of any counter from a key.

No state passes from one word to the next. So an element's word depends on its index and the key alone, and
threads may compute any part in any order. The counter of an element is its index divided by four, and its
word the one with the number of the remainder.

Source: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
https://doi.org/10.1145/2063384.2063405; the words are those of its reference implementation, Random123. Of
the counter's 128 bits the lower 64 are used.
"""

from __future__ import annotations

from fusion_slerp.kernels.building import element, loop
from fusion_slerp.kernels.elements import I32, I64, Builder, Value

ROUNDS = 10

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)

KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
"""Added to the two halves of the key after each round."""

WORDS_PER_COUNTER = 4

MOST_MORE_WORDS = 2 * (WORDS_PER_COUNTER - 1)
"""Words that are stored besides those of the elements: the rest of the first and the last counter's."""

LOW = I64((1 << 32) - 1)


def store_words(b: Builder, memory: Value, start: Value, n: Value, key: Value) -> Value:
    """Stores the words of n elements; returns the address of the first one's.

    Args:
        b: The builder.
        memory: For n i32 and MOST_MORE_WORDS more; overwritten.
        start: The index of the first element, i64.
        n: How many, i64.
        key: i64; its lower half is the first.
    """
    skipped = b.and_(start, I64(WORDS_PER_COUNTER - 1))
    n_counters = b.udiv(b.add(b.add(skipped, n), I64(WORDS_PER_COUNTER - 1)), I64(WORDS_PER_COUNTER))
    first = b.udiv(start, I64(WORDS_PER_COUNTER))
    keys = _round_keys(b, key)
    with loop(b, n_counters) as i:
        counter = b.add(first, i)
        state = [counter, b.lshr(counter, I64(32)), I64(0), I64(0)]
        for of_round in keys:
            state = _after_round(b, state, of_round)
        slot = b.mul(i, I64(WORDS_PER_COUNTER))
        for k, word in enumerate(state):
            b.store(b.trunc(word, I32), element(b, memory, b.add(slot, I64(k)), I32))
    return element(b, memory, skipped, I32)


def _round_keys(b: Builder, key: Value) -> list[tuple[Value, Value]]:
    first, second = b.and_(key, LOW), b.lshr(key, I64(32))
    keys = []
    for _ in range(ROUNDS):
        keys.append((first, second))
        first = b.and_(b.add(first, I64(KEY_STEPS[0])), LOW)
        second = b.and_(b.add(second, I64(KEY_STEPS[1])), LOW)
    return keys


def _after_round(b: Builder, state: list[Value], key: tuple[Value, Value]) -> list[Value]:
    """The state after a round. Each word is the lower half of an i64, whose upper half is not cleared:
    processors multiply lower halves of i64 as they are.
    """
    first, second = (
        b.mul(b.and_(word, LOW), I64(multiplier))
        for word, multiplier in zip(state[::2], MULTIPLIERS, strict=True)
    )
    return [
        b.xor(b.xor(b.lshr(second, I64(32)), state[1]), key[0]),
        second,
        b.xor(b.xor(b.lshr(first, I64(32)), state[3]), key[1]),
        first,
    ]
