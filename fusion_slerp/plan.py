"""Decides, from headers and configs alone, what happens to every tensor.

The plan is an immutable value. Everything that can be wrong with the user's input is found while
making it, and raised at once, before a byte of weights is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fusion_slerp.checkpoint.folder import Checkpoint
from fusion_slerp.checkpoint.header import TensorEntry
from fusion_slerp.checkpoint.shards import Shard, Slot, Tensor, lay_out
from fusion_slerp.chunks import CHUNK_ELEMENTS, chunks_of
from fusion_slerp.comparison import compare_configs, compare_tensors
from fusion_slerp.dtypes import BY_NAME, DType
from fusion_slerp.errors import Problem, raise_all
from fusion_slerp.memory import PROCESS_NBYTES, MemoryPlan, plan_memory
from fusion_slerp.settings import MergeSettings
from fusion_slerp.tokenizer import choose_tokenizer
from fusion_slerp.vocabulary import compare_vocabularies

Action = Literal["merge", "copy a", "copy b", "copy if equal"]


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """What happens to one tensor.

    Attributes:
        action: `"merge"`; `"copy a"` and `"copy b"` at the ends of t; `"copy if equal"` for
            types that are never interpolated (integers, booleans).
        t: Where between the parents, in [0, 1].
        a: The tensor in parent a.
        b: The tensor in parent b.
        out: Its place in the child.
    """

    action: Action
    t: float
    a: TensorEntry
    b: TensorEntry
    out: Slot

    @property
    def sources(self) -> tuple[TensorEntry, ...]:
        """The tensors that are read: one for a plain copy, else both."""
        if self.action == "copy a":
            return (self.a,)
        return (self.b,) if self.action == "copy b" else (self.a, self.b)


@dataclass(frozen=True, slots=True)
class MergePlan:
    """Everything that a merge will do.

    Attributes:
        settings: The options it was made with.
        a: Parent a, t = 0.
        b: Parent b, t = 1.
        tensors: Every tensor of the child, file by file in the order of their offsets.
        shards: The child's weight files.
        tokenizer: The folder that gives the child's tokenizer files.
        memory: The buffers that the merge will use.
        warnings: What the user should know, one line each.
    """

    settings: MergeSettings
    a: Checkpoint
    b: Checkpoint
    tensors: tuple[TensorPlan, ...]
    shards: tuple[Shard, ...]
    tokenizer: Path
    memory: MemoryPlan
    warnings: tuple[str, ...]

    @property
    def nbytes_in(self) -> int:
        """Bytes of input that take part, each counted once."""
        return sum(source.nbytes for tensor in self.tensors for source in tensor.sources)

    @property
    def nbytes_read(self) -> int:
        """Bytes of weights that will be read: a second time where a tensor exceeds the memory budget.

        Not foreseen: a third pass for angles beyond |cosine| 0.9995 with a larger DOT_THRESHOLD.
        """
        return self.nbytes_in + sum(self._nbytes_read_again(tensor) for tensor in self.tensors)

    def _nbytes_read_again(self, tensor: TensorPlan) -> int:
        if tensor.action != "merge" or tensor.a.n_elements <= CHUNK_ELEMENTS:
            return 0
        n_again = max(0, tensor.a.n_elements - self.memory.kept_chunks * CHUNK_ELEMENTS)
        return n_again * sum(source.dtype.itemsize for source in tensor.sources)

    @property
    def peak_nbytes(self) -> int:
        """Largest resident memory of a process that does nothing but this merge, about."""
        return PROCESS_NBYTES + self.memory.nbytes

    @property
    def nbytes_written(self) -> int:
        """Bytes of the child's weight files."""
        return sum(shard.nbytes for shard in self.shards)


def make_plan(
    a: Checkpoint, b: Checkpoint, settings: MergeSettings, also: Sequence[Problem] = ()
) -> MergePlan:
    """Returns the plan for two opened checkpoints.

    Args:
        a: Parent a.
        b: Parent b.
        settings: The options.
        also: Problems found elsewhere, to be raised together with those found here.

    Raises:
        MismatchError: The parents do not belong together; all reasons at once.
        CheckpointError: A parent holds types that cannot be interpolated.
        FusionSlerpError: Of the class of the first of `also`.
    """
    problems, warnings = compare_configs(a, b)
    problems += compare_tensors(a, b)
    if not problems:
        problems, remarks = compare_vocabularies(a, b)
        warnings += remarks
    raise_all([*problems, *also])
    wanted = [Tensor(e.name, out, e.shape, e.n_elements * out.itemsize) for e, out in _typed(a, settings)]
    slots, shards = lay_out(wanted, settings.max_shard_nbytes)
    tensors = tuple(_tensor_plan(a, b, slot, settings.t) for slot in slots)
    tokenizer, remarks = choose_tokenizer(a, b, settings.tokenizer)
    warnings = [*a.warnings, *b.warnings, *warnings, *remarks]
    memory = _memory(tensors, settings)
    return MergePlan(settings, a, b, tensors, tuple(shards), tokenizer, memory, tuple(warnings))


def _memory(tensors: Sequence[TensorPlan], settings: MergeSettings) -> MemoryPlan:
    pairs = {sum(source.dtype.itemsize for source in tensor.sources) for tensor in tensors}
    merged = (tensor.a.n_elements for tensor in tensors if tensor.action == "merge")
    longest = len(chunks_of(max(merged, default=0)))
    return plan_memory(settings, pairs, {tensor.out.dtype.itemsize for tensor in tensors}, longest)


def _typed(a: Checkpoint, settings: MergeSettings) -> list[tuple[TensorEntry, DType]]:
    """Every tensor with the type it will have: parent a's, unless `dtype` says otherwise."""
    asked = BY_NAME[settings.dtype] if settings.dtype else None
    return [
        (entry, asked if asked and entry.dtype.is_mergeable else entry.dtype) for entry in a.tensors.values()
    ]


def _tensor_plan(a: Checkpoint, b: Checkpoint, slot: Slot, t: float) -> TensorPlan:
    entry, other = a.tensors[slot.name], b.tensors[slot.name]
    action: Action = "merge" if entry.dtype.is_mergeable else "copy if equal"
    if t in (0, 1):
        action = "copy b" if t else "copy a"
    return TensorPlan(action, t, entry, other, slot)
