"""Methods in the span of their sources: a Gram matrix, coefficients, and one weighted sum."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from math import fsum, sqrt
from typing import TYPE_CHECKING, Any

from fusion_slerp import passes
from fusion_slerp.errors import setting
from fusion_slerp.methods.method import BASE, UnusableError

if TYPE_CHECKING:
    import numpy as np

    from fusion_slerp.passes.gram import GramMatrix
    from fusion_slerp.passes.protocols import Measure

SHORT_NORM = 2.0**-450
"""Below it, squares of float64 elements begin to underflow; no other type has such small values."""

CANCELLED = 1e-12
"""Square of a sum of unit vectors up to which they cancel each other, relative to that of the coefficients'
magnitudes. The sum's square has an error of about 1e-15, which makes up to a thousandth of it.
"""

ROUNDING = 2.0**-51
"""Relative error of a sum of coefficients, each of them rounded once or twice."""

LARGE = 2.0**900
"""Larger weights are scaled before they are added up."""


def models_of(labels: Sequence[str]) -> list[str]:
    """Returns the labels without the base."""
    return [label for label in labels if label != BASE]


def weights_of(values: Mapping[str, Any], labels: Sequence[str]) -> tuple[float, ...]:
    """Returns the models' weights."""
    return tuple(values["weight"][label] for label in models_of(labels))


def shares_of(weights: Sequence[float], labels: Sequence[str]) -> tuple[float, ...]:
    """Returns the weights divided by their sum.

    Raises:
        UnusableError: They sum to zero.
    """
    scaled = _scaled(weights)
    total = fsum(scaled)
    if not total:
        models = models_of(labels)
        shown = ", ".join(f"{label} {weight:g}" for label, weight in zip(models, weights, strict=True))
        fix = f"change a weight, or use {setting('normalize', False)}"
        raise UnusableError(
            f"weights that sum to zero: {shown}", fix if any(weights) else f"use {setting('weight', 1.0)}"
        )
    return tuple(each / total for each in scaled)


def _scaled(weights: Sequence[float]) -> Sequence[float]:
    """The weights, divided by a power of two if float64 could not hold their sum."""
    power = 2.0 ** len(weights).bit_length()
    return [weight / power for weight in weights] if max(map(abs, weights)) > LARGE else weights


def check_not_all_zero(weights: Sequence[float]) -> None:
    """Raises UnusableError if there are weights, and all of them are zero."""
    if weights and not any(weights):
        raise UnusableError("weights that are all zero", f"use {setting('weight', 1.0)}")


def used(coefficients: Sequence[float]) -> list[int]:
    """Returns the indexes of the sources that take part: all whose coefficient is not zero."""
    return [i for i, coefficient in enumerate(coefficients) if coefficient]


def copied(coefficients: Sequence[float]) -> int | None:
    """Returns the index of the only source, if its coefficient is 1."""
    indexes = used(coefficients)
    return indexes[0] if len(indexes) == 1 and coefficients[indexes[0]] == 1 else None


def of_task_vectors(coefficients: Sequence[float], towards_base: float = 0.0) -> tuple[float, ...]:
    """Returns the coefficients of the models and the base, from those of the models' differences from it.

    The base's is zero if the others add up to one but for rounding, as three thirds do. So an element that is
    zero in all models stays zero.
    """
    own = [(1.0 - towards_base) * each for each in coefficients]
    rest = fsum([1.0, *(-each for each in own)])
    return (*own, rest if abs(rest) > ROUNDING * fsum(map(abs, own)) else 0.0)


def of_models(coefficients: Sequence[float], has_base: bool, towards_base: float = 0.0) -> tuple[float, ...]:
    """Returns the coefficients of the sources, from those of the models."""
    if not has_base:
        return tuple(coefficients)
    return (*((1.0 - towards_base) * each for each in coefficients), towards_base)


def measured(is_relative: bool) -> Generator[Measure, Any, GramMatrix]:
    """Measures the Gram matrix; in rare cases again, if squares of float64 elements over- or underflow.

    A vector whose squares are all zero counts as zero: float64 elements below 1e-162 have such squares.

    Args:
        is_relative: Whether the vectors are the differences from the last source.
    """
    gram: GramMatrix = yield passes.Gram((), is_relative)
    if not gram.is_finite or any(0.0 < norm < SHORT_NORM for norm in gram.norms):
        exponents: Sequence[int] = yield passes.LargestMagnitude()
        common = (max(exponents),) * len(exponents) if is_relative else tuple(exponents)
        gram = yield passes.Gram(common, is_relative)
    return gram


def of_many_task_vectors(coefficients: np.ndarray, n: int, towards_base: float = 0.0) -> np.ndarray:
    """Returns `of_task_vectors` for many units in which all of n models have the same coefficient.

    Args:
        coefficients: float64 of shape (units,).
        n: Number of models.
        towards_base: As there.

    Returns:
        float64 of shape (units, n + 1).
    """
    import numpy as np  # the options of methods are available without it

    own = (1.0 - towards_base) * coefficients
    sums = np.array([[fsum((1.0, *(-x,) * n)), fsum((abs(x),) * n)] for x in own.tolist()]).reshape(-1, 2)
    rest = np.where(np.abs(sums[:, 0]) > ROUNDING * sums[:, 1], sums[:, 0], 0.0)
    return np.column_stack([*[own] * n, rest])


def needs_scaling(norms: np.ndarray) -> np.ndarray:
    """Returns for many units whether `measured` would measure them again: bool of shape (units,).

    Args:
        norms: float64 of shape (units, vectors).
    """
    import numpy as np

    is_extreme = ~np.isfinite(norms) | ((norms > 0) & (norms < SHORT_NORM))
    return np.logical_or.reduce(is_extreme, axis=1)


def cosines(gram: GramMatrix, indexes: Sequence[int]) -> list[list[float]]:
    """Returns the cosines between vectors that are not zero, with ones on the diagonal."""
    return [[1.0 if i == j else gram.cosine(min(i, j), max(i, j)) for j in indexes] for i in indexes]


def times(matrix: Sequence[Sequence[float]], vector: Sequence[float]) -> list[float]:
    """Returns the product of a matrix and a vector; each sum is rounded once, whatever the order."""
    return [dot(row, vector) for row in matrix]


def dot(x: Sequence[float], y: Sequence[float]) -> float:
    """Returns the inner product; the sum is rounded once, whatever the order."""
    return fsum(a * b for a, b in zip(x, y, strict=True))


def length_of(coefficients: Sequence[float], products: Sequence[float]) -> float:
    """Returns the length of a sum of unit vectors; 0 if they cancel each other.

    Args:
        coefficients: Of the vectors.
        products: Their cosines times the coefficients.
    """
    square = dot(coefficients, products)
    return sqrt(square) if square > CANCELLED * fsum(map(abs, coefficients)) ** 2 else 0.0
