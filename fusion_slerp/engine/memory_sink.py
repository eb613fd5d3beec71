"""A sink that keeps the merged model in memory as a state dict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusion_slerp.planning.plan import MergePlan

if TYPE_CHECKING:
    import torch


class MemorySink:
    """Holds the merged model's bytes, in one block per output file of the plan.

    A merge with the same layout may be written over it: what `state_dict` has returned then changes.
    """

    def __init__(self, plan: MergePlan) -> None:
        self._slots = plan.stored
        self._blocks = [np.empty(shard.data_nbytes, np.uint8) for shard in plan.shards]

    def write(self, shard: int, offset: int, data: memoryview) -> None:
        """Stores bytes at an offset of a shard's data section, in any order, from any thread."""
        block = self._blocks[shard]
        block[offset : offset + data.nbytes] = np.frombuffer(data, np.uint8)

    def finish(self, shard: int) -> None:
        """Does nothing: there is no file."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Returns the tensors by name: views of the blocks, on the CPU."""
        import torch

        tensors = {}
        for slot in self._slots:
            raw = self._blocks[slot.shard][slot.offset : slot.offset + slot.nbytes]
            tensor = torch.from_numpy(raw).view(getattr(torch, slot.dtype.name))
            tensors[slot.name] = tensor.reshape(slot.shape)
        return tensors

    def holds(self, model: torch.nn.Module) -> bool:
        """Whether all weights of a model are in this memory, so that the next merge changes them."""
        ranges = [(block.ctypes.data, block.ctypes.data + block.nbytes) for block in self._blocks]
        return all(
            any(start <= parameter.data_ptr() < end for start, end in ranges)
            for parameter in model.parameters()
            if parameter.numel()
        )
