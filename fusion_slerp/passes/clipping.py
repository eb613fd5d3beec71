"""The combination that moves a base towards a model by at most a given distance per element."""

from __future__ import annotations

from math import fsum
from typing import NamedTuple

import numpy as np

from fusion_slerp import kernels
from fusion_slerp.kernels import Words, clipping
from fusion_slerp.passes.protocols import Counted


class Clipped(NamedTuple):
    """base + share * clip(model - base, -limit, limit), rounded once.

    Attributes:
        limit: The largest distance of an element, at least 0.
        share: The part of the way that is taken, in [0, 1].
    """

    limit: float
    share: float

    def into(self, words: Words, out: np.ndarray, start: int = 0, counted: Counted | None = None) -> int:
        """Writes one chunk of the model and the base; returns how many elements are infinite or NaN."""
        factors = np.array([[self.limit, self.share, fsum((1.0, -self.share))]])
        table = kernels.table_of("clipped", (*words, out))
        return int(kernels.run(clipping.clipped, table, factors, np.empty(1, np.int64))[0])
