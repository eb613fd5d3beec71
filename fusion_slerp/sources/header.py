"""Reads and checks the header of one safetensors file; no tensor data is touched.

Source: the safetensors format, https://github.com/huggingface/safetensors#format: eight bytes
of header length (little endian), the header as JSON, then the data without holes. The checks
follow that order; each has a literal-byte test in tests/sources/test_header.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from math import prod
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from fusion_slerp.dtypes import BY_CODE, DType
from fusion_slerp.errors import CheckpointError, Problem, nearest, quoted
from fusion_slerp.sources.conversions import LFS_POINTER, pointer
from fusion_slerp.sources.json_files import Limits, parse_json
from fusion_slerp.sources.regular_files import open_regular
from fusion_slerp.sources.source import Extent, Piece

LENGTH_NBYTES = 8
MAX_HEADER_NBYTES = 24_000_000
"""A quarter of what the safetensors library allows: a header with the most tensors has about 14 MB."""

MAX_TENSORS = 100_000
"""In one file: the largest known models have 150,000 in all their files together."""

HEADER = Limits(MAX_HEADER_NBYTES, 13 * MAX_TENSORS, MAX_TENSORS + 2, 4)
"""Enough for that many tensors of three dimensions.

A hostile header of this size is refused within 0.6 s and 200 MB of memory.
"""

KEYS = {"dtype", "shape", "data_offsets"}

MAX_DIMENSIONS = 64
"""As many as numpy and torch allow; the product of more would take too long."""

MAX_PLAIN, MAX_PLAIN_DIMENSIONS = 1 << 50, 8
"""Limits of the numbers and dimensions of a tensor for the fast checks of `_plain_entry`."""

NEW_CODE = re.compile(r"[A-Z][A-Z0-9_]{1,29}")
"""A dtype as the format names them: one that is unknown here may be of a newer release of the library."""

SAFETENSORS_RELEASE = "0.8"
"""The newest release of the library whose types are all known here."""

MAX_COUNT = 2**63 - 1
"""No file has more bytes; larger numbers in a header are invalid."""

REDOWNLOAD = "download or copy the file again: its size or content has changed since it was written"


class TensorEntry(NamedTuple):
    """The location of one tensor: a `Source` whose elements are delivered as they are stored.

    Attributes:
        name: Its name in the file.
        dtype: Its element type.
        shape: Its dimensions; empty for a scalar.
        file: The file that contains it.
        offset: Bytes from the start of the file to its first element.
        nbytes: Its length in bytes, the same as in the merged model.
        strides: Elements from one index to the next, by dimension, if they are not contiguous
            (a transposed or expanded tensor); only `elements.read_elements` can read such a
            tensor. None if they are contiguous, so that any part is a range of bytes.
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

    @property
    def words(self) -> DType:
        """The type that is delivered: the stored type."""
        return self.dtype

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        """The stored tensors that it is made from: itself."""
        return (self,)

    def extents(self, pieces: Sequence[Piece]) -> tuple[Extent, ...]:
        """The stored elements that some pieces of it are made from: the same ones."""
        return (Extent(self, pieces),)

    def decode(self, raw: Sequence[np.ndarray], pieces: Sequence[Piece], out: np.ndarray) -> None:
        """Does nothing: bytes are delivered as they are read."""


class _Damaged(Exception):
    """Describes the damage; becomes a `Problem` that names the file."""


def read_header(file: Path) -> list[TensorEntry]:
    """Returns the tensors of one file in the order of their data.

    Raises:
        CheckpointError: The file is missing, unreadable, or its header and size contradict each
            other in any way.
    """
    try:
        header, data_start, data_nbytes = _load(file)
        entries = [
            _plain_entry(file, name, value, data_start) or _entry(file, name, value, data_start)
            for name, value in header.items()
        ]
        entries.sort(key=lambda entry: (entry.offset, entry.nbytes))
        _check_coverage(entries, data_start, data_nbytes)
    except _Damaged as damage:
        fields = (("file", file), ("found", damage))
        raise Problem(CheckpointError, "damaged safetensors file", fields, REDOWNLOAD).error() from None
    except OSError as error:
        fields = (("file", file), ("found", error.strerror))
        raise Problem(CheckpointError, "cannot read a weight file", fields, REDOWNLOAD).error() from error
    return entries


def _load(file: Path) -> tuple[dict[str, Any], int, int]:
    with open_regular(file) as stream:
        file_nbytes = os.fstat(stream.fileno()).st_size
        if file_nbytes < LENGTH_NBYTES:
            raise _Damaged(f"{file_nbytes} bytes; even an empty file has {LENGTH_NBYTES}")
        start = stream.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise pointer(file).error()
        stream.seek(LENGTH_NBYTES)
        header_nbytes = int.from_bytes(start[:LENGTH_NBYTES], "little")
        if header_nbytes > MAX_HEADER_NBYTES:
            raise _Damaged(f"the header claims {header_nbytes} bytes; {MAX_HEADER_NBYTES} is the limit")
        data_start = LENGTH_NBYTES + header_nbytes
        if data_start > file_nbytes:
            raise _Damaged(f"truncated: the header ends at byte {data_start}, the file at {file_nbytes}")
        header = _parse(stream, header_nbytes)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _Damaged("__metadata__ is not a map of strings to strings")
    if not all(is_unicode(string) for pair in metadata.items() for string in pair):
        raise _Damaged("__metadata__ has strings that are not valid Unicode")
    return header, data_start, file_nbytes - data_start


