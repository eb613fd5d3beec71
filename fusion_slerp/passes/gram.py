"""The Gram matrix of the sources, from which every method in their span is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import acos, copysign, degrees, inf, isfinite, isnan, isqrt, ldexp, nan, sqrt
from typing import ClassVar, NamedTuple

import numpy as np

from fusion_slerp import kernels
from fusion_slerp.kernels import Table, Words
from fusion_slerp.passes.blocks import blocks_of
from fusion_slerp.passes.exact_sums import ExactSums, sum_of_columns


class GramMatrix(NamedTuple):
    """Inner products of n vectors; `gram_matrix` makes it.

    Attributes:
        products: The upper triangle, row by row.
        exponents: Each vector was divided by two to this power before it was measured; empty: not divided.
        n: Number of vectors.
        is_finite: False if an element is infinite or NaN, or if squares of float64 elements overflow.
        measured_norms: Euclidean norms of the vectors as measured, divided by their powers of two; NaN if the
            matrix is not finite.
        norms: Euclidean norms of the vectors; NaN if the matrix is not finite.
    """

    products: tuple[float, ...]
    exponents: tuple[int, ...]
    n: int
    is_finite: bool
    measured_norms: tuple[float, ...]
    norms: tuple[float, ...]

    def product(self, i: int, j: int) -> float:
        """Returns the inner product of two of the vectors, i <= j, as measured."""
        return self.products[_position(i, j, self.n)]

    def cosine(self, i: int, j: int) -> float:
        """Returns the cosine between two vectors, i < j, in [-1, 1]; NaN if a norm is zero or the matrix is
        not finite.
        """
        norms = self.measured_norms
        if not (self.is_finite and norms[i] and norms[j]):
            return nan
        return max(-1.0, min(1.0, self.product(i, j) / (norms[i] * norms[j])))

    @property
    def angle_deg(self) -> float | None:
        """The angle between the first two vectors in degrees; None for one vector, or if a norm is zero."""
        if self.n < 2:
            return None
        cosine = self.cosine(0, 1)
        return None if isnan(cosine) else degrees(acos(cosine))

    @property
    def lengths(self) -> tuple[float, ...]:
        """The norms, divided by one power of two such that their squares do not overflow."""
        most = max(self.exponents, default=0)
        shifts = [power - most for power in self.exponents]
        return tuple(map(ldexp, self.measured_norms, shifts)) if shifts else self.measured_norms

    def of_first(self, n: int) -> GramMatrix:
        """Returns the matrix of the first n vectors."""
        if n == self.n:
            return self
        products = [self.product(i, j) for i, j in combinations_with_replacement(range(n), 2)]
        return gram_matrix(products, self.exponents[:n])

    @property
    def product_exponents(self) -> tuple[int, ...]:
        """The powers of two by which the products were divided."""
        powers = self.exponents or (0,) * self.n
        return tuple(i + j for i, j in combinations_with_replacement(powers, 2))


def gram_matrix(products: Sequence[float], exponents: tuple[int, ...] = ()) -> GramMatrix:
    """Returns the matrix with this upper triangle."""
    n = isqrt(2 * len(products))
    is_finite = isfinite(sum(products)) or all(map(isfinite, products))
    squares = [products[_position(i, i, n)] for i in range(n)]
    measured = tuple(map(sqrt, squares)) if is_finite else (nan,) * n
    norms = tuple(map(_times_power, measured, exponents)) if exponents else measured
    return GramMatrix(tuple(products), exponents, n, is_finite, measured, norms)


def _times_power(x: float, exponent: int) -> float:
    """x times two to a power; infinite if that is beyond float64."""
    try:
        return ldexp(x, exponent)
    except OverflowError:
        return copysign(inf, x)


def _position(i: int, j: int, n: int) -> int:
    return i * n - i * (i - 1) // 2 + j - i


@dataclass(frozen=True, slots=True)
class Gram:
    """Measures the Gram matrix in one pass.

    Attributes:
        exponents: Divide each source by two to this power first, exactly; empty: do not divide.
        is_relative: Whether the vectors are the differences of the sources from the last one. The exponents
            are then all equal.
    """

    exponents: tuple[int, ...] = ()
    is_relative: bool = False

    turn: ClassVar[int] = 1

    def part(self, words: Words, start: int = 0) -> ExactSums:
        """Returns the products of one chunk."""
        gram = kernels.gram_of_differences if self.is_relative else kernels.gram
        return ExactSums(gram(scaled(words, self.exponents)))

    def value(self, total: ExactSums) -> GramMatrix:
        """Returns the matrix."""
        return gram_matrix(total.totals().tolist(), self._exponents_of_vectors)

    @property
    def _exponents_of_vectors(self) -> tuple[int, ...]:
        return self.exponents[:-1] if self.is_relative else self.exponents

    def of_many(self, table: Table) -> list[GramMatrix]:
        """Returns the matrices of many sets of small vectors; without exponents."""
        assert not self.exponents, "one measure for all"
        return [gram_matrix(products) for products in kernels.gram_of_many(table, self.is_relative).tolist()]

    @staticmethod
    def of_columns(measures: Sequence[Gram | None]) -> GramOfColumns:
        """Returns the same measure of every column; the result of None is not used."""
        exponents = tuple(measure.exponents if measure else () for measure in measures)
        return GramOfColumns(exponents, any(measure.is_relative for measure in measures if measure))


@dataclass(frozen=True, slots=True)
class GramOfColumns:
    """Measures the Gram matrix of every column.

    Attributes:
        exponents: By column.
        is_relative: As for `Gram`.
    """

    exponents: tuple[tuple[int, ...], ...]
    is_relative: bool = False

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.exponents)

    def part(self, words: Words, start: int = 0) -> ExactSums:
        """Returns the products of one chunk."""
        return ExactSums(sum_of_columns(self._products(block) for block in blocks_of(words, self.width)))

    def _products(self, block: Sequence[np.ndarray]) -> list[np.ndarray]:
        block = scaled_columns(block, self.exponents)
        block = differences(block) if self.is_relative else block
        return [x * y for x, y in combinations_with_replacement(block, 2)]

    def value(self, total: ExactSums) -> list[GramMatrix]:
        """Returns the matrix of every column."""
        by_column = total.totals().T.tolist()
        of_vectors = [each[:-1] for each in self.exponents] if self.is_relative else self.exponents
        return [gram_matrix(p, e) for p, e in zip(by_column, of_vectors, strict=True)]


def differences(values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns the differences of float64 arrays from the last one."""
    *others, last = values
    return [each - last for each in others]


def scaled(words: Words, exponents: tuple[int, ...]) -> Words:
    """Returns each source divided by two to a power, as fresh float64; unchanged without exponents."""
    if not exponents:
        return words
    return [np.ldexp(kernels.values_of(w), -power) for w, power in zip(words, exponents, strict=True)]


def scaled_columns(block: Sequence[np.ndarray], exponents: Sequence[tuple[int, ...]]) -> Sequence[np.ndarray]:
    """Returns each source's columns divided by two to their own powers; unchanged without exponents."""
    if not any(exponents):
        return block
    powers = np.array([each or (0,) * len(block) for each in exponents]).T
    return [np.ldexp(x, -power) for x, power in zip(block, powers, strict=True)]
