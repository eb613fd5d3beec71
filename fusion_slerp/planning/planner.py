"""Decides, from headers, configs and tokenizers, what happens to every tensor.

Everything that can be wrong with the user's input is found here and raised at once, before a weight
is merged. Weights are compared in one case only: a head that is stored beside the embedding it is
tied to (`pairing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.dtypes import BY_NAME
from fusion_slerp.errors import MismatchError, Problem, listed, raise_all
from fusion_slerp.planning.child_config import child_configs
from fusion_slerp.planning.compatibility import compare_configs, compare_tensors
from fusion_slerp.planning.layout import Shard, Slot, Tensor, lay_out
from fusion_slerp.planning.matching import Pairing, TensorPair, pair_tensors, tied_flag
from fusion_slerp.planning.memory import MemoryPlan, plan_memory
from fusion_slerp.planning.plan import Action, MergePlan, TensorPlan
from fusion_slerp.planning.stacking import t_by_name, take_slices
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.header import TensorEntry
from fusion_slerp.vocabulary.alignment import Alignment, align_vocabularies
from fusion_slerp.vocabulary.rows import NOBODY, ZERO, RowMap


def make_plan(a: Checkpoint, b: Checkpoint, settings: MergeSettings) -> MergePlan:
    """Returns the plan for two opened checkpoints.

    Args:
        a: Parent a.
        b: Parent b.
        settings: The options.

    Raises:
        MismatchError: The parents do not belong together; all reasons at once.
        CheckpointError: A parent holds types that cannot be interpolated.
    """
    files = a
    a, b, problems = _sliced(a, b, settings)
    raise_all(problems)
    problems, warnings = compare_configs(a, b)
    if settings.strict:
        problems += [_too_different(warning) for warning in warnings]
    pairing = pair_tensors(a, b, settings.missing)
    problems += [*pairing.problems, *compare_tensors(a, b, pairing.pairs)]
    raise_all(problems)
    vocabulary = _align(a, b, settings, pairing.pairs)
    tensors, shards, remarks = _tensors(pairing.pairs, settings, vocabulary)
    configs, more = child_configs(
        files, b, _config_changes(a, files, settings, pairing, vocabulary), vocabulary.alignment
    )
    return MergePlan(
        settings,
        a,
        b,
        tensors,
        shards,
        configs,
        vocabulary.alignment.tokenizer,
        _memory(tensors, settings),
        (*a.warnings, *b.warnings, *pairing.remarks, *warnings, *vocabulary.remarks, *remarks, *more),
    )


def _sliced(
    a: Checkpoint, b: Checkpoint, settings: MergeSettings
) -> tuple[Checkpoint, Checkpoint, list[Problem]]:
    """The parents with the layers that the child is made from."""
    if settings.layer_slices is None:
        return a, b, []
    a, problems_a = take_slices(a, settings.layer_slices, "a")
    b, problems_b = take_slices(b, settings.layer_slices, "b")
    return a, b, [*problems_a, *problems_b]


def _too_different(warning: str) -> Problem:
    return Problem(MismatchError, warning, (), "set strict: false to merge all the same")


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """The rows of every tensor that follows the vocabulary.

    Attributes:
        alignment: What the tokens come to.
        rows: By name of the tensor; those whose rows are all merged in place are not there.
        n_rows: Rows of the child's embedding; None if they are not changed.
        remarks: What the user should know.
    """

    alignment: Alignment
    rows: dict[str, RowMap]
    n_rows: int | None
    remarks: tuple[str, ...]


def _align(a: Checkpoint, b: Checkpoint, settings: MergeSettings, pairs: Sequence[TensorPair]) -> _Vocabulary:
    alignment = align_vocabularies(a, b, settings)
    following = [pair for pair in pairs if pair.follows_vocabulary]
    counts = [(_n_rows(pair.a), _n_rows(pair.b)) for pair in following]
    usual = next((c for c in counts if all(c)), None)
    if usual is None:
        if alignment.a != alignment.b:
            raise _unknown_embedding(a, b).error()
        return _Vocabulary(alignment, {}, None, alignment.remarks)
    if settings.strict and not alignment.is_certain and usual[0] != usual[1]:
        raise _rows_without_tokens(a, b, usual).error()
    rows, remarks = {}, dict.fromkeys(alignment.remarks)
    known: dict[tuple[int, int], RowMap | None] = {}
    for pair, (of_a, of_b) in zip(following, counts, strict=True):
        full = (of_a or usual[0], of_b or usual[1])
        if full not in known:
            known[full] = found = alignment.rows(full)
            remarks |= dict.fromkeys(alignment.describe(found, full) if found is not None else [])
        found = known[full]
        if found is None:
            continue
        if not all(entry.dtype.is_mergeable for entry in (pair.a, pair.b) if entry):
            raise _not_aligned(pair).error()
        rows[pair.name] = _without_absent(found, pair)
    n_rows = alignment.n_rows(usual) if rows else None
    return _Vocabulary(alignment, rows, n_rows, tuple(remarks))


def _n_rows(entry: TensorEntry | None) -> int:
    return entry.shape[0] if entry and entry.shape else 0


def _without_absent(rows: RowMap, pair: TensorPair) -> RowMap:
    """No rows of a parent that lacks the tensor."""
    a, b = (
        of if entry else np.where(of == ZERO, ZERO, NOBODY)
        for of, entry in ((rows.a, pair.a), (rows.b, pair.b))
    )
    return RowMap(a, b)


def _unknown_embedding(a: Checkpoint, b: Checkpoint) -> Problem:
    fields = (("a", a.folder), ("b", b.folder), ("found", "no tensor with the name of an embedding in both"))
    fix = "merge models that share one tokenizer; rows of different tokens must not be mixed"
    return Problem(MismatchError, "the tokenizers differ", fields, fix)


def _rows_without_tokens(a: Checkpoint, b: Checkpoint, n_rows: tuple[int, int]) -> Problem:
    fields = (("a", f"{n_rows[0]} rows, {a.folder}"), ("b", f"{n_rows[1]} rows, {b.folder}"))
    fix = "put the tokenizer files beside both models: they say which row belongs to which token"
    return Problem(MismatchError, f"the vocabularies differ: {n_rows[0]}, {n_rows[1]}", fields, fix)


def _not_aligned(pair: TensorPair) -> Problem:
    fields = (("tensor", pair.name), ("needed", "floating-point rows"))
    fix = "merge models that share one tokenizer"
    return Problem(MismatchError, "the tokenizers differ, and rows of integers cannot follow", fields, fix)


def _config_changes(
    a: Checkpoint, files: Checkpoint, settings: MergeSettings, pairing: Pairing, vocabulary: _Vocabulary
) -> dict[str, object]:
    """What the child's config.json says otherwise than parent a's in its files."""
    changes = {
        **{key: value for key, value in a.config.items() if files.config.get(key) != value},
        "dtype": settings.dtype,
        "tie_word_embeddings": None if pairing.tied == tied_flag(a.config) else pairing.tied,
        "vocab_size": None if vocabulary.n_rows == a.config.get("vocab_size") else vocabulary.n_rows,
    }
    return {key: value for key, value in changes.items() if value is not None}


def _tensors(
    pairs: Sequence[TensorPair], settings: MergeSettings, vocabulary: _Vocabulary
) -> tuple[tuple[TensorPlan, ...], tuple[Shard, ...], list[str]]:
    wanted = [_wanted(pair, settings, vocabulary.rows.get(pair.name)) for pair in pairs]
    slots, shards = lay_out(wanted, settings.max_shard_nbytes)
    by_name = {pair.name: pair for pair in pairs}
    t_of = t_by_name(by_name, settings.schedule, settings.layer_slices)
    without = [name for name, t in t_of.items() if t is None]
    remarks = [f"no entry of t matches, parent a is kept: {listed(without, 3)}"] if without else []
    tensors = (
        _tensor(by_name[slot.name], slot, t_of[slot.name] or 0.0, vocabulary.rows.get(slot.name), settings)
        for slot in slots
    )
    return tuple(tensors), tuple(shards), remarks


def _wanted(pair: TensorPair, settings: MergeSettings, rows: RowMap | None) -> Tensor:
    """The tensor with the type it will have: parent a's, unless `dtype` says otherwise."""
    entry = _owner(pair)
    asked = BY_NAME[settings.dtype] if settings.dtype and entry.dtype.is_mergeable else None
    dtype = asked or entry.dtype
    shape = entry.shape if rows is None else (len(rows), *entry.shape[1:])
    return Tensor(pair.name, dtype, shape, prod(shape) * dtype.itemsize)


