"""Into what pieces a tensor is cut, and how memory and files are aligned."""

from __future__ import annotations

from typing import Literal

CHUNK_ELEMENTS = 1 << 20
"""Borders of the partial sums. Fixed, so that every run adds the same numbers."""

PAGE_NBYTES = 4096
"""Direct writes start and end at multiples of it, in memory and in the file."""

DirectIO = Literal["auto", "on", "off"]
"""Whether whole pages go past the page cache: where the file system can, or else fail, or never."""

Chunk = tuple[int, int]
"""Index of the first element and number of elements."""


def chunks_of(n_elements: int) -> list[Chunk]:
    """The chunks of a tensor; their borders depend on nothing but its number of elements."""
    starts = range(0, n_elements, CHUNK_ELEMENTS)
    return [(start, min(CHUNK_ELEMENTS, n_elements - start)) for start in starts]


def chunks_of_rows(n_elements: int, width: int) -> list[Chunk]:
    """The chunks of a matrix, as many whole rows each as fit, at least one."""
    step = max(1, CHUNK_ELEMENTS // width) * width
    return [(start, min(step, n_elements - start)) for start in range(0, n_elements, step)]


def whole_pages(nbytes: int) -> int:
    """The bytes of as many pages as hold so many bytes."""
    return -(-nbytes // PAGE_NBYTES) * PAGE_NBYTES


def aligned(nbytes: int) -> int:
    """The next multiple of 8 bytes, where words of any type may start."""
    return -(-nbytes // 8) * 8
