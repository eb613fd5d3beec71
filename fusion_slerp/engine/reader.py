"""Brings a chunk of several sources into a buffer, each element next to its counterparts.

Where the vocabularies differ, an embedding's rows are gathered: in the order of the merged model, rows from
wherever a model has them, and zeros in place of all others. Zeros add nothing to a sum, so a chunk measures
its merged rows alone, and it does so in the same order whatever the models' order.
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
    """Returns the words of a chunk of some sources, in a caller's buffer; see `split`.

    Args:
        files: Where they are.
        sources: What is read.
        rows: Of each source, its row for each row of the merged model, negative where it gives none; None
            where all rows are in place.
        chunk: Which part of the merged model's tensor.
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
    """Reads the sources of whole small tensors, each model's together; returns where each begins in the
    buffer.
    """
    n_most = max(map(len, tensors))
    order = [(i, sources[k]) for k in range(n_most) for i, sources in enumerate(tensors) if k < len(sources)]
    found: list[list[int]] = [[] for _ in tensors]
    offsets = files.read_together([source for _, source in order], buffer)
    for (i, _), offset in zip(order, offsets, strict=True):
        found[i].append(offset)
    return found


def gather(
    files: OpenFiles, source: Source, rows: np.ndarray, chunk: Chunk, width: int, words: np.ndarray
) -> None:
    """Fills a chunk's words from rows of a source; zeros where it gives none. Arguments as for `pieces`."""
    found = pieces(rows, width, chunk)
    if sum(count for _, count, _ in found) < chunk[1]:
        words[:] = 0
    files.read(source, found, words.view(np.uint8))


def split(sources: Sequence[Source], count: int, buffer: Buffer) -> list[np.ndarray]:
    """The parts of a buffer that hold a chunk of each source, as words."""
    words, used = [], 0
    for source in sources:
        nbytes = count * source.words.itemsize
        words.append(as_words(buffer[used : used + nbytes], source))
        used += aligned(nbytes)
    return words


def as_words(raw: np.ndarray, source: Source) -> np.ndarray:
    """Bytes as words of the type that a source delivers; as they are, where that type is never computed
    with.
    """
    return raw.view(source.words.word) if source.words.is_mergeable else raw


def pieces(rows: np.ndarray, width: int, chunk: Chunk) -> list[Piece]:
    """Returns the parts of a chunk that lie next to each other in the source.

    Args:
        rows: The source's row for each of the merged model's rows that the chunk touches; negative where it
            gives none.
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
    """The merged model's rows that a chunk touches, parts of rows included."""
    return slice(chunk[0] // width, -(-(chunk[0] + chunk[1]) // width))
