"""Decides, from headers and configs alone, what happens to every tensor.

The plan is an immutable value. Everything that can be wrong with the user's input is found while
making it, and raised at once, before a byte of weights is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

from fusion_slerp.checkpoint.folder import Checkpoint
from fusion_slerp.checkpoint.header import TensorEntry
from fusion_slerp.checkpoint.shards import Shard, Slot, Tensor, lay_out
from fusion_slerp.chunks import CHUNK_ELEMENTS, chunks_of
from fusion_slerp.comparison import compare_configs, compare_tensors
from fusion_slerp.dtypes import BY_NAME
from fusion_slerp.errors import MismatchError, Problem, raise_all
from fusion_slerp.memory import PROCESS_NBYTES, MemoryPlan, plan_memory
from fusion_slerp.pairing import TensorPair, pair_tensors, tied_flag
from fusion_slerp.rows import RowRun, rows_of_entry, rows_of_slot
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
        a: The tensor in parent a; for a tensor that only b has, b's.
        b: The tensor in parent b; for a tensor that only a has, a's. In a parent that ties its head,
            the head is the embedding.
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
        tensors: Every tensor of the child, file by file in the order of their offsets; one whose
            rows follow different vocabularies in runs of rows.
        slots: Where every tensor of the child lies, as a whole.
        shards: The child's weight files.
        tokenizer: The folder that gives the child's tokenizer files.
        memory: The buffers that the merge will use.
        tied: Whether the child ties its head to its embedding; None where parent a's config holds.
        vocab_size: The child's number of rows; None where parent a's config holds.
        warnings: What the user should know, one line each.
    """

    settings: MergeSettings
    a: Checkpoint
    b: Checkpoint
    tensors: tuple[TensorPlan, ...]
    slots: tuple[Slot, ...]
    shards: tuple[Shard, ...]
    tokenizer: Path
    memory: MemoryPlan
    tied: bool | None
    vocab_size: int | None
    warnings: tuple[str, ...]

    @property
    def config_changes(self) -> dict[str, object]:
        """What the child's config.json says otherwise than parent a's."""
        changes = {
            "dtype": self.settings.dtype,
            "tie_word_embeddings": self.tied,
            "vocab_size": self.vocab_size,
        }
        return {key: value for key, value in changes.items() if value is not None}

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
    if settings.strict:
        problems += [_too_different(warning) for warning in warnings]
    pairing = pair_tensors(a, b, settings.missing)
    problems += [*pairing.problems, *compare_tensors(a, b, pairing.pairs)]
    runs = None
    if not problems:
        n_rows = _vocabulary_rows(pairing.pairs)
        tokens_of = "b" if settings.tokenizer == "b" else "union" if settings.tokenizer == "union" else "a"
        runs, problems, remarks = compare_vocabularies(a, b, n_rows, tokens_of)
        if not problems and runs is None and n_rows and n_rows[0] != n_rows[1]:
            problems = [_rows_without_tokens(a, b, n_rows)]
        warnings += remarks
    raise_all([*problems, *also])
    n_rows_out = runs[-1].first + runs[-1].count if runs else None
    resized = n_rows_out is not None and n_rows_out != a.config.get("vocab_size")
    wanted = [_wanted(pair, settings, n_rows_out) for pair in pairing.pairs]
    slots, shards = lay_out(wanted, settings.max_shard_nbytes)
    by_name = {pair.name: pair for pair in pairing.pairs}
    tensors = tuple(t for slot in slots for t in _tensor_plans(by_name[slot.name], slot, settings.t, runs))
    tokenizer, remarks = choose_tokenizer(a, b, settings.tokenizer)
    return MergePlan(
        settings,
        a,
        b,
        tensors,
        tuple(slots),
        tuple(shards),
        tokenizer,
        _memory(tensors, settings),
        tied=None if pairing.tied == tied_flag(a.config) else pairing.tied,
        vocab_size=n_rows_out if resized else None,
        warnings=(*a.warnings, *b.warnings, *pairing.remarks, *warnings, *remarks),
    )


def _vocabulary_rows(pairs: Sequence[TensorPair]) -> tuple[int, int] | None:
    """The rows of the parents' embeddings and heads; None if there are none, or of several lengths."""
    found = {
        (pair.a.shape[0], pair.b.shape[0])
        for pair in pairs
        if pair.follows_vocabulary and pair.a and pair.b and pair.a.shape and pair.b.shape
    }
    return found.pop() if len(found) == 1 else None


def _rows_without_tokens(a: Checkpoint, b: Checkpoint, n_rows: tuple[int, int]) -> Problem:
    fields = (("a", f"{n_rows[0]} rows, {a.folder}"), ("b", f"{n_rows[1]} rows, {b.folder}"))
    fix = "put the tokenizer files beside both models: they say which row belongs to which token"
    return Problem(MismatchError, f"the vocabularies differ: {n_rows[0]}, {n_rows[1]}", fields, fix)


def _too_different(warning: str) -> Problem:
    fix = "set strict: false to merge all the same"
    return Problem(MismatchError, warning, (), fix)


def _wanted(pair: TensorPair, settings: MergeSettings, n_rows: int | None) -> Tensor:
    """The tensor with the type it will have: parent a's, unless `dtype` says otherwise."""
    entry = _owner(pair)
    asked = BY_NAME[settings.dtype] if settings.dtype and entry.dtype.is_mergeable else None
    dtype = asked or entry.dtype
    shape = entry.shape
    if n_rows is not None and pair.follows_vocabulary and pair.a and pair.b:
        shape = (n_rows, *shape[1:])
    return Tensor(pair.name, dtype, shape, prod(shape) * dtype.itemsize)


def _owner(pair: TensorPair) -> TensorEntry:
    owner = pair.a or pair.b
    assert owner is not None, pair.name
    return owner


def _tensor_plans(
    pair: TensorPair, slot: Slot, t: float, runs: Sequence[RowRun] | None
) -> Iterator[TensorPlan]:
    """The tensor as a whole, or run by run of its rows."""
    if runs is None or not (pair.follows_vocabulary and pair.a and pair.b):
        yield _tensor_plan(pair, slot, t)
        return
    for run in runs:
        a = rows_of_entry(pair.a, run) if run.source != "b" else None
        b = rows_of_entry(pair.b, run) if run.source != "a" else None
        yield _tensor_plan(TensorPair(pair.name, a, b), rows_of_slot(slot, run), t)


def _tensor_plan(pair: TensorPair, slot: Slot, t: float) -> TensorPlan:
    if pair.a is None or pair.b is None:
        owner = _owner(pair)
        return TensorPlan("copy a" if pair.a else "copy b", t, owner, owner, slot)
    action: Action = "merge" if pair.a.dtype.is_mergeable else "copy if equal"
    if t in (0, 1):
        action = "copy b" if t else "copy a"
    return TensorPlan(action, t, pair.a, pair.b, slot)


def _memory(tensors: Sequence[TensorPlan], settings: MergeSettings) -> MemoryPlan:
    pairs = {sum(source.dtype.itemsize for source in tensor.sources) for tensor in tensors}
    merged = (tensor.a.n_elements for tensor in tensors if tensor.action == "merge")
    longest = len(chunks_of(max(merged, default=0)))
    return plan_memory(settings, pairs, {tensor.out.dtype.itemsize for tensor in tensors}, longest)
