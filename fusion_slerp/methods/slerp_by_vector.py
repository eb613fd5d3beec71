"""SLERP of matrices vector by vector: each row, or each column, has an angle of its own.

The same triple as `methods.slerp`, for many vectors at once. mergekit's NuSLERP offers the same with
`nuslerp_flatten: false`: rows by default, columns with `nuslerp_row_wise: true` (which names what is
left, not what is taken).

A row needs nothing but itself, so its three steps follow one another on the spot. Columns run through
all rows: their sums are added up over the chunks, in order, and combined in a second pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import acos, degrees, nan, pi, sqrt

import numpy as np

from fusion_slerp import kernels
from fusion_slerp.methods.slerp import (
    Coefficients,
    NotFiniteError,
    Statistics,
    Sums,
    coefficients,
    find_coefficients,
    measure,
    needs_chords,
)

BLOCK_ELEMENTS = 1 << 16
"""Elements of both vectors that are held as float64 at a time, for columns."""

Pairs = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True, slots=True)
class Method:
    """What the vectors of a matrix have in common.

    Attributes:
        t: Where between the parents, in (0, 1).
        threshold: |cos θ| above which the interpolation is linear.
        epsilon: Norm up to which a vector counts as null.
    """

    t: float
    threshold: float
    epsilon: float


def slerp_rows(
    a: np.ndarray, b: np.ndarray, width: int, method: Method, out: np.ndarray
) -> tuple[int, Counter[str], list[Sums]]:
    """Interpolates each row of whole rows and rounds once.

    Args:
        a: 1-D words of some rows of the first parent.
        b: As many of the second.
        width: Words of a row.
        method: How.
        out: As many words, overwritten.

    Returns:
        How many results are not finite; how many rows were made by each rule; the rows' sums.

    Raises:
        NotFiniteError: An element is infinite or NaN.
    """
    n_bad, rules, sums = 0, Counter[str](), list[Sums]()
    for start in range(0, a.size, width):
        row = slice(start, start + width)
        x, y = a[row], b[row]
        sums.append(measure(x, y))
        found, _ = find_coefficients(
            method.t, sums[-1:], lambda x=x, y=y: [(x, y)], method.threshold, method.epsilon
        )
        n_bad += kernels.combine(x, y, found.s0, found.s1, out[row])
        rules[found.rule] += 1
    return n_bad, rules, sums


def measure_columns(a: np.ndarray, b: np.ndarray, width: int) -> np.ndarray:
    """Sums over some rows: float64 of shape (3, width): <a,a>, <b,b>, <a,b> of every column."""
    sums = np.zeros((3, width))
    for x, y in _blocks(a, b, width):
        for total, product in zip(sums, (x * x, y * y, x * y), strict=True):
            total += product.sum(axis=0)
    return sums


def column_coefficients(sums: Sequence[np.ndarray], method: Method, read_again: Pairs) -> list[Coefficients]:
    """From the chunks' sums to the coefficients of every column.

    Args:
        sums: What `measure_columns` returned for each chunk, in order.
        method: How.
        read_again: Gives the chunks of whole rows once more; read if an angle is nearly 0 or π.

    Raises:
        NotFiniteError: An element is infinite or NaN.
    """
    totals = np.sum(sums, axis=0)
    if not np.isfinite(totals).all():
        raise NotFiniteError
    columns = [_statistics(*each) for each in zip(*totals.tolist(), strict=True)]
    chords: list[tuple[float, float]] | list[None] = [None] * len(columns)
    if any(needs_chords(stats, method.threshold, method.epsilon) for stats in columns):
        chords = _angles(columns, read_again)
    return [
        coefficients(method.t, stats, method.threshold, method.epsilon, angles)
        for stats, angles in zip(columns, chords, strict=True)
    ]


def _statistics(aa: float, bb: float, ab: float) -> Statistics:
    norm_a, norm_b = sqrt(aa), sqrt(bb)
    cosine = max(-1.0, min(1.0, ab / (norm_a * norm_b))) if norm_a and norm_b else nan
    return Statistics(norm_a, norm_b, cosine)


def _angles(columns: Sequence[Statistics], read_again: Pairs) -> list[tuple[float, float]]:
    """`(θ, π - θ)` of every column from its chords, which keep the digits that arccos loses."""
    norms = np.array([[stats.norm_a or 1.0, stats.norm_b or 1.0] for stats in columns])
    minus, plus = np.zeros(len(columns)), np.zeros(len(columns))
    for a, b in read_again():
        for x, y in _blocks(a, b, len(columns)):
            u, v = x / norms[:, 0], y / norms[:, 1]
            minus += np.square(u - v).sum(axis=0)
            plus += np.square(u + v).sum(axis=0)
    theta = 2 * np.arctan2(np.sqrt(minus), np.sqrt(plus))
    supplement = 2 * np.arctan2(np.sqrt(plus), np.sqrt(minus))
    return list(zip(theta.tolist(), supplement.tolist(), strict=True))


def combine_columns(a: np.ndarray, b: np.ndarray, found: Sequence[Coefficients], out: np.ndarray) -> int:
    """Writes each column's s0*a + s1*b to `out`, rounded once; returns how many are not finite."""
    width, n_bad, start = len(found), 0, 0
    s0, s1 = np.array([each.s0 for each in found]), np.array([each.s1 for each in found])
    for x, y in _blocks(a, b, width):
        n_bad += kernels.convert((s0 * x + s1 * y).reshape(-1), out[start : start + x.size])
        start += x.size
    return n_bad


def _blocks(a: np.ndarray, b: np.ndarray, width: int) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Some rows at a time as float64 of shape (rows, width)."""
    step = max(1, BLOCK_ELEMENTS // width) * width
    for start in range(0, a.size, step):
        pair = [np.empty(words[start : start + step].size) for words in (a, b)]
        for values, words in zip(pair, (a, b), strict=True):
            kernels.convert(words[start : start + step], values)
        yield pair[0].reshape(-1, width), pair[1].reshape(-1, width)


def angle_of_all(sums: Iterable[Sums]) -> tuple[float | None, float, float]:
    """The angle in degrees of the whole matrices, from the sums of their vectors, and both norms."""
    aa, bb, ab = (sum(column) for column in zip(*sums, strict=True))
    stats = _statistics(aa, bb, ab)
    has_angle = stats.norm_a and stats.norm_b
    return degrees(min(pi, acos(stats.cosine))) if has_angle else None, stats.norm_a, stats.norm_b
