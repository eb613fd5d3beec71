"""The front door: merge models to a folder, or into memory."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_slerp.engine.executor import execute
from fusion_slerp.engine.progress import progress
from fusion_slerp.engine.report import TensorReport, count_rules
from fusion_slerp.errors import (
    FusionSlerpError,
    OutputError,
    Problem,
    SettingsError,
    printable,
    raise_all,
)
from fusion_slerp.garbage import rare_searches
from fusion_slerp.interruption import dies_by_signals
from fusion_slerp.output.child_files import write_beside, write_manifest, write_records, write_weights
from fusion_slerp.output.identity import merge_identity
from fusion_slerp.output.input_digests import hashed, input_files, weight_files, with_digests
from fusion_slerp.output.journal import Identity
from fusion_slerp.output.manifest import weight_rows
from fusion_slerp.output.model_card import card_parent
from fusion_slerp.output.side_files import nbytes_of
from fusion_slerp.output.staging import staging
from fusion_slerp.output.target import check_apart, check_disk_space, check_target
from fusion_slerp.output.unfinished import check_unfinished, find_unfinished
from fusion_slerp.paths import real_path
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.planning.planner import make_plan
from fusion_slerp.planning.private_paths import SideFile
from fusion_slerp.planning.resources import check_resources
from fusion_slerp.planning.side_files import side_files
from fusion_slerp.settings.bases import wrong_base
from fusion_slerp.settings.labels import BASE, labels
from fusion_slerp.settings.merge_options import MergeOptions
from fusion_slerp.settings.merge_settings import MergeSettings, make_settings
from fusion_slerp.settings.signatures import lists_options
from fusion_slerp.settings.sizes import nbytes_text
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.opening import open_sources
from fusion_slerp.sources.regular_files import reading_models

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

log = logging.getLogger(__name__)

Model = str | os.PathLike[str]
"""A folder, or a hub id, with `@revision` if wanted."""


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


@lists_options
def plan_merge(*models: Model, base: Model | None = None, **options: Unpack[MergeOptions]) -> MergePlan:
    """Returns what `merge` would do, from headers and configs alone; writes nothing.

    Args:
        *models: The models, in their order: a, b, c, ...
        base: Their ancestor, for a method that takes one.
        **options: The options of the merge; see `MergeSettings` and the method's.

    Raises:
        FusionSlerpError: As `merge`.
    """
    settings = make_settings(**options)
    with reading_models(), rare_searches():
        return make_plan(open_parents(models, base, settings), settings)


def open_parents(
    models: Sequence[Model], base: Model | None, settings: MergeSettings
) -> dict[str, Checkpoint]:
    """Opens the models and labels them; what is wrong with any is raised together.

    Raises:
        SettingsError: The method takes no base, needs one, or an option does; or the base is one of the
            models.
        CheckpointError: A model cannot be opened.
    """
    raise_all(wrong_base(base, settings))
    named = dict(zip(labels(len(models)), models, strict=True)) | ({BASE: base} if base is not None else {})
    parents = open_sources(named, settings.follow_links)
    raise_all(list(_bases_among(parents)))
    return parents


def _bases_among(parents: Mapping[str, Checkpoint]) -> Iterator[Problem]:
    """The problems with models that are the base, which mergekit's recipes name among the models."""
    for label, parent in parents.items():
        if label != BASE and BASE in parents and parent.folder.samefile(parents[BASE].folder):
            fields = (("model", parent.source), ("base", parents[BASE].source))
            fix = f"leave {parent.source} out of the models: its difference from the base is zero"
            yield Problem(SettingsError, f"model {label} is the base", fields, fix)


