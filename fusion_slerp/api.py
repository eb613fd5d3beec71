"""The front door: merge models to a folder, or into memory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusion_slerp.engine.executor import execute
from fusion_slerp.engine.progress import progress
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.errors import (
    FusionSlerpError,
    OutputError,
    Problem,
    SettingsError,
    raise_all,
)
from fusion_slerp.garbage import rare_searches
from fusion_slerp.merging import MergeResult, PreparedMerge, announce, run_merge
from fusion_slerp.output.identity import merge_identity
from fusion_slerp.output.input_digests import hashed, weight_files
from fusion_slerp.output.side_files import nbytes_of
from fusion_slerp.output.target import check_apart, check_disk_space, check_target
from fusion_slerp.output.unfinished import check_unfinished, find_unfinished
from fusion_slerp.paths import real_path
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.planning.planner import make_plan
from fusion_slerp.planning.resources import check_resources
from fusion_slerp.planning.side_files import side_files
from fusion_slerp.settings.bases import wrong_base
from fusion_slerp.settings.labels import BASE, labels
from fusion_slerp.settings.merge_options import MergeOptions
from fusion_slerp.settings.merge_settings import MergeSettings, make_settings
from fusion_slerp.settings.signatures import lists_options
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.opening import open_sources
from fusion_slerp.sources.regular_files import reading_models

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

Model = str | os.PathLike[str]
"""A folder, or a hub id, with `@revision` if wanted."""


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
    announce(plan)
    sink, reports = MemorySink(plan), dict[str, TensorReport]()
    inputs = weight_files(plan.parents)
    with progress([plan]) as on_bytes, hashed(inputs, plan.settings.hash_inputs) as digests:
        execute(
            plan,
            sink,
            lambda file: reports.update({report.name: report for report in file.reports}),
            on_bytes=on_bytes,
        )
        digests()
    return sink.state_dict(), tuple(reports[tensor.out.name] for tensor in plan.tensors)
