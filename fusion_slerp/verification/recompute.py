"""Merges tensors again and compares them with the merged model's files, bit by bit."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal

import numpy as np

from fusion_slerp.engine.executor import execute
from fusion_slerp.engine.steps import OnBytes
from fusion_slerp.planning.plan import MergePlan, TensorPlan
from fusion_slerp.sources.positioned_io import read_at
from fusion_slerp.verification.findings import Deviation

RECOMPUTING = "recomputing"
"""This pass, as progress names it."""

WRONG = "not what its source models make"


def sample(tensors: Sequence[TensorPlan], count: int | Literal["all"]) -> list[TensorPlan]:
    """Returns `count` tensors, chosen afresh at each call, in the order of the plan."""
    if count == "all" or count >= len(tensors):
        return list(tensors)
    return [tensors[i] for i in sorted(random.SystemRandom().sample(range(len(tensors)), count))]


def recompute(
    plan: MergePlan, tensors: Sequence[TensorPlan], folder: Path, on_bytes: OnBytes
) -> list[Deviation]:
    """Merges tensors of a plan again, in constant memory, and returns those whose bits differ.

    Args:
        plan: The plan.
        tensors: Some of its tensors.
        folder: The merged model's folder.
        on_bytes: Called with the bytes just measured or compared, `RECOMPUTING` and the tensor.

    Raises:
        FusionSlerpError: As `execute`.
    """
    deviations = []
    with ExitStack() as files:
        streams = {}
        for i in sorted({tensor.out.shard for tensor in tensors}):
            shard = plan.shards[i]
            try:
                streams[i] = files.enter_context((folder / shard.file_name).open("rb", buffering=0))
            except OSError as error:
                deviations.append(Deviation(shard.file_name, None, f"cannot be read: {error.strerror}"))
                continue
            if streams[i].read(len(shard.header)) != shard.header:
                deviations.append(Deviation(shard.file_name, None, "its header is not that of this merge"))
        if deviations or not tensors:
            return deviations
        sink = _ComparingSink({i: stream.fileno() for i, stream in streams.items()}, plan)
        execute(
            plan,
            sink,
            tensors=tensors,
            on_bytes=lambda nbytes, _, tensor: on_bytes(nbytes, RECOMPUTING, tensor),
        )
    return [
        Deviation(plan.shards[tensor.out.shard].file_name, tensor.out.name, WRONG)
        for tensor in tensors
        if tensor.out.name in sink.wrong
    ]


class _ComparingSink:
    """Compares results with the merged model's files; `wrong` has the names of tensors that differ."""

    def __init__(self, descriptors: Mapping[int, int], plan: MergePlan) -> None:
        self._descriptors, self._shards = descriptors, plan.shards
        self._slots = {
            shard: [slot for slot in plan.slots if slot.shard == shard and slot.nbytes]
            for shard in descriptors
        }
        self.wrong: set[str] = set()

    def write(self, shard: int, offset: int, data: memoryview) -> None:
        """Compares; from any thread."""
        stored = np.zeros(data.nbytes, np.uint8)
        with suppress(EOFError):  # missing bytes differ, unless they are zeros: then the file's size does
            read_at(self._descriptors[shard], stored.data, len(self._shards[shard].header) + offset)
        same = stored == np.frombuffer(data, np.uint8)
        if same.all():
            return
        slots = self._slots[shard]
        first = bisect_right(slots, offset, key=lambda slot: slot.offset) - 1
        for slot in slots[max(first, 0) :]:
            if slot.offset >= offset + data.nbytes:
                break
            part = slice(max(slot.offset - offset, 0), slot.offset + slot.nbytes - offset)
            if not same[part].all():
                self.wrong.add(slot.name)

    def finish(self, shard: int) -> None:
        """Does nothing: the files exist already."""
