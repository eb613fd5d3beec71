"""The angle between two sources from the chords of their unit vectors, accurate near 0 and π."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import atan2, sqrt
from typing import ClassVar

import numpy as np

from fusion_slerp import kernels
from fusion_slerp.kernels import Words
from fusion_slerp.passes.blocks import blocks_of
from fusion_slerp.passes.exact_sums import ExactSums, sum_of_columns
from fusion_slerp.passes.gram import differences, scaled, scaled_columns

Angles = tuple[float, float]
"""θ and π - θ in radians; the smaller has an error of about 1e-16."""


@dataclass(frozen=True, slots=True)
class Chords:
    """Measures the angle between two sources in one pass.

    Attributes:
        norms: Their Euclidean norms, after division by powers of two.
        exponents: As for `Gram`.
        is_relative: As for `Gram`.
    """

    norms: tuple[float, float]
    exponents: tuple[int, ...] = ()
    is_relative: bool = False

    turn: ClassVar[int] = 2

    def part(self, words: Words, start: int = 0) -> ExactSums:
        """Returns the sums of one chunk."""
        vectors = scaled(words, self.exponents)
        if self.is_relative:
            vectors = differences([kernels.values_of(each) for each in vectors])
        a, b = vectors
        squares = kernels.chords(a, b, 1.0 / self.norms[0], 1.0 / self.norms[1])
        return ExactSums(squares)

    def value(self, total: ExactSums) -> Angles:
        """Returns the angle and its supplement."""
        return _angles(*total.totals().tolist())

    @staticmethod
    def of_columns(measures: Sequence[Chords | None]) -> ChordsOfColumns:
        """Returns the same measure of every column; the result of None is not used."""
        chords = [measure or Chords((1.0, 1.0)) for measure in measures]
        return ChordsOfColumns(
            tuple(each.norms for each in chords),
            tuple(each.exponents for each in chords),
            any(each.is_relative for each in chords),
        )


@dataclass(frozen=True, slots=True)
class ChordsOfColumns:
    """Measures the angles of every column.

    Attributes:
        norms: By column.
        exponents: By column.
        is_relative: As for `Gram`.
    """

    norms: tuple[tuple[float, float], ...]
    exponents: tuple[tuple[int, ...], ...]
    is_relative: bool = False

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.norms)

    def part(self, words: Words, start: int = 0) -> ExactSums:
        """Returns the sums of one chunk."""
        norms = np.array(self.norms).T
        blocks = (scaled_columns(block, self.exponents) for block in blocks_of(words, self.width))
        blocks = (differences(block) if self.is_relative else block for block in blocks)
        units = ([x / norm for x, norm in zip(block, norms, strict=True)] for block in blocks)
        return ExactSums(sum_of_columns([np.square(u - v), np.square(u + v)] for u, v in units))

    def value(self, total: ExactSums) -> list[Angles]:
        """Returns the angles of every column."""
        return [_angles(*column) for column in total.totals().T.tolist()]


def _angles(minus: float, plus: float) -> Angles:
    minus, plus = sqrt(minus), sqrt(plus)
    return 2.0 * atan2(minus, plus), 2.0 * atan2(plus, minus)