def _owner(pair: TensorPair) -> TensorEntry:
    owner = pair.a or pair.b
    assert owner is not None, pair.name
    return owner


def _tensor(
    pair: TensorPair, slot: Slot, t: float, rows: RowMap | None, settings: MergeSettings
) -> TensorPlan:
    a, b = pair.a or _owner(pair), pair.b or _owner(pair)
    action: Action = "merge" if a.dtype.is_mergeable else "copy if equal"
    if t in (0, 1):
        action = "copy b" if t else "copy a"
    if rows is not None:
        rows, counts = rows.without_shared(t), rows.counts
        if not counts.merged:
            action = "copy a" if counts.from_a >= counts.from_b else "copy b"
    elif pair.a is None or pair.b is None:
        action = "copy a" if pair.a else "copy b"
    is_matrix = len(a.shape) == 2 and rows is None and 0 < a.row_elements <= CHUNK_ELEMENTS
    by_vector = action == "merge" and is_matrix
    return TensorPlan(action, t, a, b, slot, rows, settings.granularity if by_vector else "tensor")


def _memory(tensors: Sequence[TensorPlan], settings: MergeSettings) -> MemoryPlan:
    pairs = {sum(source.dtype.itemsize for source in tensor.sources) for tensor in tensors}
    merged = (tensor.out.n_elements for tensor in tensors if tensor.action == "merge")
    longest = -(-max(merged, default=0) // CHUNK_ELEMENTS)
    return plan_memory(settings, pairs, {tensor.out.dtype.itemsize for tensor in tensors}, longest)
