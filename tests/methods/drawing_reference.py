"""The slow, obvious reference of methods that draw elements: Philox in integers, one word at a time; sorting.

Nothing of fusion_slerp is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from blake3 import blake3

LOW = 2**32 - 1


def philox(key: Sequence[int], counter: Sequence[int]) -> list[int]:
    """Philox4x32-10: four words from a key of two and a counter of four."""
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(10):
        one, other = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (other >> 32) ^ c1 ^ k0, other & LOW, (one >> 32) ^ c3 ^ k1, one & LOW
        k0, k1 = (k0 + 0x9E3779B9) & LOW, (k1 + 0xBB67AE85) & LOW
    return [c0, c1, c2, c3]


def words(key: int, start: int, n: int) -> list[int]:
    """The words of n elements, of which the first has the index `start`: upper halves, then lower ones."""
    return [half(key, i) << 16 | half(key, i, which=1) for i in range(start, start + n)]


def half(key: int, i: int, which: int = 0) -> int:
    """16 bits of the element with an index: the upper half of its word, or the lower one."""
    return _bits(key, i // 8, which) >> 16 * (i % 8) & 0xFFFF


@lru_cache(maxsize=1 << 16)
def _bits(key: int, counter: int, which: int) -> int:
    """128 bits; the first word of Philox has the lowest."""
    found = philox((key & LOW, key >> 32), (counter & LOW, counter >> 32, which, 0))
    return sum(word << 32 * k for k, word in enumerate(found))


def key_of(seed: int, tensor: str, model: str) -> int:
    """The key of a model's words in a tensor."""
    text = b""
    for part in (str(seed), tensor, model):
        encoded = part.encode()
        text += str(len(encoded)).encode() + b":" + encoded + b","
    return int.from_bytes(blake3(text).digest()[:8], "little")


def drawn(key: int, n: int, density: float, start: int = 0) -> set[int]:
    """The elements, counted from 0, that are drawn with one probability; the first has the index `start`."""
    limit = round(density * 2**32)
    return {i for i, word in enumerate(words(key, start, n)) if word < limit}


def rank_sums(magnitudes: Sequence[float]) -> list[int]:
    """For each magnitude, the smallest plus the largest rank, from 0, of those that are equal to it."""
    smaller = [sum(other < each for other in magnitudes) for each in magnitudes]
    equal = [sum(other == each for other in magnitudes) for each in magnitudes]
    return [2 * first + n - 1 for first, n in zip(smaller, equal, strict=True)]


def limit_of(rank_sum: int, width: int, density: float, spread: float) -> int:
    """The threshold of an element with a rank sum in a row."""
    probability = (density - spread) + rank_sum * (spread / (width - 1)) if width > 1 else density
    return min(round(probability * 2**32), LOW)


def drawn_by_rank(
    key: int, difference: np.ndarray, width: int, density: float, spread: float, start: int = 0
) -> set[int]:
    """The elements that are drawn by the rank of their magnitude in rows; none without a difference."""
    random, chosen = words(key, start, difference.size), set()
    for first in range(0, difference.size, width):
        with np.errstate(over="ignore"):
            magnitudes = np.abs(difference[first : first + width].astype(np.float32)).tolist()
        for i, rank_sum in enumerate(rank_sums(magnitudes)):
            if random[first + i] < limit_of(rank_sum, width, density, spread) and magnitudes[i]:
                chosen.add(first + i)
    return chosen
