"""The largest magnitude of each source, for scaling float64 numbers so that their squares stay in range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusion_slerp import kernels
from fusion_slerp.kernels import Words
from fusion_slerp.passes.blocks import blocks_of
from fusion_slerp.passes.protocols import NotFiniteError


@dataclass(frozen=True, slots=True)
class Largest:
    """The largest magnitudes so far: float64, of each source or of each source and column."""

    magnitudes: np.ndarray

    def join(self, other: Largest) -> Largest:
        """Returns the maximum of both; NaN wins."""
        return Largest(np.maximum(self.magnitudes, other.magnitudes))


@dataclass(frozen=True, slots=True)
class LargestMagnitude:
    """Measures each source's exponent: its largest magnitude divided by two to this power is in [1, 2)."""

    turn: ClassVar[int] = 0

    def part(self, words: Words, start: int = 0) -> Largest:
        """Returns the largest magnitudes of one chunk."""
        return Largest(np.array([np.abs(kernels.values_of(each)).max(initial=0.0) for each in words]))

    def value(self, total: Largest) -> tuple[int, ...]:
        """Returns the exponents.

        Raises:
            NotFiniteError: An element is infinite or NaN.
        """
        return _exponents(total.magnitudes)

    @staticmethod
    def of_columns(measures: Sequence[LargestMagnitude | None]) -> MagnitudeOfColumns:
        """Returns the same measure of every column."""
        return MagnitudeOfColumns(len(measures))


@dataclass(frozen=True, slots=True)
class MagnitudeOfColumns:
    """Measures the exponents of every column.

    Attributes:
        width: Number of columns.
    """

    width: int

    def part(self, words: Words, start: int = 0) -> Largest:
        """Returns the largest magnitudes of one chunk."""
        by_block = [
            np.array([np.abs(x).max(axis=0, initial=0.0) for x in block])
            for block in blocks_of(words, self.width)
        ]
        return Largest(np.max(by_block, axis=0))

    def value(self, total: Largest) -> list[tuple[int, ...]]:
        """Returns the exponents of every column; raises as `LargestMagnitude.value`."""
        return [_exponents(column) for column in total.magnitudes.T]


def _exponents(magnitudes: np.ndarray) -> tuple[int, ...]:
    if not np.isfinite(magnitudes).all():
        raise NotFiniteError
    return tuple((np.frexp(magnitudes)[1] - 1).tolist())
