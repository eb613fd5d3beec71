"""The slow, obvious reference of methods that draw elements: Philox in integers, one word at a time; sorting.

Nothing of fusion_slerp is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    """The words of n elements, of which the first has the index `start`."""
    return [
        philox((key & LOW, key >> 32), (i // 4 & LOW, i // 4 >> 32, 0, 0))[i % 4]
        for i in range(start, start + n)
    ]


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


def drawn_by_rank(
    key: int, difference: np.ndarray, width: int, density: float, spread: float, start: int = 0
) -> set[int]:
    """The elements that are drawn by the rank of their magnitude in rows; none without a difference."""
    random, chosen = words(key, start, difference.size), set()
    for first in range(0, difference.size, width):
        magnitudes = np.abs(difference[first : first + width].astype(np.float32))
        for rank, i in enumerate(np.argsort(magnitudes, kind="stable").tolist()):
            place = rank / (width - 1) if width > 1 else 0.5
            limit = round(((density - spread) + 2 * spread * place) * 2**32)
            if random[first + i] < limit and magnitudes[i]:
                chosen.add(first + i)
    return chosen
