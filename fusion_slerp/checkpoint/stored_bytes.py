"""Whether two stored tensors are the same bytes."""

from __future__ import annotations

import os

from fusion_slerp.checkpoint.header import REDOWNLOAD, TensorEntry
from fusion_slerp.checkpoint.positioned_io import open_for_reading, read_at
from fusion_slerp.errors import CheckpointError, Problem

BLOCK_NBYTES = 1 << 20


def equal_bytes(one: TensorEntry, other: TensorEntry) -> bool:
    """Compares types, shapes and bytes; stops at the first difference.

    Raises:
        CheckpointError: A file cannot be read or has become shorter.
    """
    if (one.dtype, one.shape, one.nbytes) != (other.dtype, other.shape, other.nbytes):
        return False
    starts = range(0, one.nbytes, BLOCK_NBYTES)
    return all(_block(one, start) == _block(other, start) for start in starts)


def _block(entry: TensorEntry, start: int) -> bytearray:
    block = bytearray(min(BLOCK_NBYTES, entry.nbytes - start))
    try:
        descriptor = open_for_reading(entry.file)
        try:
            read_at(descriptor, memoryview(block), entry.offset + start)
        finally:
            os.close(descriptor)
    except (OSError, EOFError) as error:
        fields = (("file", entry.file), ("tensor", entry.name), ("found", error))
        raise Problem(CheckpointError, "reading failed", fields, REDOWNLOAD).error() from error
    return block
