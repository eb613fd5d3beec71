"""Lays tensors out in safetensors files and writes the bytes where they belong.

The whole layout, headers included, is known before a weight is read. So the data can arrive in
any order, from any thread.

Source: the safetensors format (https://github.com/huggingface/safetensors#format); the file names
and the index as transformers' save_pretrained writes them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from fusion_slerp.chunks import PAGE_NBYTES, DirectIO
from fusion_slerp.dtypes import DType
from fusion_slerp.errors import OutputError, Problem
from fusion_slerp.output.output_file import REFUSALS, OutputFile
from fusion_slerp.sources.folder import SINGLE
from fusion_slerp.sources.header import LENGTH_NBYTES

Place = tuple[int, int]
"""Index of a file, and bytes from the start of its data section: in the order of the child's bytes."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one tensor in the output.

    Attributes:
        name: The tensor's name.
        dtype: Its element type in the output.
        shape: Its dimensions.
        shard: Index of its file.
        offset: Bytes from the start of that file's data section.
        nbytes: Its length in bytes.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    shard: int
    offset: int
    nbytes: int

    @property
    def n_elements(self) -> int:
        """Number of elements: 1 for a scalar, 0 for an empty tensor."""
        return prod(self.shape)

    def place(self, element: int = 0) -> Place:
        """Where an element of it lies."""
        return self.shard, self.offset + element * self.dtype.itemsize

    def follows(self, other: Slot) -> bool:
        """Whether it begins where another one ends."""
        return self.place() == other.place(other.n_elements)


@dataclass(frozen=True, slots=True)
class Shard:
    """One output file.

    Attributes:
        file_name: Its name in the output folder.
        header: Everything before the data section; whole pages, filled up with spaces as the format
            allows. So tensors of whole pages can be written past the page cache, and mapped.
        data_nbytes: Length of the data section.
    """

    file_name: str
    header: bytes
    data_nbytes: int

    @property
    def nbytes(self) -> int:
        """Size of the whole file."""
        return len(self.header) + self.data_nbytes


@dataclass(frozen=True, slots=True)
class Tensor:
    """What is to be laid out: a name, an element type and a shape, of `nbytes` bytes."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    nbytes: int


def lay_out(tensors: Sequence[Tensor], max_shard_nbytes: int) -> tuple[list[Slot], list[Shard]]:
    """Assigns every tensor a file and an offset.

    Files are filled in the order given, up to `max_shard_nbytes` of data each (a larger tensor is
    alone in its file). Inside a file, wider types come first, so that every tensor is aligned to
    its element size.

    Returns:
        The slots, file by file in the order of their offsets, and the files.
    """
    groups = _groups(tensors, max_shard_nbytes)
    slots: list[Slot] = []
    shards: list[Shard] = []
    for index, group in enumerate(groups):
        offset = 0
        for tensor in sorted(group, key=lambda tensor: -tensor.dtype.itemsize):
            slots.append(Slot(tensor.name, tensor.dtype, tensor.shape, index, offset, tensor.nbytes))
            offset += tensor.nbytes
        header = _header(slots[len(slots) - len(group) :])
        shards.append(Shard(_file_name(index, len(groups)), header, offset))
    return slots, shards


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
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(LENGTH_NBYTES + len(text)) % PAGE_NBYTES)
    return len(text).to_bytes(LENGTH_NBYTES, "little") + text


def index_json(slots: Sequence[Slot], shards: Sequence[Shard]) -> str:
    """The text of `model.safetensors.index.json` for a sharded output."""
    weight_map = {slot.name: shards[slot.shard].file_name for slot in slots}
    metadata = {"total_size": sum(shard.data_nbytes for shard in shards)}
    content = {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


class ShardWriter:
    """Files being written in a folder: room reserved at once, data in any order from any thread.

    Only files that data is going to are open. Use as a context manager; leaving it closes them.

    Args:
        folder: Where to.
        shards: The files.
        direct_io: Whether whole pages go past the page cache.
        done: Indexes of files that are there already, and left alone.
    """

    def __init__(
        self,
        folder: Path,
        shards: Sequence[Shard],
        direct_io: DirectIO = "auto",
        done: Collection[int] = (),
    ) -> None:
        self._folder = folder
        self._shards = shards
        self._direct_io: DirectIO = direct_io
        self._done = done
        self._files: dict[int, OutputFile] = {}

    def __enter__(self) -> ShardWriter:
        for i, shard in enumerate(self._shards):
            if i not in self._done:
                try:
                    file = OutputFile(self._folder / shard.file_name, shard.nbytes, self._direct_io)
                    self._files[i] = file
                    file.write(memoryview(shard.header), 0)
                    file.close()
                except OSError as error:
                    self._close()
                    raise self._problem(error, i).error() from error
        return self

    def write(self, shard: int, offset: int, data: memoryview) -> None:
        """Writes bytes at an offset of a file's data section.

        Raises:
            OutputError: The disk is full or failing.
        """
        try:
            self._files[shard].write(data, len(self._shards[shard].header) + offset)
        except OSError as error:
            raise self._problem(error, shard).error() from error

    def finish(self, shard: int) -> None:
        """Brings a file that has all its bytes to the disk, and closes it.

        Raises:
            OutputError: The disk is full or failing.
        """
        try:
            self._files[shard].sync()
            self._files[shard].close()
        except OSError as error:
            raise self._problem(error, shard).error() from error

    def __exit__(self, *exception: object) -> None:
        self._close()

    def _close(self) -> None:
        while self._files:
            self._files.popitem()[1].close()

    def _problem(self, error: OSError, shard: int) -> Problem:
        needed = sum(shard.nbytes for shard in self._shards)
        fields = (
            ("file", self._folder / self._shards[shard].file_name),
            ("found", error.strerror),
            ("needed", f"{needed} bytes in all; {shutil.disk_usage(self._folder).free} are free now"),
        )
        fix = "free space or choose another output folder"
        if self._direct_io == "on" and error.errno in REFUSALS:
            fix = "set direct_io: auto, which writes through the page cache where it must"
        return Problem(OutputError, "cannot write the child's weights", fields, fix)
