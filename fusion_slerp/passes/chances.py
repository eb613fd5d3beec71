"""How a model's elements are drawn: the key of its random words, and the probability of an element."""

from __future__ import annotations

from typing import NamedTuple

CERTAIN = 1 << 32
"""The threshold that all words are below."""

KEY_NBYTES = 8


def key_of(*parts: str | int) -> int:
    """Returns the key for some parts, in [0, 2^64): 8 bytes of the BLAKE3 hash, the lowest first.

    What is hashed are the parts as UTF-8, each with its length in front and a comma behind (`5:model,`): so
    no two lists of parts are hashed alike.
    """
    from blake3 import blake3  # slow to import, and rarely needed

    texts = [str(part).encode("utf-8", "surrogatepass") for part in parts]
    framed = b"".join(b"%d:%s," % (len(text), text) for text in texts)
    return int.from_bytes(blake3(framed).digest(KEY_NBYTES), "little")


def threshold(probability: float) -> int:
    """Returns a probability in [0, 1] times 2^32, rounded: a random word is below it that often."""
    return round(probability * CERTAIN)


class Draw(NamedTuple):
    """How the elements of one model are drawn.

    Attributes:
        key: The key of its random words.
        density: The probability of an element, in [0, 1].
        spread: By how much the probability of the largest difference in a row is higher, and that of the
            smallest lower; the others are evenly between, by rank. Equal ones have the mean of their ranks.
            No effect at densities of 0 and 1.
    """

    key: int
    density: float
    spread: float = 0.0

    @property
    def is_random(self) -> bool:
        """Whether it takes some elements and leaves others out."""
        return 0 < threshold(self.density) < CERTAIN

    @property
    def is_ranked(self) -> bool:
        """Whether probabilities depend on ranks."""
        return self.spread > 0 and self.is_random

    @property
    def is_in_range(self) -> bool:
        """Whether all probabilities are inside (0, 1), as thresholds, or do not depend on ranks."""
        lowest, highest = (threshold(self.density + sign * self.spread) for sign in (-1, 1))
        return not self.is_ranked or 0 < lowest <= highest < CERTAIN
