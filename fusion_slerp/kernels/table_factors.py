"""The factors of a table of coefficients: each model's scale, and each set's share; see `fast_selection`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fusion_slerp.kernels.fast_sum import LEAST_WEIGHT

MOST_MODELS = 4
"""Their 16 shares fit into the registers."""

SIMPLE = (1.0, 0.5, 0.25)
"""Magnitudes of simple votes and scales."""

LARGEST_SUM = 2.0**16
"""Limit of the coefficients' magnitudes together."""

TOLERANCE = 2.0**-50
"""Relative deviation of a table from its factors."""


@dataclass(frozen=True, slots=True)
class Factors:
    """The factors of a table, for the fast kernels.

    Attributes:
        scales: By model; the largest is 1 or -1.
        shares: By set; float32 numbers whose last bit is set, unless its coefficients are simple: then sums
            may lie halfway between two words.
    """

    scales: tuple[float, ...]
    shares: tuple[float, ...]

    @property
    def has_simple_shares(self) -> bool:
        """Whether the coefficients of any set of models are simple."""
        bits = np.array(self.shares, np.float32).view(np.uint32)
        return bool(((bits & 1 == 0) & (bits != 0)).any())


def factors_of(table: np.ndarray) -> Factors | None:
    """Returns the factors of a table of coefficients; None if it has none that the fast kernels can use.

    Args:
        table: float64 of shape (sets, models + 1).
    """
    n = table.shape[1] - 1
    return _factors_of(table.tobytes(), n) if n <= MOST_MODELS else None


@lru_cache(maxsize=64)
def _factors_of(data: bytes, n: int) -> Factors | None:
    """`factors_of`, kept for the next chunk."""
    table = np.frombuffer(data).reshape(-1, n + 1)
    whole = table[-1, :n]
    largest = np.abs(whole).max(initial=0.0)
    if not largest or not np.isfinite(table).all():
        return None
    scales = whole / whole[int(np.argmax(np.abs(whole)))]
    if (np.abs(scales[scales != 0]) < LEAST_WEIGHT).any():
        return None
    shares = [_share(row, scales, mask) for mask, row in enumerate(table)]
    known = [share for share in shares if share is not None]
    return Factors(tuple(scales.tolist()), tuple(known)) if len(known) == len(shares) else None


def _share(row: np.ndarray, scales: np.ndarray, mask: int) -> float | None:
    """The factor of a set's coefficients; None if it has none."""
    n = scales.size
    of_set = np.where([mask >> k & 1 for k in range(n)], scales, 0.0)
    used = np.flatnonzero(of_set)
    share = float(row[used[0]] / of_set[used[0]]) if used.size else 0.0
    sizes = np.abs(row[:n])
    is_near = (np.abs(row[:n] - share * of_set) <= TOLERANCE * sizes).all()
    rest = abs(1.0 - row[:n].sum() - row[n])
    if not is_near or rest > TOLERANCE * (1.0 + sizes.sum()) or sizes.sum() > LARGEST_SUM:
        return None
    is_one = used.size == 1 and row[used[0]] == 1.0  # the sum is the model's word
    is_simple = are_simple(of_set[used].tolist()) and share * 4 == int(share * 4) and abs(share) <= 1.0
    is_exact = (row[:n] == share * of_set).all() and not rest
    bits = np.float32(share).view(np.uint32) | np.uint32(not (is_simple and is_exact) or is_one)
    return float(bits.view(np.float32))


def are_simple(votes: Sequence[float]) -> bool:
    """Whether votes, or scales, are simple numbers, so that their products are exact."""
    return all(abs(vote) in SIMPLE for vote in votes)


def are_alike(votes: Sequence[float], scales: Sequence[float]) -> bool:
    """Whether votes are in the ratio of the scales, so that the terms of both elect the same sign."""
    k = max(range(len(scales)), key=lambda i: abs(scales[i]))
    ratio = votes[k] / scales[k]
    return ratio > 0 and all(  # a sum of zero counts as positive, so the signs matter
        abs(vote - ratio * scale) <= TOLERANCE * abs(vote) for vote, scale in zip(votes, scales, strict=True)
    )


def can_vote(votes: Sequence[float], scales: Sequence[float]) -> bool:
    """Whether the fast kernels can use the votes: none is so small that products underflow.

    And models that vote for one sign have terms of one sign, so that the magnitudes of these terms add up to
    that of their sum.
    """
    signs = {(vote > 0) == (scale > 0) for vote, scale in zip(votes, scales, strict=True) if scale}
    return len(signs) <= 1 and all(abs(vote) >= LEAST_WEIGHT for vote in votes)
