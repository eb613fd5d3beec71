"""The parents' weight files, open for reading from any thread."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fusion_slerp.checkpoint.header import REDOWNLOAD, TensorEntry
from fusion_slerp.checkpoint.positioned_io import open_for_reading, read_at
from fusion_slerp.errors import CheckpointError, Problem


class InputFiles:
    """Opens each file once, on first use; use as a context manager, which closes them."""

    def __init__(self, files: set[Path]) -> None:
        self._files = sorted(files)
        self._descriptors: dict[Path, int] = {}

    def __enter__(self) -> InputFiles:
        for file in self._files:
            try:
                self._descriptors[file] = open_for_reading(file)
            except OSError as error:
                self.__exit__()
                fields = (("file", file), ("found", error.strerror))
                fix = "check permissions, and the limit of open files (ulimit -n)"
                raise Problem(CheckpointError, "cannot open a weight file", fields, fix).error() from error
        return self

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
        itemsize = entry.dtype.itemsize
        raw = buffer[: count * itemsize]
        try:
            offset = entry.offset + start * itemsize
            read_at(self._descriptors[entry.file], raw.data, offset)
        except (OSError, EOFError) as error:
            fields = (("file", entry.file), ("tensor", entry.name), ("found", error))
            raise Problem(CheckpointError, "reading failed", fields, REDOWNLOAD).error() from error
        return raw.view(entry.dtype.word) if entry.dtype.is_mergeable else raw
