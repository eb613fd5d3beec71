"""The front door: merge two checkpoints to a folder, or into memory."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_slerp.engine.executor import execute
from fusion_slerp.engine.memory_sink import MemorySink
from fusion_slerp.engine.progress import progress
from fusion_slerp.engine.report import TensorReport, count_rules
from fusion_slerp.errors import FusionSlerpError, raise_all
from fusion_slerp.interruption import dies_by_signals
from fusion_slerp.output.child_files import write_beside, write_manifest, write_records, write_weights
from fusion_slerp.output.identity import merge_identity
from fusion_slerp.output.journal import Identity
from fusion_slerp.output.manifest import weight_rows
from fusion_slerp.output.model_card import card_parent
from fusion_slerp.output.place import check_apart, check_place, check_room
from fusion_slerp.output.side_files import SideFile, nbytes_of, side_files
from fusion_slerp.output.staging import staging
from fusion_slerp.output.unfinished import check_unfinished, find_unfinished
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.planning.planner import make_plan
from fusion_slerp.planning.resources import check_resources
from fusion_slerp.settings.merge_settings import MergeSettings, settings_from
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.opening import open_source
from fusion_slerp.sources.regular_files import reading_models

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What a merge made.

    Attributes:
        out: The child's folder.
        plan: What was decided before any weight was read.
        report: What happened to each tensor, in the order of the child's files.
        elapsed_s: Wall time in seconds, reading headers to the published folder.
        n_resumed: Weight files that an interrupted run of the same merge had finished.
    """

    out: Path
    plan: MergePlan
    report: tuple[TensorReport, ...]
    elapsed_s: float
    n_resumed: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """How many tensors were made by each rule."""
        return count_rules(self.report)

    def __str__(self) -> str:
        rules = ", ".join(f"{count} {rule}" for rule, count in self.counts.items())
        size = f"{self.plan.nbytes_written / 1e9:.2f} GB in {self.elapsed_s:.1f} s"
        if self.n_resumed:
            size += f", {self.n_resumed} of {len(self.plan.shards)} files from an interrupted run"
        return f"{self.out}: {len(self.report)} tensors ({rules}), {size}"


def plan_merge(a: str | os.PathLike[str], b: str | os.PathLike[str], **options: Any) -> MergePlan:
    """Returns what `merge` would do, from headers and configs alone; writes nothing.

    Args:
        a: Parent a (t = 0): a folder, or a hub id, with `@revision` if wanted.
        b: Parent b (t = 1).
        **options: The fields of `MergeSettings`.

    Raises:
        FusionSlerpError: As `merge`.
    """
    settings = settings_from(options)
    with reading_models():
        return make_plan(*_open_both(a, b, settings), settings)


def _open_both(
    a: str | os.PathLike[str], b: str | os.PathLike[str], settings: MergeSettings
) -> tuple[Checkpoint, Checkpoint]:
    """Opens both parents; what is wrong with either is raised together."""
    opened, failures = [], []
    for source in (a, b):
        try:
            opened.append(open_source(source, settings.follow_links))
        except FusionSlerpError as error:
            failures.append(error)
    raise_all(failures)
    return opened[0], opened[1]


def merge(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    **options: Any,
) -> MergeResult:
    """Merges two causal language models into the folder `out`, streaming.

    The folder appears complete or not at all. If the merge is interrupted, the same call goes on where
    it stopped. Memory use depends neither on the size of the models nor on that of their largest tensor.

    Args:
        a: Parent a (t = 0): a folder, or a hub id, with `@revision` if wanted.
        b: Parent b (t = 1).
        out: The child's folder; must not exist unless `overwrite=True`.
        **options: The fields of `MergeSettings`.

    Raises:
        SettingsError: An option is unknown or has no usable value.
        CheckpointError: A parent is missing, damaged, quantised, or holds NaN or infinity.
        MismatchError: The parents do not belong together.
        OutputError: The child cannot be written at `out`.
    """
    return run_merge(prepare_merge(a, b, out, **options))


