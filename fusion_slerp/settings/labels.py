"""The labels of a merge's models in settings, messages, manifest and card: a, b, c, ..., and base."""

from __future__ import annotations

from itertools import count, islice, product
from string import ascii_lowercase

from fusion_slerp.methods.method import BASE

__all__ = ["BASE", "OPTION", "is_label", "labels"]

OPTION = "t"
"""Not a label: in slices it is a setting."""


def labels(n: int) -> list[str]:
    """Returns the labels of n models in order: a, b, c, ..., z, aa, ab, ..., without the letter t."""
    letters = ascii_lowercase.replace(OPTION, "")
    every = ("".join(word) for length in count(1) for word in product(letters, repeat=length))
    return list(islice(every, n))


def is_label(key: object) -> bool:
    """Whether a key has the form of a label."""
    if key == BASE:
        return True
    return isinstance(key, str) and 0 < len(key) <= 3 and set(key) <= set(ascii_lowercase) - {OPTION}
