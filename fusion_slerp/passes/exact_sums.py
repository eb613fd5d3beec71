"""Exact sums: the same total whatever the order of the terms.

Source: J. R. Shewchuk, "Adaptive precision floating-point arithmetic and fast robust geometric predicates",
Discrete Comput. Geom. 18 (1997), https://doi.org/10.1007/PL00009321: a number as the sum of a few
non-overlapping floats; `math.fsum` works the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import fsum

import numpy as np

MOST_PARTS = 8
"""Arrays of parts; each sum needs two or three parts, but not in the same arrays."""


class ExactSums:
    """An array of sums.

    Memory: a few arrays of the terms' shape, however many terms are added.

    Args:
        terms: The first terms, float64 of any shape; kept, not modified.
    """

    __slots__ = ("_parts",)

    def __init__(self, terms: np.ndarray) -> None:
        self._parts = [terms]

    def join(self, other: ExactSums) -> ExactSums:
        """Adds the terms of another; returns itself."""
        for part in other._parts:
            self._add(part)
        return self

    def totals(self) -> np.ndarray:
        """Returns the sums, each rounded once: float64 of the terms' shape; not finite if a term is not."""
        if len(self._parts) == 1:
            return self._parts[0]
        columns = zip(*(part.ravel().tolist() for part in self._parts), strict=True)
        totals = [total_of(column) for column in columns]
        return np.array(totals).reshape(self._parts[-1].shape)

    def _add(self, terms: np.ndarray) -> None:
        parts, carry = [], terms
        with np.errstate(all="ignore"):  # infinity stays infinite, or becomes NaN
            for part in self._parts:
                total = carry + part
                of_part = total - carry
                error = (carry - (total - of_part)) + (part - of_part)
                carry = total
                if not np.isfinite(total).all():
                    error[~np.isfinite(total)] = 0.0
                if error.any():
                    parts.append(error)
        self._parts = [*parts, carry]
        if len(self._parts) > MOST_PARTS:
            self._compact()

    def _compact(self) -> None:
        """Drops arrays of zeros, after moving each sum's nonzero parts, in order, to the last arrays."""
        parts = np.array(self._parts)
        order = np.argsort(parts != 0.0, axis=0, kind="stable")
        parts = np.take_along_axis(parts, order, axis=0)
        self._parts = [part for part in parts[:-1] if part.any()] + [parts[-1]]


def total_of(terms: Sequence[float]) -> float:
    """Returns the sum, rounded once; infinite or NaN if a term or the sum is."""
    try:
        return fsum(terms)
    except (OverflowError, ValueError):  # fsum refuses sums beyond float64, and infinities of both signs
        return sum(terms)


def sum_of_columns(blocks: Iterable[Sequence[np.ndarray]]) -> np.ndarray:
    """Returns plain sums over the rows of a chunk, block by block: float64 of shape (arrays, columns).

    Args:
        blocks: At least one; each holds several arrays of the same rows.
    """
    total: np.ndarray | None = None
    with np.errstate(over="ignore", invalid="ignore"):
        for block in blocks:
            sums = np.array([each.sum(axis=0) for each in block])
            total = sums if total is None else total + sums
    assert total is not None, "a chunk has rows"
    return total
