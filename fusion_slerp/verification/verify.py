"""The front door of verification: is a model still what was written, and what its source models make?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from fusion_slerp.errors import CheckpointError, Problem, SettingsError
from fusion_slerp.output.child_settings import UNION
from fusion_slerp.output.manifest import ManifestError, NewerManifestError, read_manifest
from fusion_slerp.output.merge_report import REPORT, read_report
from fusion_slerp.output.unfinished import MANIFEST
from fusion_slerp.planning.plan import MergePlan, TensorPlan
from fusion_slerp.planning.planner import make_plan
from fusion_slerp.settings.merge_settings import MergeSettings, make_settings
from fusion_slerp.sources.regular_files import reading_models
from fusion_slerp.verification.files import check_files
from fusion_slerp.verification.findings import Deviation, Verification
from fusion_slerp.verification.measures import check_measures, is_measured
from fusion_slerp.verification.old_rules import check_rules, check_same_bytes, difference
from fusion_slerp.verification.parents import Given, check_fingerprint, open_parents
from fusion_slerp.verification.recompute import recompute as compare_again
from fusion_slerp.verification.recompute import sample

Count = int | Literal["all"]


def verify(
    folder: str | os.PathLike[str],
    *,
    inputs: bool = False,
    recompute: Count = 0,
    models: Given | None = None,
    show_pbar: bool = False,
) -> Verification:
    """Compares a merged model with its manifest, and on request with its source models.

    One pass over the model at the speed of the disk, in constant memory: every file, and every tensor in
    it. Files that `merge` did not write are found as well.

    Args:
        folder: The merged model's.
        inputs: Check the source models as well: headers and configs, and every weight that was merged, by the
            norms and angles in merge_report.json, or by merging it again where there are none. One pass
            over them.
        recompute: N tensors, chosen afresh at each call, are merged again and compared bit by bit;
            `"all"` takes every one, which proves the merged model.
        models: Where source models are now, by label: `{"a": "path/to/A"}`. The others are looked for on the
            hub at the revision merged, or next to the merged model.
        show_pbar: Show bytes read on standard error.

    Returns:
        What deviates; `ok` if nothing does.

    Raises:
        SettingsError: `recompute` is not a number of tensors, or `models` has a label that was not merged.
        CheckpointError: There is no manifest, or a newer one; source models cannot be found or read; or the
            model was merged by rules that make other bytes.
    """
    started = time.perf_counter()
    _check_count(recompute)
    place = Path(folder).expanduser().resolve()
    try:
        manifest = _manifest_of(place)
    except ManifestError as error:
        return Verification(place, (Deviation(MANIFEST, None, f"damaged: {error}"),), 1, 0, 0)
    total = sum(row["nbytes"] for row in manifest["files"].values())
    with _progress(total, show_pbar) as on_bytes:
        deviations = list(check_files(place, manifest, on_bytes))
    n_files, n_tensors = len(manifest["files"]) + 1, len(manifest["tensors"])
    result = Verification(place, tuple(deviations), n_files, n_tensors, total)
    if inputs or recompute:
        with reading_models():
            result = _with_parents(result, manifest, inputs, recompute, models or {})
    return replace(result, elapsed_s=time.perf_counter() - started)


def _check_count(recompute: object) -> None:
    if recompute != "all" and (type(recompute) is not int or recompute < 0):
        fields = (("found", repr(recompute)), ("needed", "a number of tensors, or all"))
        raise Problem(SettingsError, "invalid recompute", fields, "set recompute: 10").error()


def _manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest; a `ManifestError` says how it is damaged."""
    try:
        return read_manifest(folder)
    except NewerManifestError as error:
        raise _newer_manifest(folder, error).error() from None
    except ManifestError:
        if not (folder / MANIFEST).is_file():
            raise _no_manifest(folder).error() from None
        raise


def _no_manifest(folder: Path) -> Problem:
    fix = "name the folder of a merged model that fusion_slerp made"
    return Problem(CheckpointError, f"no {MANIFEST} to verify against", (("folder", folder),), fix)


def _newer_manifest(folder: Path, error: NewerManifestError) -> Problem:
    fields = (("file", folder / MANIFEST), ("found", error))
    fix = "update fusion_slerp, or verify with the version that made it"
    return Problem(CheckpointError, "the manifest is newer than this version", fields, fix)


def _with_parents(
    result: Verification, manifest: Mapping[str, Any], inputs: bool, count: Count, given: Given
) -> Verification:
    """The result with what the source models show."""
    check_rules(manifest)
    settings = _settings(manifest, result.folder)
    parents = open_parents(manifest["parents"], result.folder, given)
    deviations = list(result.deviations)
    for label, parent in parents.items():
        deviations += check_fingerprint(label, parent, manifest["parents"][label])
    if len(deviations) > len(result.deviations):
        return replace(result, deviations=tuple(deviations))  # other models: their weights would say no more
    plan = make_plan(parents, settings)
    if count:
        check_same_bytes(plan, manifest["rules"])
    n_measured = 0
    if inputs:
        measured = list(check_measures(plan, read_report(result.folder / REPORT)))
        n_measured, deviations = len(measured), [*deviations, *(each for each in measured if each)]
    chosen = _chosen(plan, inputs, count, manifest["rules"])
    deviations += compare_again(plan, chosen, result.folder)
    names = tuple(tensor.out.name for tensor in chosen)
    return replace(result, deviations=tuple(deviations), measured=n_measured, recomputed=names)


def _chosen(plan: MergePlan, inputs: bool, count: Count, rules: int) -> list[TensorPlan]:
    """The tensors to make again: the sample, and with `inputs` those of which measures say too little."""
    picked = {tensor.out.name for tensor in sample(plan.tensors, count)}
    return [
        tensor
        for tensor in plan.tensors
        if tensor.out.name in picked
        or (inputs and _needs_bytes(tensor, plan) and not difference(tensor, plan, rules))
    ]


def _needs_bytes(tensor: TensorPlan, plan: MergePlan) -> bool:
    """Whether it is copied, in whole or in part, or merged without measures."""
    return tensor.rows is not None or not is_measured(tensor, plan)


def _settings(manifest: Mapping[str, Any], child: Path) -> MergeSettings:
    given = dict(manifest["settings"])
    name = str(given.get("tokenizer"))
    beside = child.parent / name
    if name != UNION and name not in manifest["parents"] and beside.is_dir():
        given["tokenizer"] = str(beside)
    return make_settings(**{**given, "follow_links": True})


@contextmanager
def _progress(total: int, is_shown: bool) -> Iterator[Callable[[int], object]]:
    if not is_shown:
        yield lambda nbytes: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="B", unit_scale=True, desc="verifying", mininterval=0.2) as bar:
        yield bar.update
