"""Whether two stored tensors are the same bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from fusion_slerp.errors import CheckpointError, Problem
from fusion_slerp.sources.elements import read_elements
from fusion_slerp.sources.header import REDOWNLOAD, TensorEntry
from fusion_slerp.sources.positioned_io import open_for_reading

BLOCK_NBYTES = 1 << 20


def equal_bytes(one: TensorEntry, other: TensorEntry) -> bool:
    """Compares types, shapes and bytes; stops at the first difference.

    Two names for the same bytes of a file are equal without reading it.

    Raises:
        CheckpointError: A file cannot be read or has become shorter.
    """
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    if (one.file, one.offset, one.strides) == (other.file, other.offset, other.strides):
        return True
    n = BLOCK_NBYTES // one.dtype.itemsize
    with _opened(one) as first, _opened(other) as second:
        return all(
            np.array_equal(_block(first, one, start, n), _block(second, other, start, n))
            for start in range(0, one.n_elements, n)
        )


@contextmanager
def _opened(entry: TensorEntry) -> Iterator[int]:
    try:
        descriptor = open_for_reading(entry.file)
    except OSError as error:
        fields = (("file", entry.file), ("tensor", entry.name), ("found", error.strerror))
        raise Problem(CheckpointError, "cannot open a weight file", fields, REDOWNLOAD).error() from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _block(descriptor: int, entry: TensorEntry, start: int, n: int) -> np.ndarray:
    block = np.empty(min(n, entry.n_elements - start) * entry.dtype.itemsize, np.uint8)
    read_elements(descriptor, entry, start, block)
    return block
