"""Lays tensors out in safetensors files.

The whole layout, headers included, is known before any weight is read. So the data can arrive in
any order, from any thread.

Source: the safetensors format (https://github.com/huggingface/safetensors#format); the file names are
those of transformers' save_pretrained.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from fusion_slerp.chunks import PAGE_NBYTES
from fusion_slerp.dtypes import DType
from fusion_slerp.sources.folder import SINGLE
from fusion_slerp.sources.header import LENGTH_NBYTES

Position = tuple[int, int]
"""A file's index, and an offset into its data section: ordered as the merged model's bytes."""


class Slot(NamedTuple):
    """One tensor's position in the output.

    Attributes:
        name: The tensor's name.
        dtype: Its element type in the output.
        shape: Its dimensions.
        shard: Index of its file.
        offset: Bytes from the start of that file's data section.
        nbytes: Its length in bytes.
        n_elements: Number of elements: 1 for a scalar, 0 for an empty tensor.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    shard: int
    offset: int
    nbytes: int
    n_elements: int

    @property
    def row_elements(self) -> int:
        """Elements of a row, along the first dimension: 1 for a scalar or a vector."""
        return prod(self.shape[1:])

    def position(self, element: int = 0) -> Position:
        """The position of one of its elements."""
        return self.shard, self.offset + element * self.dtype.itemsize

    def follows(self, other: Slot) -> bool:
        """Whether it begins at another one's end."""
        return self.position() == other.position(other.n_elements)


@dataclass(frozen=True, slots=True)
class Shard:
    """One output file.

    Attributes:
        file_name: Its name in the output folder.
        header: Everything before the data section; padded to whole pages with spaces, as the format
            allows. So tensors of whole pages can be written past the page cache, and mapped.
        data_nbytes: Length of the data section.
        tensors: The tensors that the header lists.
    """

    file_name: str
    header: bytes
    data_nbytes: int
    tensors: tuple[Slot, ...]

    @property
    def nbytes(self) -> int:
        """Size of the whole file."""
        return len(self.header) + self.data_nbytes


class Whole(NamedTuple):
    """A tensor of the file that is laid out, and made, in several parts, one after the other."""

    name: str
    shape: tuple[int, ...]


class Tensor(NamedTuple):
    """A tensor to be laid out.

    Attributes:
        name: Its name.
        dtype: Its element type.
        shape: Its dimensions.
        nbytes: Its size.
        whole: The tensor that it is a part of, with its neighbours; None if it is one of its own.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    nbytes: int
    whole: Whole | None = None


def lay_out(tensors: Sequence[Tensor], max_shard_nbytes: int) -> tuple[list[Slot], list[Shard]]:
    """Assigns a file and an offset to every tensor.

    Files are filled in the given order, up to `max_shard_nbytes` of data each (a larger tensor gets its
    own file). Within a file, wider types come first, so that every tensor is aligned to its element size.

    Returns:
        The slots, file by file in the order of their offsets, and the files.
    """
    wholes, parts = _joined(tensors)
    groups = _groups(wholes, max_shard_nbytes)
    slots: list[Slot] = []
    shards: list[Shard] = []
    for index, group in enumerate(groups):
        offset, listed = 0, list[Slot]()
        for tensor in sorted(group, key=lambda tensor: -tensor.dtype.itemsize):
            name, dtype, shape, nbytes, _ = tensor
            slot = Slot(name, dtype, shape, index, offset, nbytes, nbytes // dtype.itemsize)
            listed.append(slot)
            if name in parts:
                slots += _in_turn(parts[name], slot)
            else:
                slots.append(slot)
            offset += nbytes
        shards.append(Shard(_file_name(index, len(groups)), _header(listed), offset, tuple(listed)))
    return slots, shards


def _joined(tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], dict[str, list[Tensor]]]:
    """The tensors as the files list them, and the parts of those that have some."""
    if all(tensor.whole is None for tensor in tensors):
        return tensors, {}
    wholes, parts = dict[str, Tensor](), dict[str, list[Tensor]]()
    for tensor in tensors:
        if tensor.whole is None:
            wholes[tensor.name] = tensor
            continue
        name, shape = tensor.whole
        nbytes = wholes[name].nbytes if name in wholes else 0
        wholes[name] = Tensor(name, tensor.dtype, shape, nbytes + tensor.nbytes)
        parts.setdefault(name, []).append(tensor)
    return list(wholes.values()), parts


def _in_turn(parts: Sequence[Tensor], whole: Slot) -> Iterator[Slot]:
    """The slots of a tensor's parts, one after the other."""
    offset = whole.offset
    for name, dtype, shape, nbytes, _ in parts:
        yield Slot(name, dtype, shape, whole.shard, offset, nbytes, nbytes // dtype.itemsize)
        offset += nbytes


def _groups(tensors: Sequence[Tensor], max_nbytes: int) -> list[list[Tensor]]:
    groups: list[list[Tensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if groups[-1] and filled + tensor.nbytes > max_nbytes:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += tensor.nbytes
    return groups


def _file_name(index: int, count: int) -> str:
    return SINGLE if count == 1 else f"model-{index + 1:05d}-of-{count:05d}.safetensors"


def _header(slots: Sequence[Slot]) -> bytes:
    content: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for slot in slots:
        content[slot.name] = {
            "dtype": slot.dtype.code,
            "shape": list(slot.shape),
            "data_offsets": [slot.offset, slot.offset + slot.nbytes],
        }
    header = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-(LENGTH_NBYTES + len(header)) % PAGE_NBYTES)
    return len(header).to_bytes(LENGTH_NBYTES, "little") + header
