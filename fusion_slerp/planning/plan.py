"""The plan: how every tensor will be made. An immutable value, built by `planner` and run by the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from fusion_slerp.chunks import CHUNK_ELEMENTS, Chunk, chunks_of, chunks_of_rows
from fusion_slerp.planning.amounts import nbytes_read
from fusion_slerp.planning.layout import Shard, Slot
from fusion_slerp.planning.memory import (
    ORDER_NBYTES,
    PROCESS_NBYTES,
    SELECTION_NBYTES,
    TORCH_NBYTES,
    MemoryPlan,
)
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.header import TensorEntry
from fusion_slerp.sources.parts import Block
from fusion_slerp.sources.source import Source
from fusion_slerp.vocabulary.child_tokenizer import ChildTokenizer
from fusion_slerp.vocabulary.rows import Owners, RowMap


@dataclass(frozen=True, slots=True)
class Copy:
    """The tensor is copied from one model.

    Attributes:
        of: Its label.
        why: `"values"`, `"owner"`, `"equal"` or `"no entry"`; see `TensorReport`.
    """

    of: str
    why: str

    def __str__(self) -> str:
        return f"copy {self.of}"


@dataclass(frozen=True, slots=True)
class CopyIfEqual:
    """The tensor is copied, and must be equal in all models: its type is never interpolated."""

    def __str__(self) -> str:
        return "copy if equal"


@dataclass(frozen=True, slots=True)
class Merge:
    """The tensor is merged by the method, unit by unit.

    Attributes:
        units: The method's parameters by the labels of the sources: one unit for a tensor, or one for each
            set of owners of its rows.
        granularity: The method's unit within each of these: the tensor, each of its rows, each column, or
            each `BOX` of a block.
        needs_rows: Whether chunks consist of whole rows although the tensor is one unit.
    """

    units: Mapping[Owners, Any]
    granularity: str = "tensor"
    needs_rows: bool = False

    def __str__(self) -> str:
        return "merge"


BOX = "box"
"""The granularity of a `Block`: each matrix is a unit."""

Work = Copy | CopyIfEqual | Merge


class TensorPlan(NamedTuple):
    """How one tensor is made.

    Attributes:
        out: Its position in the merged model.
        sources: The tensors that are read, by label: one for a plain copy. In a model that ties its head, the
            head is the embedding.
        work: The operation.
        values: The method's options that vary from tensor to tensor, with their values for this one.
        rows: The source of each of its rows, if the vocabularies differ; the operation then applies to
            the rows that several models have. None if all rows are treated alike, in place.
    """

    out: Slot
    sources: Mapping[str, Source]
    work: Work
    values: Mapping[str, Any]
    rows: RowMap | None = None

    @property
    def is_merged(self) -> bool:
        """Whether the method is applied."""
        return isinstance(self.work, Merge)

    @property
    def is_verbatim(self) -> bool:
        """Whether it has the bytes of a stored tensor, so that they can be read to where they are written."""
        if type(self.work) is not Copy or self.rows is not None:
            return False
        (source,) = self.sources.values()
        return isinstance(source, TensorEntry) and source.dtype == self.out.dtype

    @property
    def width(self) -> int:
        """Elements of a row, along the first dimension."""
        return self.out.row_elements

    @property
    def chunks(self) -> list[Chunk]:
        """The pieces that are written one at a time: of whole rows, if rows or columns are units."""
        if isinstance(self.work, Merge) and self.work.granularity != "tensor":
            width = self.period if self.work.granularity == BOX else self.width
            return chunks_of_rows(self.out.n_elements, width)
        if isinstance(self.work, Merge) and self.work.needs_rows and self.width <= CHUNK_ELEMENTS:
            return chunks_of_rows(self.out.n_elements, self.width)
        return chunks_of(self.out.n_elements)

    @property
    def period(self) -> int:
        """In a block, the elements after which it returns to its first matrix: 1 if it has only one."""
        source = next(iter(self.sources.values()))
        assert isinstance(source, Block), self.out.name
        return source.period if len(source.boxes) > 1 else 1

    @property
    def is_large(self) -> bool:
        """Whether it is processed in its own chunks, not in a batch with its neighbours."""
        by_tensor = not isinstance(self.work, Merge) or self.work.granularity == "tensor"
        return not by_tensor or self.out.n_elements > CHUNK_ELEMENTS or self.rows is not None

    def needs_mean(self, vocab_fill: str) -> bool:
        """Whether rows that no model has become the mean of all others."""
        if self.rows is None or vocab_fill not in ("owner", "mean"):
            return False
        return bool((self.rows.filled & ~self.rows.zero).any())

    @property
    def nbytes_in(self) -> int:
        """Bytes of input that take part, each counted once."""
        if self.rows is None:
            return sum(source.nbytes for source in self.sources.values())
        return sum(
            int((self.rows.of[label] >= 0).sum()) * self.width * source.dtype.itemsize
            for label, source in self.sources.items()
        )


def _is_in_another_order(tensor: TensorPlan) -> bool:
    """Whether elements of a source are not neighbours in its file, in the order in which they are needed."""
    return any(getattr(s, "strides", None) or isinstance(s, Block) for s in tensor.sources.values())


@dataclass(frozen=True)
class MergePlan:
    """A complete merge, decided before any weight is read.

    Attributes:
        settings: The options.
        parents: The models, by label, as stored.
        tensors: Every tensor of the merged model, file by file in the order of their offsets; a tensor of all
            experts matrix by matrix, or expert by expert.
        shards: The merged model's weight files.
        configs: config.json and generation_config.json: the path to copy, or the content.
        tokenizer: The merged model's tokenizer files.
        memory: The buffers that the merge will use.
        warnings: Warnings for the user, one line each.
        notes: Defaults that models get next to others with values of their own, and how the rows of differing
            vocabularies are made; one line each.
    """

    settings: MergeSettings
    parents: Mapping[str, Checkpoint]
    tensors: tuple[TensorPlan, ...]
    shards: tuple[Shard, ...]
    configs: Mapping[str, Path | bytes]
    tokenizer: ChildTokenizer
    memory: MemoryPlan
    warnings: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The position of everything that `tensors` lists."""
        return tuple(tensor.out for tensor in self.tensors)

    @property
    def stored(self) -> tuple[Slot, ...]:
        """The position of every tensor of the merged model's files: of experts, several entries of `tensors`
        make up one.
        """
        return tuple(slot for shard in self.shards for slot in shard.tensors)

    @cached_property
    def parts(self) -> frozenset[str]:
        """The names in `tensors` that are a part of a stored tensor."""
        return frozenset(slot.name for slot in self.slots).difference(slot.name for slot in self.stored)

    @property
    def nbytes_in(self) -> int:
        """Bytes of input that take part, each counted once."""
        return sum(tensor.nbytes_in for tensor in self.tensors)

    @cached_property
    def nbytes_read(self) -> int:
        """Bytes of weights that will be read; see `nbytes_read_most` for the exceptions."""
        return sum(nbytes_read(tensor, self.settings, self.memory.kept_chunks)[0] for tensor in self.tensors)

    @cached_property
    def nbytes_read_most(self) -> int:
        """Maximum of bytes read: angles near 0 or π and extreme float64 values require further passes."""
        return sum(nbytes_read(tensor, self.settings, self.memory.kept_chunks)[1] for tensor in self.tensors)

    @property
    def peak_nbytes(self) -> int:
        """Estimated peak of resident memory of a process that runs only this merge."""
        of_torch = any(file.suffix == ".bin" for parent in self.parents.values() for file in parent.files)
        of_order = self.memory.workers * ORDER_NBYTES if any(map(_is_in_another_order, self.tensors)) else 0
        of_selection = 0 if self.settings.how.is_in_span else self.memory.workers * SELECTION_NBYTES
        of_method = of_order + of_selection
        return PROCESS_NBYTES + self.memory.nbytes + (TORCH_NBYTES if of_torch else 0) + of_method

    @property
    def nbytes_written(self) -> int:
        """Bytes of the merged model's weight files."""
        return sum(shard.nbytes for shard in self.shards)
