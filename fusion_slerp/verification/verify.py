"""The entry point of verification: is a model still what was written, and what its source models make?"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from fusion_slerp.engine.progress import following
from fusion_slerp.errors import CheckpointError, Problem, SettingsError, not_an_option, setting
from fusion_slerp.output.child_settings import UNION
from fusion_slerp.output.manifest import ManifestError, NewerManifestError, read_manifest
from fusion_slerp.output.merge_report import REPORT, read_report
from fusion_slerp.output.unfinished import MANIFEST
from fusion_slerp.paths import Named, real_path, refusal
from fusion_slerp.planning.amounts import MEASURING, nbytes_processed
from fusion_slerp.planning.plan import MergePlan, TensorPlan
from fusion_slerp.planning.planner import make_plan
from fusion_slerp.settings.merge_settings import MergeSettings, ShowPbar, make_settings
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.regular_files import reading_models
from fusion_slerp.verification.files import VERIFYING, check_files
from fusion_slerp.verification.findings import Deviation, Verification
from fusion_slerp.verification.measures import check_measures, is_measured, nbytes_measured
from fusion_slerp.verification.old_rules import check_experts, check_rules, check_same_bytes, difference
from fusion_slerp.verification.parents import (
    HASHING,
    Given,
    check_digests,
    check_fingerprint,
    nbytes_hashed,
    neighbours,
    open_parents,
)
from fusion_slerp.verification.recompute import RECOMPUTING, sample
from fusion_slerp.verification.recompute import recompute as compare_again

Count = int | Literal["all"]


def verify(
    folder: Named,
    *,
    inputs: bool = False,
    recompute: Count = 0,
    models: Given | Named | None = None,
    show_pbar: ShowPbar = False,
) -> Verification:
    """Compares a merged model with its manifest, and on request with its source models.

    Reads the model once, at the speed of the disk and in constant memory: every file, and every tensor in
    it. Files that `merge` did not write are reported as well.

    Args:
        folder: The merged model's folder.
        inputs: Check the source models as well: headers, configs and tokenizers, and every weight that was
            merged: by the norms and the angle in merge_report.json if it was measured in two models without a
            base, else by merging it again. Reads them once, or as often as a merge; and once more if the
            manifest has the SHA-256 of their weight files, which a merge with `hash_inputs` computes.
        recompute: N tensors, chosen afresh at each call, are merged again and compared bit by bit;
            `"all"` takes every one, which proves the merged model.
        models: Where source models are now, by label: `{"a": "path/to/A"}`; or a recipe, which names them.
            Others are looked for next to the merged model and in the current folder, and models of the Hub
            also in its cache and online, at the revision that was merged.
        show_pbar: Show the pass, bytes, rate and time left on standard error: True as a bar, `"json"` as JSON
            lines. Reading the merged model and its source models each have their own.

    Returns:
        What deviates; `ok` if nothing does.

    Raises:
        SettingsError: `recompute` is not a number of tensors, `models` has a label that was not merged, or
            the recipe cannot be read.
        CheckpointError: There is no manifest, or a newer one; source models cannot be found or read; or the
            model was merged by rules that make different bytes.
    """
    started = time.perf_counter()
    _check_count(recompute)
    given = _given(models)
    child = real_path(folder, CheckpointError)
    try:
        manifest = _manifest_of(child)
    except ManifestError as error:
        return Verification(child, (Deviation(MANIFEST, None, f"damaged: {error}"),), 1, 0, 0)
    total = sum(row["nbytes"] for row in manifest["files"].values())
    with following("verify", {VERIFYING: total}, show_pbar) as shown:
        deviations = list(check_files(child, manifest, shown))
    n_files, n_tensors = len(manifest["files"]) + 1, len(manifest["tensors"])
    result = Verification(child, tuple(deviations), n_files, n_tensors, total)
    if inputs or recompute:
        check_rules(manifest)
        with reading_models():
            command = _command(os.fspath(folder), inputs, recompute, given)
            parents = open_parents(manifest["parents"], child, given, command)
            result = _with_parents(result, manifest, inputs, recompute, parents, show_pbar)
    return replace(result, elapsed_s=time.perf_counter() - started)


def _check_count(recompute: object) -> None:
    if recompute != "all" and (type(recompute) is not int or recompute < 0):
        fields = (("found", repr(recompute)), ("needed", "a number of tensors, or all"))
        fix = f"use {setting('recompute', 10)}"
        raise Problem(SettingsError, "invalid recompute", fields, fix).error()


def _given(models: Given | Named | None) -> Given:
    if models is None or isinstance(models, Mapping):
        return models or {}
    from fusion_slerp.recipes import read_recipe

    return read_recipe(models).named


def _command(folder: str, inputs: bool, count: Count, given: Given) -> list[str]:
    """The words of the command that does the same."""
    words = ["fusion_slerp", "verify", not_an_option(folder)]
    words += ["--inputs"] if inputs else []
    words += ["--recompute", str(count)] if count else []
    return words + [
        word for label, each in given.items() for word in ("--model", f"{label}={os.fspath(each)}")
    ]


def _manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest; a `ManifestError` says how it is damaged."""
    try:
        return read_manifest(folder)
    except NewerManifestError as error:
        raise _newer_manifest(folder, error).error() from None
    except ManifestError:
        if not os.path.isfile(folder / MANIFEST):
            raise _no_manifest(folder).error() from None
        raise


