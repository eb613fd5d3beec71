"""The words of one chunk, read once for everything that is made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fusion_slerp.chunks import Chunk
from fusion_slerp.engine.buffers import Buffer
from fusion_slerp.engine.reader import read, split
from fusion_slerp.engine.units import UnitAtWork
from fusion_slerp.kernels import Words
from fusion_slerp.sources.open_files import OpenFiles
from fusion_slerp.sources.source import Source

IN_PLACE = -1
"""All rows in place, in the place of a unit's index."""


class HeldWords:
    """A buffer, and what it holds; for one thread.

    Args:
        files: The models' files.
        sources: Everything that is made from rows in place, by label: read together.
        chunk: The chunk.
        width: Elements of a row.
        buffer: Memory for the words.
        held: What the buffer already holds: the index of a unit, `IN_PLACE`, or None for nothing.
    """

    def __init__(
        self,
        files: OpenFiles,
        sources: Mapping[str, Source],
        chunk: Chunk,
        width: int,
        buffer: Buffer,
        held: int | None,
    ) -> None:
        self._files, self._sources, self._width = files, sources, width
        self._buffer, self._held = buffer, held
        self.chunk = chunk

    def of(self, labels: Sequence[str]) -> Words:
        """Returns the words of some models, all rows in place."""
        every = [*self._sources.values()]
        if self._held != IN_PLACE:
            read(self._files, every, None, self.chunk, self._width, self._buffer)
            self._held = IN_PLACE
        by_label = dict(zip(self._sources, split(every, self.chunk[1], self._buffer), strict=True))
        return [by_label[label] for label in labels]

    def of_unit(self, k: int, unit: UnitAtWork) -> Words:
        """Returns the words of a unit of the tensor, zeros in rows that it does not take.

        Args:
            k: The unit's index.
            unit: The unit; units of several merged models with the same index have the same words.
        """
        if unit.rows is None:
            return self.of(unit.owners)
        if self._held == k:
            return split(unit.sources, self.chunk[1], self._buffer)
        self._held = k
        return read(self._files, unit.sources, unit.rows, self.chunk, self._width, self._buffer)

    def scratch(self) -> Buffer:
        """Returns the buffer for another use, after which it holds nothing."""
        self._held = None
        return self._buffer
