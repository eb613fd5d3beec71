"""How tensors are divided into chunks, and how memory and files are aligned."""

from __future__ import annotations

from typing import Literal

CHUNK_ELEMENTS = 1 << 20
"""Elements of a chunk, and so of a partial sum. Fixed, so that every run adds the same numbers."""

PAGE_NBYTES = 4096
"""Direct writes start and end at its multiples, in memory and in the file."""

DirectIO = Literal["auto", "on", "off"]
"""Whether whole pages are written past the page cache: if the file system supports it, or fail, or never."""

Chunk = tuple[int, int]
"""Index of the first element, and number of elements."""


def chunks_of(n_elements: int) -> list[Chunk]:
    """Returns the chunks of a tensor; their borders depend only on its number of elements."""
    starts = range(0, n_elements, CHUNK_ELEMENTS)
    return [(start, min(CHUNK_ELEMENTS, n_elements - start)) for start in starts]


def chunks_of_rows(n_elements: int, width: int) -> list[Chunk]:
    """Returns the chunks of a matrix: as many whole rows as fit, at least one."""
    step = max(1, CHUNK_ELEMENTS // width) * width
    return [(start, min(step, n_elements - start)) for start in range(0, n_elements, step)]


def whole_pages(nbytes: int) -> int:
    """Returns a number of bytes, rounded up to whole pages."""
    return -(-nbytes // PAGE_NBYTES) * PAGE_NBYTES


def aligned(nbytes: int) -> int:
    """Returns a number of bytes, rounded up to a multiple of 8, where words of any type may start."""
    return -(-nbytes // 8) * 8