@lists_options
def merge(
    *models: Model, out: Model, base: Model | None = None, **options: Unpack[MergeOptions]
) -> MergeResult:
    """Merges causal language models into the folder `out`, streaming.

    The folder appears complete or not at all. If the merge is interrupted, the same call resumes where
    it stopped. Memory use depends neither on the size of the models nor on that of their largest tensor.

    Args:
        *models: The models, in their order: a, b, c, ... Each a folder, or a hub id, with `@revision` if
            wanted. SLERP, the default method, takes two: the first is t = 0, the second t = 1.
        out: The merged model's folder; must not exist unless `overwrite` says otherwise.
        base: Their ancestor, for a method that takes one.
        **options: The options of the merge; see `MergeSettings` and the method's.

    Raises:
        SettingsError: An option is unknown or has an invalid value, or the method takes another number of
            models.
        CheckpointError: A model is missing, damaged, quantised, or holds NaN or infinity.
        MismatchError: The models do not belong together.
        OutputError: The merged model cannot be written at `out`.
    """
    return run_merge(prepare_merge(models, out, base, **options))


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
def prepare_merge(
    models: Sequence[Model], out: Model, base: Model | None = None, **options: Any
) -> PreparedMerge:
    """Does all of `merge` that comes before the first weight; arguments and errors are the same."""
    started = time.perf_counter()
    settings = make_settings(**options)
    target = real_path(out, OutputError)
    parents = open_parents(models, base, settings)
    folders = {parent.folder: f"model {label}" for label, parent in reversed(parents.items())}
    problems = check_apart(target, folders) + check_target(target, settings.overwrite, out)
    try:
        with reading_models():
            plan = make_plan(parents, settings)
            files = side_files(next(iter(parents.values())), plan.tokenizer, plan.configs)
            identity = merge_identity(parents, plan, files)
            needed = plan.nbytes_written + sum(map(nbytes_of, files.values()))
    except FusionSlerpError as error:
        raise_all([error, *problems])
        raise
    problems += check_apart(target, {plan.tokenizer.folder: "the tokenizer"})
    problems += check_unfinished(target, identity, settings.overwrite)
    left = find_unfinished(target)  # its space is reused, or freed before anything is written
    needed -= left.nbytes if left else 0
    raise_all(problems + check_disk_space(target, needed) + check_resources(plan))
    return PreparedMerge(target, plan, files, identity, time.perf_counter() - started)


@rare_searches()
def run_merge(prepared: PreparedMerge, made_with: str | None = None) -> MergeResult:
    """Does the rest of `merge`: reads, merges, writes and publishes; resumes where it was interrupted.

    Args:
        prepared: The merge.
        made_with: The program that runs it, in Markdown, which the card credits; None for fusion_slerp alone.
            Another program may resume the merge.
    """
    started = time.perf_counter()
    plan, target, settings = prepared.plan, prepared.target, prepared.plan.settings
    _announce(plan)
    inputs = input_files(plan.parents, prepared.fingerprints)
    with (
        dies_by_signals(),
        staging(target, prepared.identity, settings.checksum) as staged,
        hashed(inputs, settings.hash_inputs) as digests,
    ):
        done = set(staged.finished)
        nbytes_read = write_weights(plan, staged)
        weights = [staged.finished[shard.file_name] for shard in plan.shards]
        report = tuple(row for file in weights for row in file.reports)
        write_beside(staged.files, plan, prepared.files, prepared.identity["beside"])
        cards = {label: card_parent(parent) for label, parent in plan.parents.items()}
        write_records(staged.files, cards, settings, report, target.name, made_with)
        rows = weight_rows(weights, plan.shards, plan.slots, settings.checksum)
        sources = with_digests(prepared.fingerprints, digests())
        digest = write_manifest(staged.files, sources, settings, *rows)
        staged.publish(digest, settings.overwrite)
    elapsed_s = prepared.elapsed_s + time.perf_counter() - started
    made = sum(file.nbytes for file in weights if file.name not in done)
    return MergeResult(target, plan, report, elapsed_s, len(done), nbytes_read, made)


@lists_options
def merge_into_memory(
    *models: Model, base: Model | None = None, **options: Unpack[MergeOptions]
) -> tuple[dict[str, torch.Tensor], tuple[TensorReport, ...]]:
    """Merges causal language models into a state dict; needs the merged model's size in memory.

    Args:
        *models: As for `merge`.
        base: As for `merge`.
        **options: The options of the merge; see `MergeSettings` and the method's.

    Returns:
        The tensors by name, on the CPU, and what happened to each.

    Raises:
        FusionSlerpError: As `merge`, except for the output; SettingsError if the memory does not suffice.
    """
    return run_in_memory(plan_merge(*models, base=base, **options))


def run_in_memory(plan: MergePlan) -> tuple[dict[str, torch.Tensor], tuple[TensorReport, ...]]:
    """Runs a plan as `merge_into_memory` does."""
    from fusion_slerp.engine.memory_sink import MemorySink

    raise_all(check_resources(plan, is_in_memory=True))
    _announce(plan)
    sink, reports = MemorySink(plan), dict[str, TensorReport]()
    inputs = weight_files(plan.parents)
    with progress(plan) as on_bytes, hashed(inputs, plan.settings.hash_inputs) as digests:
        execute(
            plan,
            sink,
            lambda file: reports.update({report.name: report for report in file.reports}),
            on_bytes=on_bytes,
        )
        digests()
    return sink.state_dict(), tuple(reports[tensor.out.name] for tensor in plan.tensors)


def _announce(plan: MergePlan) -> None:
    models = ", ".join(f"{label} = {parent.source}" for label, parent in plan.parents.items())
    values = ", ".join(
        f"{name} = {getattr(plan.settings.parameters, name)}" for name in plan.settings.schedules
    )
    log.info("merging by %s: %s; %s", plan.settings.method, models, values)
    for note in plan.notes:
        log.info("%s", note)
    for warning in plan.warnings:
        log.warning("%s", warning)
