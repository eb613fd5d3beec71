"""The parents' weight files, open for reading from any thread."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from fusion_slerp.chunks import aligned
from fusion_slerp.errors import CheckpointError, Problem
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.sources.elements import Piece, read_elements, read_pieces
from fusion_slerp.sources.file_state import FileState, state_of
from fusion_slerp.sources.header import TensorEntry
from fusion_slerp.sources.positioned_io import open_for_reading


class InputFiles:
    """Every file open, once; use as a context manager, which closes them.

    Args:
        states: The files, and what they were when their headers were read.
    """

    def __init__(self, states: Mapping[Path, FileState]) -> None:
        self._states = dict(sorted(states.items()))
        self._descriptors: dict[Path, int] = {}

    @classmethod
    def of(cls, plan: MergePlan) -> InputFiles:
        """The files that a plan reads."""
        states = {**plan.a.files, **plan.b.files}
        return cls({entry.file: states[entry.file] for tensor in plan.tensors for entry in tensor.sources})

    def __enter__(self) -> InputFiles:
        try:
            for file in self._states:
                self._descriptors[file] = _open(file)
            self.check_unchanged()
        except BaseException:
            self.__exit__()
            raise
        return self

    def check_unchanged(self) -> None:
        """Compares the open files with what they were when their headers were read.

        Raises:
            CheckpointError: One was written to, or replaced before it was opened.
        """
        for file, descriptor in self._descriptors.items():
            if state_of(descriptor) != self._states[file]:
                raise changed(("file", file)).error()

    def __exit__(self, *exception: object) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def read(self, entry: TensorEntry, start: int, count: int, buffer: np.ndarray) -> np.ndarray:
        """Reads elements of a tensor into a caller's buffer.

        Args:
            entry: The tensor.
            start: Index of the first element, in the flattened tensor.
            count: How many elements.
            buffer: uint8, at least `count * itemsize` long, aligned for float64.

        Returns:
            A view of the buffer: words of the tensor's type where it can be merged, else bytes.

        Raises:
            CheckpointError: The file cannot be read or has become shorter.
        """
        raw = buffer[: count * entry.dtype.itemsize]
        read_elements(self._descriptors[entry.file], entry, start, raw)
        return _words(raw, entry)

    def read_pieces(self, entry: TensorEntry, pieces: Sequence[Piece], buffer: np.ndarray) -> None:
        """Reads elements from several places of a tensor to as many of a caller's buffer.

        Args:
            entry: The tensor.
            pieces: What goes where, in elements.
            buffer: uint8.

        Raises:
            CheckpointError: As `read`.
        """
        read_pieces(self._descriptors[entry.file], entry, pieces, buffer)

    def read_together(self, entries: Sequence[TensorEntry], buffer: np.ndarray) -> list[np.ndarray]:
        """Reads whole tensors into a caller's buffer, neighbours in a file at once.

        Args:
            entries: The tensors.
            buffer: uint8, aligned for float64, long enough for all, with up to 7 bytes more each.

        Returns:
            Views of the buffer as from `read`, one per tensor.

        Raises:
            CheckpointError: As `read`.
        """
        views: list[np.ndarray] = []
        start = 0
        for run in _neighbours(entries):
            nbytes = run[-1].offset + run[-1].nbytes - run[0].offset
            raw = buffer[start : start + nbytes]
            read_elements(self._descriptors[run[0].file], run[0], 0, raw)  # and its neighbours behind it
            for entry in run:
                first = entry.offset - run[0].offset
                views.append(_words(raw[first : first + entry.nbytes], entry))
            start += aligned(nbytes)
        return views


def changed(*where: tuple[str, object]) -> Problem:
    """The problem with a parent that is not what it was when the merge began."""
    fix = "let nothing write to the models while they are merged, then run the same again"
    return Problem(CheckpointError, "a model changed while it was read", where, fix)


def _open(file: Path) -> int:
    try:
        return open_for_reading(file)
    except OSError as error:
        fields = (("file", file), ("found", error.strerror))
        fix = "check permissions, and the limit of open files (ulimit -n)"
        raise Problem(CheckpointError, "cannot open a weight file", fields, fix).error() from error


def _words(raw: np.ndarray, entry: TensorEntry) -> np.ndarray:
    return raw.view(entry.dtype.word) if entry.dtype.is_mergeable else raw


def _neighbours(entries: Sequence[TensorEntry]) -> Iterator[list[TensorEntry]]:
    """Runs of tensors that follow one another in one file, of one type and so equally aligned."""
    run: list[TensorEntry] = []
    for entry in entries:
        if run and not (
            entry.strides is run[-1].strides is None
            and entry.file == run[-1].file
            and entry.offset == run[-1].offset + run[-1].nbytes
            and entry.dtype == run[-1].dtype
        ):
            yield run
            run = []
        run.append(entry)
    if run:
        yield run
