"""Reads a chunk of several sources into a buffer, with matching elements at the same index.

If the vocabularies differ, an embedding's rows are gathered in the order of the merged model: each model's
row, or zeros for a row that is not taken from it. Zeros add nothing to a sum, so only merged rows are
measured, and in the same order whatever the order of the models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fusion_slerp.chunks import Chunk, aligned
from fusion_slerp.engine.buffers import Buffer
from fusion_slerp.kernels import Words
from fusion_slerp.sources.open_files import OpenFiles
from fusion_slerp.sources.source import Piece, Source
from fusion_slerp.vocabulary.rows import runs


def read(
    files: OpenFiles,
    sources: Sequence[Source],
    rows: Sequence[np.ndarray] | None,
    chunk: Chunk,
    width: int,
    buffer: Buffer,
) -> Words:
    """Returns the words of a chunk of each source, in the caller's buffer; see `split`.

    Args:
        files: The models' files.
        sources: The sources.
        rows: For each source, its row for each row of the merged model, negative if it has none; None
            if all rows are in place.
        chunk: The chunk of the merged model's tensor.
        width: Elements of a row.
        buffer: Memory for the chunk.
    """
    words = split(sources, chunk[1], buffer)
    for i, (source, view) in enumerate(zip(sources, words, strict=True)):
        if rows is None:
            files.read(source, [(0, chunk[1], chunk[0])], view.view(np.uint8))
        else:
            gather(files, source, rows[i][rows_in(chunk, width)], chunk, width, view)
    return words


def read_batch(files: OpenFiles, tensors: Sequence[Sequence[Source]], buffer: Buffer) -> list[list[int]]:
    """Reads the sources of small tensors, each model's together; returns their offsets in the buffer."""
    n_most = max(map(len, tensors))
    order = [(i, sources[k]) for k in range(n_most) for i, sources in enumerate(tensors) if k < len(sources)]
    by_tensor: list[list[int]] = [[] for _ in tensors]
    offsets = files.read_together([source for _, source in order], buffer)
    for (i, _), offset in zip(order, offsets, strict=True):
        by_tensor[i].append(offset)
    return by_tensor


def gather(
    files: OpenFiles, source: Source, rows: np.ndarray, chunk: Chunk, width: int, words: np.ndarray
) -> None:
    """Fills a chunk's words from a source's rows, or with zeros if it has none. Arguments as for `pieces`."""
    parts = pieces(rows, width, chunk)
    if sum(count for _, count, _ in parts) < chunk[1]:
        words[:] = 0
    files.read(source, parts, words.view(np.uint8))


def split(sources: Sequence[Source], count: int, buffer: Buffer) -> list[np.ndarray]:
    """Returns the parts of a buffer that hold a chunk of each source, as words."""
    words, used = [], 0
    for source in sources:
        nbytes = count * source.words.itemsize
        words.append(as_words(buffer[used : used + nbytes], source))
        used += aligned(nbytes)
    return words


def as_words(raw: np.ndarray, source: Source) -> np.ndarray:
    """Returns bytes as words of a source's type; unchanged if that type is never merged."""
    return raw.view(source.words.word) if source.words.is_mergeable else raw


def pieces(rows: np.ndarray, width: int, chunk: Chunk) -> list[Piece]:
    """Returns the parts of a chunk that are contiguous in the source.

    Args:
        rows: The source's row for each of the merged model's rows that the chunk overlaps; negative if it
            has none.
        width: Elements of a row.
        chunk: First element and number of elements, in the merged model.
    """
    start, end = chunk[0], chunk[0] + chunk[1]
    at, count, row = runs(rows)
    begin = (start // width + at) * width
    here = np.maximum(begin, start)
    n = np.minimum(begin + count * width, end) - here
    columns = (here - start, n, row * width + here - begin)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def rows_in(chunk: Chunk, width: int) -> slice:
    """Returns the merged model's rows that a chunk overlaps, even in part."""
    return slice(chunk[0] // width, -(-(chunk[0] + chunk[1]) // width))
