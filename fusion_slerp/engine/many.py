"""Several merged models made from one reading of the source models: their tensors, memory, sinks and digests.

The files of all models are numbered through: those of the second follow those of the first, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fusion_slerp.chunks import CHUNK_ELEMENTS, whole_pages
from fusion_slerp.engine.output_digests import OutputDigests
from fusion_slerp.engine.steps import InEach
from fusion_slerp.engine.threads import Sink
from fusion_slerp.planning.layout import Slot
from fusion_slerp.planning.memory import SLACK_NBYTES, MemoryPlan
from fusion_slerp.planning.plan import Merge, MergePlan, TensorPlan

if TYPE_CHECKING:
    from fusion_slerp.engine.executor import Child


def are_alike(plans: Sequence[MergePlan]) -> bool:
    """Whether plans can be made together: the same method, tensors, types, files and units.

    Args:
        plans: Plans for the same source models.
    """
    first = plans[0]
    return all(
        plan.settings.method == first.settings.method
        and plan.slots == first.slots
        and _units_match(first, plan)
        for plan in plans[1:]
    )


def _units_match(one: MergePlan, other: MergePlan) -> bool:
    return all(
        (x.work.granularity, x.work.needs_rows, x.work.units.keys())
        == (y.work.granularity, y.work.needs_rows, y.work.units.keys())
        for x, y in zip(one.tensors, other.tensors, strict=True)
        if isinstance(x.work, Merge) and isinstance(y.work, Merge)
    )


def tensors_of(children: Sequence[Child]) -> list[InEach]:
    """Returns each tensor as it is in every merged model that needs it, in the order of the files."""
    made: dict[str, list[TensorPlan]] = {}
    for k, child in enumerate(children):
        for tensor in child.tensors:
            made.setdefault(tensor.out.name, []).append(
                tensor._replace(out=_numbered(tensor.out, k, child.plan))
            )
    return [tuple(made[slot.name]) for slot in children[0].plan.slots if slot.name in made]


def _numbered(slot: Slot, k: int, plan: MergePlan) -> Slot:
    return slot._replace(shard=slot.shard + k * len(plan.shards))


def memory_of(children: Sequence[Child]) -> MemoryPlan:
    """Returns the buffers for all: as for one, each for the sources that any of the models needs."""
    plans = [child.plan for child in children]
    widths = (
        sum({k: v.words.itemsize for tensor in each for k, v in tensor.sources.items()}.values())
        for each in zip(*(plan.tensors for plan in plans), strict=True)
    )
    needed = whole_pages(CHUNK_ELEMENTS * max(widths, default=1)) + SLACK_NBYTES * len(plans[0].parents)
    memory = max((plan.memory for plan in plans), key=lambda memory: memory.in_nbytes)
    return replace(memory, in_nbytes=max(needed, memory.in_nbytes))


def all_digests(plans: Sequence[MergePlan]) -> OutputDigests:
    """Returns the digests of all files of all merged models."""
    slots = [_numbered(slot, k, plan) for k, plan in enumerate(plans) for slot in plan.slots]
    shards = [shard for plan in plans for shard in plan.shards]
    return OutputDigests(slots, shards, plans[0].settings.checksum, n_files=len(plans[0].shards))


def sink_of(children: Sequence[Child]) -> Sink:
    """Returns the sinks of all merged models as one."""
    return _Sinks([child.sink for child in children], len(children[0].plan.shards))


class _Sinks:
    """Passes each result to the sink of its model."""

    def __init__(self, sinks: Sequence[Sink], n_files: int) -> None:
        self._sinks, self._n_files = sinks, n_files

    def write(self, shard: int, offset: int, data: memoryview) -> None:
        """Writes bytes of a file, numbered through."""
        k, own = divmod(shard, self._n_files)
        self._sinks[k].write(own, offset, data)

    def finish(self, shard: int) -> None:
        """Finishes a file, numbered through."""
        k, own = divmod(shard, self._n_files)
        self._sinks[k].finish(own)
