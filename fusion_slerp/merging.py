"""A merge of which everything is decided, its run, and its result."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion_slerp.engine.many import are_alike
from fusion_slerp.engine.report import TensorReport, count_rules
from fusion_slerp.errors import printable, raise_all
from fusion_slerp.garbage import rare_searches
from fusion_slerp.interruption import deferred_signals, dies_by_signals
from fusion_slerp.output.child_files import write_beside, write_manifest, write_records, write_weights
from fusion_slerp.output.input_digests import Digests, hashed, input_files, with_digests
from fusion_slerp.output.journal import Identity
from fusion_slerp.output.manifest import weight_rows
from fusion_slerp.output.model_card import card_parent
from fusion_slerp.output.side_files import nbytes_of
from fusion_slerp.output.staging import Staging, staging
from fusion_slerp.output.target import check_disk_space
from fusion_slerp.output.unfinished import find_unfinished
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.planning.private_paths import SideFile
from fusion_slerp.settings.sizes import nbytes_text
from fusion_slerp.sources.folder import Checkpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What a merge made.

    Attributes:
        out: The merged model's folder.
        plan: What was decided before any weight was read.
        report: What happened to each tensor, in the order of the files.
        elapsed_s: Wall time in seconds: of the preparation and of the merge, not of what lay between them.
        n_resumed: Weight files that an interrupted run of the same merge had finished.
        nbytes_read: Bytes of weights that were read.
        nbytes_made: Bytes of weight files that were made, without those of the interrupted run.
    """

    out: Path
    plan: MergePlan
    report: tuple[TensorReport, ...]
    elapsed_s: float
    n_resumed: int = 0
    nbytes_read: int = 0
    nbytes_made: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """How many tensors were made by each rule."""
        return count_rules(self.report)

    def __str__(self) -> str:
        rules = ", ".join(f"{count} {rule}" for rule, count in self.counts.items())
        size = f"{nbytes_text(self.plan.nbytes_written)} in {self.elapsed_s:.1f} s"
        if self.n_resumed:
            size += f", {self.n_resumed} of {len(self.plan.shards)} files from an interrupted run"
        return f"{printable(self.out)}: {len(self.report)} tensors ({rules}), {size}"


@dataclass(frozen=True, slots=True)
class PreparedMerge:
    """A merge of which everything is decided and checked, and nothing is written.

    Attributes:
        target: The merged model's folder, an absolute real path.
        plan: What happens to every tensor.
        files: The files next to the weights.
        identity: What an interrupted merge must have in common with this one to be resumed.
        elapsed_s: Wall time of the preparation in seconds.
    """

    target: Path
    plan: MergePlan
    files: Mapping[str, SideFile]
    identity: Identity
    elapsed_s: float

    @property
    def parents(self) -> Mapping[str, Checkpoint]:
        """The models by label."""
        return self.plan.parents

    @property
    def fingerprints(self) -> Mapping[str, Any]:
        """What the models are recognised by, by label."""
        return self.identity["parents"]

    @property
    def nbytes_written(self) -> int:
        """Bytes of all files of the merged model but its card, manifest, report and index."""
        return self.plan.nbytes_written + sum(map(nbytes_of, self.files.values()))


@rare_searches()
def run_merge(prepared: PreparedMerge, made_with: str | None = None) -> MergeResult:
    """Does the rest of `merge`: reads, merges, writes and publishes; resumes where it was interrupted.

    Args:
        prepared: The merge.
        made_with: The program that runs it, in Markdown, which the card credits; None for fusion_slerp alone.
            Another program may resume the merge.
    """
    return run_merges([prepared], made_with)[0]


def run_merges(prepared: Sequence[PreparedMerge], made_with: str | None = None) -> list[MergeResult]:
    """Runs merges of the same models: from one reading, if they differ only in the values of options.

    Each merged model appears complete or not at all; those of one reading at its end.

    Args:
        prepared: The merges: of the same models in the same order, into different folders.
        made_with: As for `run_merge`.

    Returns:
        The results, in the same order; of one reading, the bytes read are those of all together.

    Raises:
        FusionSlerpError: As `merge`.
    """
    plans = [each.plan for each in prepared]
    if len(plans) > 1:
        raise_all(check_disk_space(prepared[0].target, sum(map(_needed, prepared))))
        if not are_alike(plans):
            return [run_merge(each, made_with) for each in prepared]
    started = time.perf_counter()
    first = prepared[0]
    inputs = input_files(first.plan.parents, first.fingerprints)
    for each in prepared:
        announce(each.plan)
    with (
        dies_by_signals(),
        deferred_signals(),
        ExitStack() as stack,
        hashed(inputs, first.plan.settings.hash_inputs) as digests,
    ):
        staged = [
            stack.enter_context(staging(each.target, each.identity, each.plan.settings.checksum))
            for each in prepared
        ]
        done = [set(each.finished) for each in staged]
        nbytes_read = write_weights(plans, staged)
        reports = [
            publish(each, own, digests(), made_with) for each, own in zip(prepared, staged, strict=True)
        ]
    nbytes_made = [_nbytes_made(own, resumed) for own, resumed in zip(staged, done, strict=True)]
    elapsed_s = time.perf_counter() - started
    return [
        MergeResult(
            each.target, each.plan, report, each.elapsed_s + elapsed_s, len(resumed), nbytes_read, made
        )
        for each, report, resumed, made in zip(prepared, reports, done, nbytes_made, strict=True)
    ]


def _nbytes_made(staged: Staging, resumed: Collection[str]) -> int:
    """Bytes of the weight files that this run made."""
    return sum(file.nbytes for file in staged.finished.values() if file.name not in resumed)


def _needed(prepared: PreparedMerge) -> int:
    """Bytes that a merge will take on the disk, beyond those that an interrupted run took."""
    left = find_unfinished(prepared.target)
    return prepared.nbytes_written - (left.nbytes if left else 0)


def publish(
    prepared: PreparedMerge, staged: Staging, digests: Digests, made_with: str | None
) -> tuple[TensorReport, ...]:
    """Writes what stands next to the weights, publishes the merged model, and returns its report."""
    plan, settings = prepared.plan, prepared.plan.settings
    weights = [staged.finished[shard.file_name] for shard in plan.shards]
    report = tuple(row for file in weights for row in file.reports)
    write_beside(staged.files, plan, prepared.files, prepared.identity["beside"])
    cards = {label: card_parent(parent) for label, parent in plan.parents.items()}
    write_records(staged.files, cards, settings, report, prepared.target.name, made_with)
    rows = weight_rows(weights, plan.shards, plan.slots, settings.checksum)
    sources = with_digests(prepared.fingerprints, digests)
    staged.publish(write_manifest(staged.files, sources, settings, *rows), settings.overwrite)
    return report


def announce(plan: MergePlan) -> None:
    """Logs what is merged, notes and warnings."""
    models = ", ".join(f"{label} = {parent.source}" for label, parent in plan.parents.items())
    values = ", ".join(
        f"{name} = {getattr(plan.settings.parameters, name)}" for name in plan.settings.schedules
    )
    log.info("merging by %s: %s; %s", plan.settings.method, models, values)
    for note in plan.notes:
        log.info("%s", note)
    for warning in plan.warnings:
        log.warning("%s", warning)
