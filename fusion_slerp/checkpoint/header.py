"""Reads and checks the header of one safetensors file; no tensor data is touched.

Source: the safetensors format, https://github.com/huggingface/safetensors#format: eight bytes
of header length (little endian), the header as JSON, then the data without holes. The checks
walk in that order; each has a literal-byte test in tests/checkpoint/test_header.py.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from fusion_slerp.dtypes import BY_CODE, DType
from fusion_slerp.errors import CheckpointError, Problem, nearest

LENGTH_NBYTES = 8
MAX_HEADER_NBYTES = 100_000_000
"""The limit of the safetensors library itself, so that whatever it writes can be read."""

MAX_COUNT = 2**63 - 1
"""No file has more bytes; larger numbers in a header are nonsense."""

REDOWNLOAD = "download or copy the file again; its size or content is not what was written"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies.

    Attributes:
        name: Its name in the file.
        dtype: Its element type.
        shape: Its dimensions; empty for a scalar.
        file: The file that holds it.
        offset: Bytes from the start of the file to its first element.
        nbytes: Its length in bytes, as many as it takes in the child.
        strides: Elements from one index to the next, by dimension, where they do not lie one after
            another (a transposed or expanded tensor); such a tensor can only be read by
            `elements.read_elements`. None: they do, and any part of it is found by its bytes.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int
    strides: tuple[int, ...] | None = None

    @property
    def n_elements(self) -> int:
        """Number of elements: 1 for a scalar, 0 for an empty tensor."""
        return prod(self.shape)

    @property
    def row_elements(self) -> int:
        """Number of elements of a row, along the first dimension."""
        return prod(self.shape[1:])


class _Damaged(Exception):
    """What is wrong with the file, in words; becomes a `Problem` that names the file."""


def read_header(file: Path) -> list[TensorEntry]:
    """Returns the tensors of one file in the order of their data.

    Raises:
        CheckpointError: The file is missing, unreadable, or its header and size contradict each
            other in any way.
    """
    try:
        header, data_start, data_nbytes = _load(file)
        entries = [_entry(file, name, value, data_start) for name, value in header.items()]
        entries.sort(key=lambda entry: (entry.offset, entry.nbytes))
        _check_coverage(entries, data_start, data_nbytes)
    except _Damaged as damage:
        found = (("file", file), ("found", damage))
        raise Problem(CheckpointError, "damaged safetensors file", found, REDOWNLOAD).error() from None
    except OSError as error:
        found = (("file", file), ("found", error.strerror))
        raise Problem(CheckpointError, "cannot read a weight file", found, REDOWNLOAD).error() from error
    return entries


def _load(file: Path) -> tuple[dict[str, Any], int, int]:
    with file.open("rb") as stream:
        file_nbytes = os.fstat(stream.fileno()).st_size
        if file_nbytes < LENGTH_NBYTES:
            raise _Damaged(f"{file_nbytes} bytes; even an empty file has {LENGTH_NBYTES}")
        header_nbytes = int.from_bytes(stream.read(LENGTH_NBYTES), "little")
        if header_nbytes > MAX_HEADER_NBYTES:
            raise _Damaged(f"the header claims {header_nbytes} bytes; {MAX_HEADER_NBYTES} is the limit")
        data_start = LENGTH_NBYTES + header_nbytes
        if data_start > file_nbytes:
            raise _Damaged(f"truncated: the header ends at byte {data_start}, the file at {file_nbytes}")
        header = _parse(stream.read(header_nbytes))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _Damaged("__metadata__ is not a map of strings to strings")
    return header, data_start, file_nbytes - data_start


def _parse(raw: bytes) -> dict[str, Any]:
    if not raw.startswith(b"{"):
        raise _Damaged("the header does not start with '{'")
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except UnicodeDecodeError as error:
        raise _Damaged(f"the header is not UTF-8 at byte {LENGTH_NBYTES + error.start}") from None
    except (ValueError, RecursionError) as error:
        raise _Damaged(f"the header is not valid JSON: {error}") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise _Damaged(f"the header names {twice!r} twice")
    return result


def _entry(file: Path, name: str, value: Any, data_start: int) -> TensorEntry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _Damaged(f"tensor {name!r} is not described by dtype, shape and data_offsets")
    if not is_unicode(name):
        raise _Damaged(f"the tensor name {name!r} is not valid Unicode")
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(code, str) or code not in BY_CODE:
        hint = nearest(code, BY_CODE) if isinstance(code, str) else ""
        raise _Damaged(f"tensor {name!r} has the unknown dtype {code!r}{hint}")
    if not _are_counts(shape) or prod(shape) > MAX_COUNT:
        raise _Damaged(f"tensor {name!r} has the shape {shortened(shape)}")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _Damaged(f"tensor {name!r} has the data_offsets {shortened(offsets)}")
    dtype, (begin, end) = BY_CODE[code], offsets
    if end - begin != prod(shape) * dtype.itemsize:
        needed = prod(shape) * dtype.itemsize
        raise _Damaged(f"tensor {name!r} of {code} {shape} needs {needed} bytes, has {end - begin}")
    return TensorEntry(name, dtype, tuple(shape), file, data_start + begin, end - begin)


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value <= MAX_COUNT for value in values
    )


def is_unicode(name: str) -> bool:
    """Whether it can be written to a file: JSON's escapes can spell half of a surrogate pair."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _check_coverage(entries: list[TensorEntry], data_start: int, data_nbytes: int) -> None:
    """The tensors must lie side by side and fill the data exactly."""
    position = data_start
    for entry in entries:
        if entry.offset != position:
            what = "a hole" if entry.offset > position else "an overlap"
            raise _Damaged(f"{what} in the data before tensor {entry.name!r}")
        position += entry.nbytes
    end = data_start + data_nbytes
    if position > end:
        raise _Damaged(f"truncated: the header describes {position} bytes, the file has {end}")
    if position < end:
        raise _Damaged(f"{end - position} bytes follow the last tensor")
