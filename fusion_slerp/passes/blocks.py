"""Rows of a matrix as float64, block by block, for numpy operations on all columns at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from fusion_slerp import kernels
from fusion_slerp.kernels import Words

BLOCK_ELEMENTS = 1 << 16
"""Elements of each source that are held as float64 at a time."""

Blocks = Iterable[Sequence[np.ndarray]]
"""Blocks of whole rows of each source: float64 of shape (rows, columns)."""


def blocks_of(words: Words, width: int) -> Iterator[list[np.ndarray]]:
    """Yields a chunk of whole rows, block by block; the arrays are fresh."""
    step = max(1, BLOCK_ELEMENTS // width) * width
    for start in range(0, words[0].size, step):
        part = slice(start, start + step)
        yield [kernels.values_of(each[part]).reshape(-1, width) for each in words]
