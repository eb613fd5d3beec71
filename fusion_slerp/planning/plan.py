"""What will happen to every tensor: an immutable value, made by `planning` and run by `execute`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fusion_slerp.chunks import CHUNK_ELEMENTS, Chunk, chunks_of, chunks_of_rows
from fusion_slerp.planning.layout import Shard, Slot
from fusion_slerp.planning.memory import PROCESS_NBYTES, TORCH_NBYTES, MemoryPlan
from fusion_slerp.settings.merge_settings import Granularity, MergeSettings
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.header import TensorEntry
from fusion_slerp.vocabulary.child_tokenizer import ChildTokenizer
from fusion_slerp.vocabulary.rows import RowMap

Action = Literal["merge", "copy a", "copy b", "copy if equal"]


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """What happens to one tensor.

    Attributes:
        action: `"merge"`; `"copy a"` and `"copy b"` at the ends of t; `"copy if equal"` for
            types that are never interpolated (integers, booleans).
        t: Where between the parents, in [0, 1].
        a: The tensor in parent a; for a tensor that only b has, b's.
        b: The tensor in parent b; for a tensor that only a has, a's. In a parent that ties its head,
            the head is the embedding.
        out: Its place in the child.
        rows: Where each of its rows comes from, if the vocabularies differ; the action is then that of
            the rows that both parents have. None where all rows are treated alike, in place.
        granularity: What has an angle of its own: the tensor, each of its rows, or each column.
    """

    action: Action
    t: float
    a: TensorEntry
    b: TensorEntry
    out: Slot
    rows: RowMap | None = None
    granularity: Granularity = "tensor"

    @property
    def takes_both(self) -> bool:
        """Whether elements of both parents meet, to be merged or compared."""
        return self.action in ("merge", "copy if equal")

    @property
    def sources(self) -> tuple[TensorEntry, ...]:
        """The tensors that are read: one for a plain copy, else both."""
        if self.takes_both:
            return (self.a, self.b)
        if self.rows is not None:
            found = ((self.a, self.rows.a), (self.b, self.rows.b))
            return tuple(entry for entry, rows in found if (rows >= 0).any())
        return (self.a,) if self.action == "copy a" else (self.b,)

    @property
    def chunks(self) -> list[Chunk]:
        """The pieces that are worked on one at a time: of whole rows, where rows or columns have angles."""
        if self.granularity == "tensor":
            return chunks_of(self.out.n_elements)
        return chunks_of_rows(self.out.n_elements, self.a.row_elements)

    @property
    def nbytes_in(self) -> int:
        """Bytes of input that take part, each counted once."""
        if self.rows is None:
            return sum(source.nbytes for source in self.sources)
        found = ((self.a, self.rows.a), (self.b, self.rows.b))
        return sum(int((r >= 0).sum()) * e.row_elements * e.dtype.itemsize for e, r in found)


@dataclass(frozen=True, slots=True)
class MergePlan:
    """Everything that a merge will do.

    Attributes:
        settings: The options it was made with.
        a: Parent a, t = 0.
        b: Parent b, t = 1.
        tensors: Every tensor of the child, file by file in the order of their offsets.
        shards: The child's weight files.
        configs: config.json and generation_config.json: where from, or their content.
        tokenizer: The child's tokenizer files.
        memory: The buffers that the merge will use.
        warnings: What the user should know, one line each.
    """

    settings: MergeSettings
    a: Checkpoint
    b: Checkpoint
    tensors: tuple[TensorPlan, ...]
    shards: tuple[Shard, ...]
    configs: Mapping[str, Path | bytes]
    tokenizer: ChildTokenizer
    memory: MemoryPlan
    warnings: tuple[str, ...]

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Where every tensor of the child lies."""
        return tuple(tensor.out for tensor in self.tensors)

    @property
    def nbytes_in(self) -> int:
        """Bytes of input that take part, each counted once."""
        return sum(tensor.nbytes_in for tensor in self.tensors)

    @property
    def nbytes_read(self) -> int:
        """Bytes of weights that will be read: a second time where a tensor exceeds the memory budget.

        Not foreseen: a third pass for angles beyond |cosine| 0.9995 with a larger DOT_THRESHOLD.
        """
        return self.nbytes_in + sum(self._nbytes_read_again(tensor) for tensor in self.tensors)

    def _nbytes_read_again(self, tensor: TensorPlan) -> int:
        if tensor.granularity == "row" or tensor.action != "merge":
            return 0
        if tensor.granularity == "column":
            return tensor.nbytes_in
        if tensor.out.n_elements <= CHUNK_ELEMENTS and tensor.rows is None:
            return 0
        n_again = max(0, tensor.out.n_elements - self.memory.kept_chunks * CHUNK_ELEMENTS)
        return n_again * sum(source.dtype.itemsize for source in tensor.sources)

    @property
    def peak_nbytes(self) -> int:
        """Largest resident memory of a process that does nothing but this merge, about."""
        of_torch = any(entry.file.suffix == ".bin" for p in (self.a, self.b) for entry in p.tensors.values())
        return PROCESS_NBYTES + self.memory.nbytes + (TORCH_NBYTES if of_torch else 0)

    @property
    def nbytes_written(self) -> int:
        """Bytes of the child's weight files."""
        return sum(shard.nbytes for shard in self.shards)