def _parse(stream: BinaryIO, nbytes: int) -> dict[str, Any]:
    if stream.read(1) != b"{":
        raise _Damaged("the header does not start with '{'")
    stream.seek(LENGTH_NBYTES)
    try:
        return parse_json(stream.read(nbytes), HEADER, strict=True)
    except UnicodeDecodeError as error:
        raise _Damaged(f"the header is not UTF-8 at byte {LENGTH_NBYTES + error.start}") from None
    except ValueError as error:
        raise _Damaged(f"the header is not valid JSON: {error}") from None


def _plain_entry(file: Path, name: str, value: Any, data_start: int) -> TensorEntry | None:
    """The usual case in a third of the time; None if anything is unusual, which `_entry` then reports."""
    try:
        shape, (begin, end), dtype = value["shape"], value["data_offsets"], BY_CODE[value["dtype"]]
        n_elements = 1
        for size in (*shape, begin + 1, end - begin + 1):
            if type(size) is not int or not 0 < size < MAX_PLAIN:
                return None
        for size in shape:
            n_elements *= size
    except (TypeError, LookupError, ValueError, AttributeError):
        return None
    is_plain = len(value) == 3 and type(shape) is list and len(shape) < MAX_PLAIN_DIMENSIONS
    is_plain = is_plain and name.isascii()
    if not is_plain or (end - begin) * 8 != n_elements * dtype.nbits:
        return None
    return TensorEntry(name, dtype, tuple(shape), file, data_start + begin, end - begin)


def _entry(file: Path, name: str, value: Any, data_start: int) -> TensorEntry:
    if not isinstance(value, dict) or value.keys() != KEYS:
        raise _Damaged(f"tensor {quoted(name)} is not described by dtype, shape and data_offsets")
    if not is_unicode(name):
        raise _Damaged(f"the tensor name {quoted(name)} is not valid Unicode")
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    dtype = BY_CODE.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise _unknown_type(file, name, code)
    if not _are_counts(shape, MAX_DIMENSIONS) or _n_addressed(shape) > MAX_COUNT // (dtype.itemsize or 1):
        raise _Damaged(f"tensor {quoted(name)} has the shape {shortened(shape)}")
    if not _are_counts(offsets, 2) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _Damaged(f"tensor {quoted(name)} has the data_offsets {shortened(offsets)}")
    begin, end = offsets
    needed, odd_bits = divmod(prod(shape) * dtype.nbits, 8)
    if odd_bits or end - begin != needed:
        tensor = f"tensor {quoted(name)} of {code} {shortened(shape)}"
        more = f" and {odd_bits} bits" if odd_bits else ""
        raise _Damaged(f"{tensor} needs {needed} bytes{more}, has {end - begin}")
    return TensorEntry(name, dtype, tuple(shape), file, data_start + begin, end - begin)


def _unknown_type(file: Path, name: str, code: object) -> Exception:
    """The error for a dtype that is unknown: damage, or a type that the format did not have yet."""
    if not (isinstance(code, str) and NEW_CODE.fullmatch(code)):
        hint = nearest(code, BY_CODE) if isinstance(code, str) else ""
        return _Damaged(f"tensor {quoted(name)} has the unknown dtype {shortened(code)}{hint}")
    found = f"tensor {quoted(name)} has the dtype {code!r}{nearest(code, BY_CODE)}"
    known = f"the types of safetensors {SAFETENSORS_RELEASE}; a newer release may have more"
    fix = (
        "merge a copy of the model in bfloat16, float16 or float32; if the file is damaged, download it again"
    )
    fields = (("file", file), ("found", found), ("known", known))
    return Problem(CheckpointError, "a tensor of an unknown type", fields, fix).error()


def _are_counts(values: object, most: int) -> bool:
    if type(values) is not list or len(values) > most:
        return False
    return not values or (set(map(type, values)) == {int} and min(values) >= 0 and max(values) <= MAX_COUNT)


def _n_addressed(shape: list[int]) -> int:
    """The number of elements if empty dimensions had one: numpy checks it, and the library up to a zero."""
    return prod(shape) or prod([n or 1 for n in shape])


def is_unicode(name: str) -> bool:
    """Whether it can be written as UTF-8: JSON's escapes can spell half of a surrogate pair."""
    if name.isascii():
        return True
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _check_coverage(entries: list[TensorEntry], data_start: int, data_nbytes: int) -> None:
    """Checks that the tensors are contiguous and fill the data exactly."""
    position = data_start
    for entry in entries:
        if entry.offset != position:
            what = "a hole" if entry.offset > position else "an overlap"
            raise _Damaged(f"{what} in the data before tensor {quoted(entry.name)}")
        position += entry.nbytes
    end = data_start + data_nbytes
    if position > end:
        raise _Damaged(f"truncated: the header describes {position} bytes, the file has {end}")
    if position < end:
        raise _Damaged(f"{end - position} bytes follow the last tensor")
