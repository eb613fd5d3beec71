"""A selection whose masks are kept from measuring to writing."""

from __future__ import annotations

import threading

import numpy as np

from fusion_slerp.chunks import Chunk
from fusion_slerp.kernels import Words, selected_sums
from fusion_slerp.kernels.drawing import packed
from fusion_slerp.kernels.selected_sums import SetSums
from fusion_slerp.passes.protocols import Counted
from fusion_slerp.passes.selections import Selection

KEPT_NBYTES = 32 << 20
"""Masks that are kept at a time, at most: making them again takes longer."""


class Room:
    """Memory that several selections share."""

    def __init__(self, nbytes: int) -> None:
        self._free = nbytes
        self._changing = threading.Lock()

    def take(self, nbytes: int) -> bool:
        """Takes some of it, if there is as much."""
        with self._changing:
            is_enough = nbytes <= self._free
            self._free -= nbytes * is_enough
        return is_enough

    def give(self, nbytes: int) -> None:
        """Returns what was taken."""
        with self._changing:
            self._free += nbytes


OF_PROCESS = Room(KEPT_NBYTES)


class Kept(Selection):
    """A selection whose masks are needed twice, chunk by chunk: they are kept in between, if there is room.

    It equals another of the same selection: both have the same masks, whichever of them are kept. A chunk has
    the same elements both times: see `Unit.has_one_order`.

    Args:
        selection: The selection; it does not count.
        limit: The most bytes; other chunks' masks are made again.
        room: Where they are kept, with those of other units.
    """

    def __init__(self, selection: Selection, limit: int = KEPT_NBYTES, room: Room = OF_PROCESS) -> None:
        self._selection, self._limit, self._room = selection, limit, room
        self._kept: dict[Chunk, np.ndarray] = {}
        self._nbytes = 0
        self._changing = threading.Lock()

    def __del__(self) -> None:
        self._room.give(self._nbytes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kept) and self._selection == other._selection

    def __hash__(self) -> int:
        return hash(self._selection)

    def __reduce__(self) -> tuple[type[Kept], tuple[Selection, int]]:
        """Returns what makes it again in another process, without the masks."""
        return Kept, (self._selection, self._limit)

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
        chunk = start, words[0].size
        with self._changing:
            fits = chunk not in self._kept and self._nbytes + masks.nbytes <= self._limit
            if fits and self._room.take(masks.nbytes):
                self._kept[chunk] = masks
                self._nbytes += masks.nbytes

    def sum_into(
        self, words: Words, start: int, counted: Counted | None, table: SetSums, out: np.ndarray
    ) -> int:
        """Writes the sums of one chunk with its masks, which are no longer kept."""
        with self._changing:
            kept = self._kept.pop((start, words[0].size), None)
            nbytes = 0 if kept is None else kept.nbytes
            self._nbytes -= nbytes
        self._room.give(nbytes)
        if kept is None:
            return self._selection.sum_into(words, start, counted, table, out)
        return selected_sums.sum_of_packed(words, kept, table, out)