@dataclass(frozen=True, slots=True)
class PreparedMerge:
    """A merge of which everything is decided and checked, and nothing is written.

    Attributes:
        target: The child's folder, an absolute real path.
        parents: Both, with all their layers.
        plan: What happens to every tensor.
        files: The files beside the weights.
        identity: What an interrupted merge must have in common with this one to be gone on with.
        started: When the preparation began, on `time.perf_counter`.
    """

    target: Path
    parents: tuple[Checkpoint, Checkpoint]
    plan: MergePlan
    files: Mapping[str, SideFile]
    identity: Identity
    started: float

    @property
    def fingerprints(self) -> dict[str, Any]:
        """What the parents are recognised by."""
        return {side: self.identity[side] for side in ("a", "b")}

    @property
    def nbytes_written(self) -> int:
        """Bytes of all files of the child but its card, manifest, report and index."""
        return self.plan.nbytes_written + sum(map(nbytes_of, self.files.values()))


def prepare_merge(
    a: str | os.PathLike[str], b: str | os.PathLike[str], out: str | os.PathLike[str], **options: Any
) -> PreparedMerge:
    """Does all of `merge` that comes before the first weight; arguments and errors are the same."""
    started = time.perf_counter()
    settings = settings_from(options)
    target = Path(out).expanduser().resolve()
    parents = _open_both(a, b, settings)
    folders = {parents[1].folder: "model b", parents[0].folder: "model a"}
    problems = check_apart(target, folders) + check_place(target, settings.overwrite)
    try:
        with reading_models():
            plan = make_plan(*parents, settings)
            files = side_files(plan.a, plan.tokenizer, plan.configs)
            identity = merge_identity(parents, plan, files)
            prepared = PreparedMerge(target, parents, plan, files, identity, started)
            needed = prepared.nbytes_written
    except FusionSlerpError as error:
        raise_all([error, *problems])
        raise
    problems += check_apart(target, {plan.tokenizer.folder: "the tokenizer"})
    problems += check_unfinished(target, identity, settings.overwrite)
    left = find_unfinished(target)  # its room is gone on with, or given back before anything is written
    needed -= left.nbytes if left else 0
    raise_all(problems + check_room(target, needed) + check_resources(plan))
    return prepared


def run_merge(prepared: PreparedMerge) -> MergeResult:
    """Does the rest of `merge`: reads, merges, writes and publishes; goes on where it was interrupted."""
    plan, target, settings = prepared.plan, prepared.target, prepared.plan.settings
    _announce(plan)
    with dies_by_signals(), staging(target, prepared.identity, settings.checksum) as staged:
        n_before = len(staged.finished)
        write_weights(plan, staged)
        weights = [staged.finished[shard.file_name] for shard in plan.shards]
        report = tuple(row for file in weights for row in file.reports)
        write_beside(staged.files, plan, prepared.files, prepared.identity["beside"])
        cards = [card_parent(parent) for parent in prepared.parents]
        write_records(staged.files, cards, settings, report, target.name)
        rows = weight_rows(weights, plan.shards, plan.slots, settings.checksum)
        digest = write_manifest(staged.files, prepared.fingerprints, settings, *rows)
        staged.publish(digest, settings.overwrite)
    return MergeResult(target, plan, report, time.perf_counter() - prepared.started, n_before)


def merge_into_memory(
    a: str | os.PathLike[str], b: str | os.PathLike[str], **options: Any
) -> tuple[dict[str, torch.Tensor], tuple[TensorReport, ...]]:
    """Merges two causal language models into a state dict; needs the child's size in memory.

    Args:
        a: Parent a (t = 0): a folder, or a hub id, with `@revision` if wanted.
        b: Parent b (t = 1).
        **options: The fields of `MergeSettings`.

    Returns:
        The child's tensors by name, on the CPU, and what happened to each.

    Raises:
        FusionSlerpError: As `merge`, except for the output.
    """
    return run_in_memory(plan_merge(a, b, **options))


def run_in_memory(plan: MergePlan) -> tuple[dict[str, torch.Tensor], tuple[TensorReport, ...]]:
    """Runs a plan as `merge_into_memory` does."""
    _announce(plan)
    sink = MemorySink(plan)
    with progress(plan) as on_bytes:
        report = tuple(execute(plan, sink, on_bytes))
    return sink.state_dict(), report


def _announce(plan: MergePlan) -> None:
    a, b, t = plan.a.source, plan.b.source, plan.settings.t
    log.info("merging %s (a, t = 0) and %s (b, t = 1) at t = %s", a, b, t)
    for warning in plan.warnings:
        log.warning("%s", warning)