def _no_manifest(folder: Path) -> Problem:
    refused = refusal(folder / MANIFEST)
    found = [("found", refused.strerror)] if refused else []
    fix = "name the folder of a model that fusion_slerp merged"
    return Problem(CheckpointError, f"no {MANIFEST} to verify against", (("folder", folder), *found), fix)


def _newer_manifest(folder: Path, error: NewerManifestError) -> Problem:
    fields = (("file", folder / MANIFEST), ("found", error))
    fix = "update fusion_slerp, or verify with the version that made it"
    return Problem(CheckpointError, "the manifest is newer than this version", fields, fix)


def _with_parents(
    result: Verification,
    manifest: Mapping[str, Any],
    inputs: bool,
    count: Count,
    parents: Mapping[str, Checkpoint],
    show_pbar: ShowPbar,
) -> Verification:
    """The result with the deviations that the source models reveal."""
    settings = _settings(manifest, result.folder)
    deviations = list(result.deviations)
    for label, parent in parents.items():
        deviations += check_fingerprint(label, parent, manifest["parents"][label])
    result = replace(result, models=len(parents))
    if len(deviations) > len(result.deviations):
        return replace(result, deviations=tuple(deviations))  # different models: their weights add nothing
    plan = make_plan(parents, settings)
    check_experts(plan, manifest)
    if count:
        check_same_bytes(plan, manifest["rules"])
    chosen = _chosen(plan, inputs, count, manifest["rules"])
    totals = _totals(plan, chosen, parents, manifest, inputs)
    with following("verify inputs", totals, show_pbar) as shown:
        if inputs:
            hashed = list(check_digests(parents, manifest["parents"], shown))
            report = read_report(result.folder / REPORT)
            measured = list(check_measures(plan, report, manifest["rules"], shown))
            deviations += [each for each in (*hashed, *measured) if each]
            left_out = _n_left_out(plan, manifest["rules"])
            result = replace(
                result, hashed=len(hashed), measured=len(measured), left_out=left_out, inputs=True
            )
        deviations += compare_again(plan, chosen, result.folder, shown)
    names = tuple(tensor.out.name for tensor in chosen)
    return replace(result, deviations=tuple(deviations), recomputed=names)


def _totals(
    plan: MergePlan,
    chosen: Sequence[TensorPlan],
    parents: Mapping[str, Checkpoint],
    manifest: Mapping[str, Any],
    inputs: bool,
) -> dict[str, int]:
    """The bytes that checks of the source models will process, by pass."""
    again = sum(nbytes_processed(tensor, plan.settings) for tensor in chosen)
    if not inputs:
        return {RECOMPUTING: again}
    hashed = nbytes_hashed(parents, manifest["parents"])
    return {HASHING: hashed, MEASURING: nbytes_measured(plan), RECOMPUTING: again}


def _chosen(plan: MergePlan, inputs: bool, count: Count, rules: int) -> list[TensorPlan]:
    """The tensors to merge again: the sample, and with `inputs` those that measures cannot prove."""
    picked = {tensor.out.name for tensor in sample(plan.tensors, count)}
    return [
        tensor
        for tensor in plan.tensors
        if tensor.out.name in picked
        or (inputs and _needs_bytes(tensor, plan) and not difference(tensor, plan, rules))
    ]


def _n_left_out(plan: MergePlan, rules: int) -> int:
    """How many tensors are neither measured nor merged again, as the rules differ."""
    return sum(
        _needs_bytes(tensor, plan) and bool(difference(tensor, plan, rules)) for tensor in plan.tensors
    )


def _needs_bytes(tensor: TensorPlan, plan: MergePlan) -> bool:
    """Whether a tensor is copied, in whole or in part, or merged without measures."""
    return tensor.rows is not None or not is_measured(tensor, plan)


def _settings(manifest: Mapping[str, Any], child: Path) -> MergeSettings:
    given = dict(manifest["settings"])
    name = str(given.get("tokenizer"))
    if name != UNION and name not in manifest["parents"] and "/" not in name:  # a folder's, or a hub id
        folders = (str(folder) for folder in neighbours(name, child) if os.path.isdir(folder))
        given["tokenizer"] = next(folders, name)
    return make_settings(**{**given, "follow_links": True})
