"""Selections that draw each model's elements at random; the words come from `kernels.random_words`."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fusion_slerp.chunks import CHUNK_ELEMENTS, Chunk
from fusion_slerp.kernels import Words
from fusion_slerp.kernels.drawing import Ranked, add_ranked, drawn_masks, packed, unpacked
from fusion_slerp.passes.chances import CERTAIN, Draw, threshold
from fusion_slerp.passes.protocols import Counted

KEPT_NBYTES = 32 << 20
"""Masks of a unit that are kept from measuring to writing, at most: drawing them again takes longer."""


@dataclass(frozen=True, slots=True)
class Drawn:
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

    def counter(self) -> None:
        """Returns None: nothing depends on earlier chunks."""

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


class Kept:
    """A selection whose masks are requested twice, chunk by chunk: they are kept in between, up to a limit.

    It equals another of the same selection: both have the same masks, whichever of them are kept.

    Args:
        selection: The selection.
        n_models: Number of models.
        limit: Bytes; other chunks' masks are made again.
    """

    def __init__(self, selection: Drawn, n_models: int, limit: int = KEPT_NBYTES) -> None:
        self._selection, self._n_models, self._free = selection, n_models, limit
        self._kept: dict[Chunk, np.ndarray] = {}
        self._changing = threading.Lock()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kept) and self._selection == other._selection

    def __hash__(self) -> int:
        return hash(self._selection)

    def __reduce__(self) -> tuple[type[Kept], tuple[Drawn, int]]:
        """Returns what makes it again in another process, without the masks."""
        return Kept, (self._selection, self._n_models)

    def counter(self) -> None:
        """Returns None: nothing depends on earlier chunks."""

    def masks(self, words: Words, start: int, counted: Counted | None = None) -> np.ndarray:
        """Returns the masks of one chunk."""
        chunk = start, words[0].size
        with self._changing:
            kept = self._kept.pop(chunk, None)
            self._free += 0 if kept is None else kept.nbytes
        if kept is not None:
            return unpacked(kept, chunk[1])
        masks = self._selection.masks(words, start)
        kept = packed(masks, self._n_models)
        with self._changing:
            if kept.nbytes <= self._free:
                self._kept[chunk] = kept
                self._free -= kept.nbytes
        return masks
