"""The combination of sources that every method in their span ends with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fusion_slerp import kernels
from fusion_slerp.kernels import Words
from fusion_slerp.passes.protocols import Counted


class WeightedSum(NamedTuple):
    """The sum of coefficient times source, rounded once; see `kernels.weighted_sum`.

    Attributes:
        coefficients: One for each source, in order.
    """

    coefficients: tuple[float, ...]

    def into(self, words: Words, out: np.ndarray, start: int = 0, counted: Counted | None = None) -> int:
        """Writes one chunk; returns how many elements are infinite or NaN."""
        return kernels.weighted_sum(words, self.coefficients, out)
