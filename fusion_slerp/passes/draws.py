"""Selections that draw each model's elements at random; the words come from `kernels.random_words`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.kernels import Words
from fusion_slerp.kernels.drawing import (
    Ranked,
    add_ranked,
    can_rank_and_measure,
    drawn_masks,
    ranked_and_measured,
)
from fusion_slerp.passes.chances import CERTAIN, Draw, threshold
from fusion_slerp.passes.protocols import Counted
from fusion_slerp.passes.selections import Selection


@dataclass(frozen=True, slots=True)
class Drawn(Selection):
    """Takes each model's elements at random.

    Attributes:
        draws: For each model.
        width: Elements of a row. A row that is longer than a chunk is ranked in parts, which end at the
            multiples of a chunk's elements in the tensor.
    """

    draws: tuple[Draw, ...]
    width: int = 1

    @property
    def is_random(self) -> bool:
        """Whether any model is neither taken as a whole nor left out."""
        return any(draw.is_random for draw in self.draws)

    @property
    def is_ranked(self) -> bool:
        """Whether any probability depends on ranks."""
        return self.width > 1 and any(draw.is_ranked for draw in self.draws)

    def masks(self, words: Words, start: int, counted: Counted | None = None) -> np.ndarray:
        """Returns the masks of one chunk: of whole rows, if ranks count."""
        ranked = [k for k, draw in enumerate(self.draws) if self.is_ranked and draw.is_ranked]
        alike = [k for k in range(len(self.draws)) if k not in ranked]
        n = words[0].size
        masks = _alike(n, start, self.draws, alike) if alike or not ranked else np.empty(n, np.uint16)
        if ranked:
            drawn = [Ranked(k, *self.draws[k]) for k in ranked]
            own = [*(words[k] for k in ranked), words[-1]]
            _add_ranked(masks, own, start, self.width, drawn, is_fresh=not alike)
        return masks

    def packed_and_sums(self, words: Words, start: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Selection.packed_and_sums`."""
        are_ranked = self.is_ranked and all(draw.is_ranked for draw in self.draws)
        if not are_ranked or self.width > CHUNK_ELEMENTS or not can_rank_and_measure(words, self.width):
            return Selection.packed_and_sums(self, words, start)
        assert start % self.width == 0, "whole rows are ranked"
        drawn = [Ranked(k, *draw) for k, draw in enumerate(self.draws)]
        return ranked_and_measured(words, (start, self.width), drawn)


def _alike(n: int, start: int, draws: Sequence[Draw], models: Sequence[int]) -> np.ndarray:
    """Masks of some models, whose elements have one probability."""
    drawn = [(k, draws[k]) for k in models]
    always = sum(1 << k for k, draw in drawn if threshold(draw.density) == CERTAIN)
    chances = [(k, draw.key, threshold(draw.density)) for k, draw in drawn if draw.is_random]
    return drawn_masks(n, start, chances, always)


def _add_ranked(
    masks: np.ndarray, words: Words, start: int, width: int, drawn: Sequence[Ranked], is_fresh: bool
) -> None:
    for first, end, length in _parts(start, masks.size, width):
        part = slice(first - start, end - start)
        if length > 1:
            add_ranked(masks[part], [each[part] for each in words], (first, length), drawn, is_fresh)
            continue
        if is_fresh:
            masks[part] = 0
        for each in drawn:
            masks[part] |= _alike(1, first, [Draw(each.key, each.density)], [0]) << each.model


def _parts(start: int, n: int, width: int) -> Iterator[tuple[int, int, int]]:
    """Yields the first index of what is ranked at a time, that after its end, and the elements of a row."""
    end = start + n
    if width <= CHUNK_ELEMENTS:
        assert start % width == n % width == 0, "whole rows are ranked"
        yield start, end, width
        return
    while start < end:
        stop = min(end, *((start // step + 1) * step for step in (width, CHUNK_ELEMENTS)))
        yield start, stop, stop - start
        start = stop
