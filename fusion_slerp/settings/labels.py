"""What the models of a merge are called in settings, messages, manifest and card: a, b, c, ..., and base."""

from __future__ import annotations

from itertools import count, islice, product
from string import ascii_lowercase

BASE = "base"
"""The ancestor, in methods that take one."""

OPTION = "t"
"""No label: in slices it is a setting."""


def labels(n: int) -> list[str]:
    """Returns the labels of n models in their order: a, b, c, ..., z, aa, ab, ...; t is left out."""
    letters = ascii_lowercase.replace(OPTION, "")
    every = ("".join(word) for length in count(1) for word in product(letters, repeat=length))
    return list(islice(every, n))


def is_label(text: object) -> bool:
    """Whether a text has the form of a label."""
    if text == BASE:
        return True
    return isinstance(text, str) and 0 < len(text) <= 3 and set(text) <= set(ascii_lowercase) - {OPTION}
