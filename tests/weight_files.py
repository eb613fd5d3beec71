"""Weight files of random bytes, from a list of tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fusion_slerp.dtypes import BY_CODE
from fusion_slerp.output.shard_writer import ShardWriter, index_json
from fusion_slerp.planning.layout import Tensor, lay_out


def tensor(name: str, code: str = "F32", *shape: int) -> Tensor:
    """A tensor as `lay_out` takes it, named by the code of its type."""
    nbytes = int(np.prod(shape)) * BY_CODE[code].itemsize
    return Tensor(name, BY_CODE[code], shape, nbytes)


def write(folder: Path, tensors: list[Tensor], limit: int) -> dict[str, bytes]:
    """Writes random bytes to every tensor, last one first and in two pieces; returns them by name."""
    slots, files = lay_out(tensors, limit)
    data = {slot.name: np.random.default_rng(len(slot.name)).bytes(slot.nbytes) for slot in slots}
    with ShardWriter(folder, files) as writer:
        for slot in reversed(slots):
            half = slot.nbytes // 2
            writer.write(slot.shard, slot.offset + half, memoryview(data[slot.name][half:]))
            writer.write(slot.shard, slot.offset, memoryview(data[slot.name][:half]))
    if len(files) > 1:
        (folder / "model.safetensors.index.json").write_text(index_json(slots, files))
    return data
