"""The models' weight files, open for reading from any thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fusion_slerp.chunks import aligned
from fusion_slerp.errors import CheckpointError, Problem
from fusion_slerp.sources.elements import read_elements, read_pieces
from fusion_slerp.sources.file_state import FileState, state_of
from fusion_slerp.sources.header import TensorEntry
from fusion_slerp.sources.positioned_io import open_for_reading
from fusion_slerp.sources.read_ahead import ReadAhead
from fusion_slerp.sources.source import Extent, Piece, Source


class OpenFiles:
    """Keeps every file open once; use as a context manager, which closes them.

    Args:
        states: The files, and their states when their headers were read.
    """

    def __init__(self, states: Mapping[Path, FileState]) -> None:
        self._states = dict(sorted(states.items()))
        self._descriptors: dict[Path, int] = {}
        self._ahead = ReadAhead()
        self._counting = threading.Lock()
        self.nbytes_read = 0

    def __enter__(self) -> OpenFiles:
        try:
            for file in self._states:
                self._descriptors[file] = _open(file)
            self.check_unchanged()
        except BaseException:
            self.__exit__()
            raise
        return self

    def check_unchanged(self) -> None:
        """Compares the open files with their states when their headers were read.

        Raises:
            CheckpointError: A file was written to, or was replaced before it was opened.
        """
        for file, descriptor in self._descriptors.items():
            if state_of(descriptor) != self._states[file]:
                raise changed(("file", file)).error()

    def __exit__(self, *exception: object) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def read(self, source: Source, pieces: Sequence[Piece], out: np.ndarray) -> None:
        """Fills parts of a caller's buffer with elements of a tensor.

        Args:
            source: The tensor.
            pieces: The elements, and the destination of each piece in elements.
            out: uint8, contiguous, aligned for float64; large enough for every piece in the delivered type.

        Raises:
            CheckpointError: A file cannot be read or has become shorter.
        """
        if isinstance(source, TensorEntry):
            self._read(source, pieces, out)
            return
        raw = [self._raw(extent) for extent in source.extents(pieces)]
        source.decode(raw, pieces, out)

    def read_together(self, sources: Sequence[Source], buffer: np.ndarray) -> list[int]:
        """Reads whole tensors into a caller's buffer, neighbours in a file by one call.

        Args:
            sources: The tensors.
            buffer: uint8, aligned for float64, long enough for all, with up to 7 more bytes each.

        Returns:
            The offset of each in the buffer, aligned for its type.

        Raises:
            CheckpointError: As `read`.
        """
        offsets: list[int] = []
        start = 0
        for run in _neighbours(sources):
            first, last = run[0], run[-1]
            if isinstance(first, TensorEntry):
                nbytes = last.offset + last.nbytes - first.offset
                # and its neighbours after it
                self._ahead.before(self._descriptors[first.file], first.offset, nbytes)
                read_elements(self._descriptors[first.file], first, 0, buffer[start : start + nbytes])
                self._count(nbytes)
                offsets += [start + entry.offset - first.offset for entry in run]
            else:
                nbytes = first.nbytes
                self.read(first, [(0, first.n_elements, 0)], buffer[start : start + nbytes])
                offsets.append(start)
            start += aligned(nbytes)
        return offsets

    def read_in_turn(self, sources: Sequence[Source], out: np.ndarray) -> None:
        """Reads whole stored tensors one after the other, neighbours in a file by one call.

        Args:
            sources: The tensors; stored ones.
            out: uint8, contiguous, as long as all of them; receives their bytes without gaps.

        Raises:
            CheckpointError: As `read`.
        """
        for run in _neighbours(sources):
            nbytes = sum(entry.nbytes for entry in run)
            part, out = out[:nbytes], out[nbytes:]
            self._ahead.before(self._descriptors[run[0].file], run[0].offset, nbytes)
            read_elements(self._descriptors[run[0].file], run[0], 0, part)
            self._count(nbytes)

    def _raw(self, extent: Extent) -> np.ndarray:
        """The bytes of an extent in fresh memory."""
        n = max((start + count for start, count, _ in extent.pieces), default=0)
        raw = np.empty(n * extent.entry.dtype.itemsize, np.uint8)
        self._read(extent.entry, extent.pieces, raw)
        return raw

    def _read(self, entry: TensorEntry, pieces: Sequence[Piece], out: np.ndarray) -> None:
        descriptor, itemsize = self._descriptors[entry.file], entry.dtype.itemsize
        if entry.strides is None and len(pieces) == 1:
            ((_, count, first),) = pieces
            self._ahead.before(descriptor, entry.offset + first * itemsize, count * itemsize)
        read_pieces(descriptor, entry, pieces, out)
        self._count(sum(count for _, count, _ in pieces) * entry.dtype.itemsize)

    def _count(self, nbytes: int) -> None:
        with self._counting:
            self.nbytes_read += nbytes


def changed(*where: tuple[str, object]) -> Problem:
    """The problem with a source model that has changed since the merge began."""
    fix = "stop the program that writes to the models, then run the same merge again"
    return Problem(CheckpointError, "a model changed while it was read", where, fix)


def _open(file: Path) -> int:
    try:
        return open_for_reading(file)
    except OSError as error:
        fields = (("file", file), ("found", error.strerror))
        fix = "check its permissions, and raise the limit of open files: ulimit -n 4096"
        raise Problem(CheckpointError, "cannot open a weight file", fields, fix).error() from error


def _neighbours(sources: Sequence[Source]) -> Iterator[list[Any]]:
    """Runs of stored tensors that follow one another in one file and have one type, so equal alignment."""
    run: list[Any] = []
    for source in sources:
        if run and not _follows(source, run[-1]):
            yield run
            run = []
        run.append(source)
    if run:
        yield run


def _follows(source: Source, before: Source) -> bool:
    return (
        isinstance(source, TensorEntry)
        and isinstance(before, TensorEntry)
        and source.strides is before.strides is None
        and source.file is before.file
        and source.offset == before.offset + before.nbytes
        and source.dtype == before.dtype
    )
