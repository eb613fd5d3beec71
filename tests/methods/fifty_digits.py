"""The coefficients of the methods in the span of their sources, to 50 digits.

Nothing of fusion_slerp is imported here. Inner products, and differences from a base, are exact fractions;
all else is mpmath with 50 digits, by the formulas and rules in the methods' modules. Coefficients are those
of the vectors: of the models, or of their task vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from operator import mul
from typing import Any

import mpmath
import numpy as np

mp = mpmath.MPContext()
mp.dps = 50

Number = Any
"""An `mpf` of this context."""

CONVERGED = mp.mpf(10) ** -35
"""Length of the mean tangent vector, in radians."""


@dataclass(frozen=True)
class Vectors:
    """Several vectors.

    Attributes:
        norms: Their Euclidean norms.
        cosines: Between every two; 0 with a zero vector.
    """

    norms: list[Number]
    cosines: list[list[Number]]

    @property
    def known(self) -> list[int]:
        """The indexes of those that have a direction."""
        return [i for i, norm in enumerate(self.norms) if norm]


def vectors(arrays: Sequence[np.ndarray], base: np.ndarray | None = None) -> Vectors:
    """The vectors of float64 arrays, or of their differences from a base."""
    origin = [Fraction()] * len(arrays[0]) if base is None else [Fraction(x) for x in base.tolist()]
    exact = [[Fraction(x) - o for x, o in zip(each.tolist(), origin, strict=True)] for each in arrays]
    gram = [[_number(sum(map(mul, x, y), Fraction())) for y in exact] for x in exact]
    norms = [mp.sqrt(gram[i][i]) for i in range(len(exact))]
    cosines = [
        [
            gram[i][j] / (norms[i] * norms[j]) if gram[i][i] and gram[j][j] else mp.mpf(0)
            for j in range(len(exact))
        ]
        for i in range(len(exact))
    ]
    return Vectors(norms, cosines)


def _number(value: Fraction) -> Number:
    return mp.mpf(value.numerator) / value.denominator


def slerp_factors(
    t: Number, norms: Sequence[Number], cosine: Number, threshold: float
) -> tuple[Number, Number]:
    """The factors of two vectors."""
    if not (norms[0] and norms[1]) or abs(cosine) > threshold:
        return 1 - t, t
    angle = mp.acos(cosine)
    return mp.sin((1 - t) * angle) / mp.sin(angle), mp.sin(t * angle) / mp.sin(angle)


def slerp(v: Vectors, t: float, threshold: float = 0.9995) -> list[Number]:
    """SLERP of two vectors."""
    return list(slerp_factors(mp.mpf(t), v.norms, v.cosines[0][1], threshold))


def shares(weights: Sequence[float]) -> list[Number]:
    """The weights divided by their sum."""
    total = mp.fsum(mp.mpf(w) for w in weights)
    return [w / total for w in weights]


def multislerp(v: Vectors, weights: Sequence[Number]) -> list[Number]:
    """The weighted mean direction, with the weighted mean norm."""
    square = mp.fsum(weights[i] * weights[j] * v.cosines[i][j] for i in v.known for j in v.known)
    magnitude = mp.fsum(w * n for w, n in zip(weights, v.norms, strict=True))
    return [
        magnitude * w / n / mp.sqrt(square) if n else mp.mpf(0) for w, n in zip(weights, v.norms, strict=True)
    ]


def karcher(v: Vectors, weights: Sequence[Number]) -> list[Number]:
    """The Karcher mean, with the weighted mean norm."""
    known, magnitude = v.known, mp.fsum(w * n for w, n in zip(weights, v.norms, strict=True))
    own = [weights[i] / mp.fsum(weights[j] for j in known) for i in known]
    cosines = [[v.cosines[i][j] for j in known] for i in known]
    mean = _mean(cosines, own)
    found = [mp.mpf(0)] * len(weights)
    for i, c in zip(known, mean, strict=True):
        found[i] = magnitude * c / v.norms[i]
    return found


def _mean(cosines: list[list[Number]], weights: list[Number]) -> list[Number]:
    """The mean of unit vectors in their span: the point whose tangent vectors to them have the mean zero."""

    def product(x: Sequence[Number], y: Sequence[Number]) -> Number:
        return mp.fsum(x[i] * cosines[i][j] * y[j] for i in range(len(x)) for j in range(len(y)))

    c = weights
    while True:
        c = [each / mp.sqrt(product(c, c)) for each in c]
        p = [mp.fsum(map(mul, row, c)) for row in cosines]
        angles = [mp.acos(min(each, mp.mpf(1))) for each in p]
        f = [angle / mp.sin(angle) if angle > CONVERGED else mp.mpf(1) for angle in angles]
        level = mp.fsum(w * each * x for w, each, x in zip(weights, f, p, strict=True))
        tangent = [w * each - level * own for w, each, own in zip(weights, f, c, strict=True)]
        length = mp.sqrt(abs(product(tangent, tangent)))
        if length < CONVERGED:
            return c
        c = [mp.cos(length) * own + mp.sin(length) / length * g for own, g in zip(c, tangent, strict=True)]


def model_stock(v: Vectors) -> list[Number]:
    """The mean, moved towards the base."""
    pairs = list(combinations(range(len(v.norms)), 2))
    n, c = len(v.norms), mp.fsum(v.cosines[i][j] for i, j in pairs) / len(pairs)
    t = n * c / (1 + (n - 1) * c) if c > 0 else mp.mpf(0)
    return [t / n] * n


def warp(v: Vectors, threshold: float = 0.9995) -> list[Number]:
    """SLERP of one vector after another, in their order."""
    n = len(v.norms)

    def product(x: Sequence[Number], y: Sequence[Number]) -> Number:
        scaled = [[a * norm for a, norm in zip(each, v.norms, strict=True)] for each in (x, y)]
        return mp.fsum(
            scaled[0][i] * (v.cosines[i][j] if i != j else 1) * scaled[1][j]
            for i in range(n)
            for j in range(n)
        )

    def unit(k: int) -> list[Number]:
        return [mp.mpf(i == k) for i in range(n)]

    found = unit(0)
    for k in range(1, n):
        length, other = mp.sqrt(product(found, found)), v.norms[k]
        cosine = product(found, unit(k)) / (length * other) if length and other else mp.mpf(0)
        s0, s1 = slerp_factors(mp.mpf(1) / (k + 1), (length, other), cosine, threshold)
        found = [s0 * each for each in found]
        found[k] += s1
    return found


def with_base(coefficients: Sequence[Number], towards: float = 0.0) -> list[Number]:
    """The coefficients of the models and the base, from those of the task vectors."""
    own = [(1 - mp.mpf(towards)) * each for each in coefficients]
    return [*own, 1 - mp.fsum(own)]
