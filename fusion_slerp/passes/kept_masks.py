"""A selection whose masks are kept from measuring to writing."""

from __future__ import annotations

import threading

import numpy as np

from fusion_slerp.chunks import Chunk
from fusion_slerp.kernels import Words, selected_sums
from fusion_slerp.kernels.drawing import packed
from fusion_slerp.kernels.selected_sums import Table
from fusion_slerp.passes.protocols import Counted
from fusion_slerp.passes.selections import Selection

KEPT_NBYTES = 32 << 20
"""Masks of a unit that are kept, at most: making them again takes longer."""


class Kept(Selection):
    """A selection whose masks are needed twice, chunk by chunk: they are kept in between, up to a limit.

    It equals another of the same selection: both have the same masks, whichever of them are kept.

    Args:
        selection: The selection; it does not count.
        limit: Bytes; other chunks' masks are made again.
    """

    def __init__(self, selection: Selection, limit: int = KEPT_NBYTES) -> None:
        self._selection, self._free = selection, limit
        self._kept: dict[Chunk, np.ndarray] = {}
        self._changing = threading.Lock()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kept) and self._selection == other._selection

    def __hash__(self) -> int:
        return hash(self._selection)

    def __reduce__(self) -> tuple[type[Kept], tuple[Selection]]:
        """Returns what makes it again in another process, without the masks."""
        return Kept, (self._selection,)

    def masks(self, words: Words, start: int, counted: Counted | None = None) -> np.ndarray:
        """Returns the masks of one chunk, and keeps them."""
        masks = self._selection.masks(words, start)
        self._keep(words, start, packed(masks, len(words) - 1))
        return masks

    def sums_of_magnitudes(self, words: Words, start: int) -> np.ndarray:
        """Returns the sums of one chunk, and keeps its masks."""
        masks, sums = self._selection.packed_and_sums(words, start)
        self._keep(words, start, masks)
        return sums

    def _keep(self, words: Words, start: int, masks: np.ndarray) -> None:
        with self._changing:
            if masks.nbytes <= self._free:
                self._kept[start, words[0].size] = masks
                self._free -= masks.nbytes

    def sum_into(
        self, words: Words, start: int, counted: Counted | None, table: Table, out: np.ndarray
    ) -> int:
        """Writes the sums of one chunk with its masks, which are no longer kept."""
        with self._changing:
            kept = self._kept.pop((start, words[0].size), None)
            self._free += 0 if kept is None else kept.nbytes
        if kept is None:
            return self._selection.sum_into(words, start, counted, table, out)
        return selected_sums.sum_of_packed(words, kept, table, out)
