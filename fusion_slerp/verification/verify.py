"""The front door of verification: is a child still what was written, and what its parents make?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from fusion_slerp.errors import CheckpointError, Problem, SettingsError
from fusion_slerp.output.child_files import REPORT
from fusion_slerp.output.manifest import ManifestError, read_manifest
from fusion_slerp.output.unfinished import MANIFEST
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.planning.planner import make_plan
from fusion_slerp.settings.merge_settings import MergeSettings, settings_from
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.opening import open_source
from fusion_slerp.sources.regular_files import reading_models
from fusion_slerp.verification.files import check_files
from fusion_slerp.verification.findings import Deviation, Verification
from fusion_slerp.verification.parents import check_fingerprint, check_measures, locate, read_report
from fusion_slerp.verification.recompute import recompute as compare_again
from fusion_slerp.verification.recompute import sample

Count = int | Literal["all"]


def verify(
    folder: str | os.PathLike[str],
    *,
    inputs: bool = False,
    recompute: Count = 0,
    a: str | os.PathLike[str] | None = None,
    b: str | os.PathLike[str] | None = None,
    show_pbar: bool = False,
) -> Verification:
    """Compares a child with its manifest, and on request with its parents.

    One pass over the child at the speed of the disk, in constant memory: every file, and every tensor in
    it. What was not written by `merge` is found, too.

    Args:
        folder: The child's.
        inputs: Check the parents as well: headers and configs, and every weight that was merged, by the
            norms and angles in merge_report.json. One pass over both.
        recompute: So many tensors, chosen anew at each call, are merged again and compared bit by bit;
            `"all"` takes every one, which proves the child.
        a: Where parent a is now; None looks beside the child, or on the hub at the revision merged.
        b: Where parent b is now.
        show_pbar: Show bytes read on standard error.

    Returns:
        What deviates; `ok` if nothing does.

    Raises:
        SettingsError: `recompute` is no number of tensors.
        CheckpointError: There is no manifest, or a parent cannot be found or read.
    """
    started = time.perf_counter()
    if recompute != "all" and (type(recompute) is not int or recompute < 0):
        fields = (("found", repr(recompute)), ("needed", "a number of tensors, or all"))
        raise Problem(SettingsError, "recompute is not usable", fields, "set recompute: 10").error()
    place = Path(folder).expanduser().resolve()
    try:
        manifest = read_manifest(place)
    except ManifestError as error:
        if not (place / MANIFEST).is_file():
            raise _no_manifest(place).error() from None
        return Verification(place, (Deviation(MANIFEST, None, f"damaged: {error}"),), 1, 0, 0)
    total = sum(row["nbytes"] for row in manifest["files"].values())
    with _progress(total, show_pbar) as on_bytes:
        deviations = list(check_files(place, manifest, on_bytes))
    n_files, n_tensors = len(manifest["files"]) + 1, len(manifest["tensors"])
    result = Verification(place, tuple(deviations), n_files, n_tensors, total)
    if inputs or recompute:
        with reading_models():
            result = _with_parents(result, manifest, inputs, recompute, {"a": a, "b": b})
    return replace(result, elapsed_s=time.perf_counter() - started)


def _no_manifest(folder: Path) -> Problem:
    fields = (("folder", folder), ("needed", f"{MANIFEST}, which `merge` writes"))
    fix = "name the folder of a child that this version made"
    return Problem(CheckpointError, "nothing to verify by", fields, fix)


def _with_parents(
    result: Verification,
    manifest: Mapping[str, Any],
    inputs: bool,
    count: Count,
    given: Mapping[str, str | os.PathLike[str] | None],
) -> Verification:
    """The result with what the parents tell."""
    settings = _settings(manifest, result.folder)
    parents = _open_parents(manifest, result.folder, given)
    deviations = list(result.deviations)
    for side, parent in parents.items():
        deviations += check_fingerprint(side, parent, manifest["parents"][side])
    if len(deviations) > len(result.deviations):
        return replace(result, deviations=tuple(deviations))  # other parents: weights would tell no more
    plan = make_plan(parents["a"], parents["b"], settings)
    n_measured = 0
    if inputs:
        found = list(check_measures(plan, read_report(result.folder / REPORT)))
        n_measured, deviations = len(found), [*deviations, *(each for each in found if each)]
    chosen = _chosen(plan, inputs, count)
    deviations += compare_again(plan, chosen, result.folder)
    names = tuple(tensor.out.name for tensor in chosen)
    return replace(result, deviations=tuple(deviations), measured=n_measured, recomputed=names)


def _chosen(plan: MergePlan, inputs: bool, count: Count) -> Sequence[Any]:
    """The tensors to make again: the sample, and with `inputs` those that are copied, in whole or in part."""
    picked = {tensor.out.name for tensor in sample(plan.tensors, count)}
    return [
        tensor
        for tensor in plan.tensors
        if tensor.out.name in picked or (inputs and (tensor.action != "merge" or tensor.rows is not None))
    ]


def _settings(manifest: Mapping[str, Any], child: Path) -> MergeSettings:
    given = dict(manifest["settings"])
    beside = child.parent / str(given.get("tokenizer"))
    if given.get("tokenizer") not in ("a", "b", "union") and beside.is_dir():
        given["tokenizer"] = str(beside)
    return settings_from({**given, "follow_links": True})


def _open_parents(
    manifest: Mapping[str, Any],
    child: Path,
    given: Mapping[str, str | os.PathLike[str] | None],
) -> dict[str, Checkpoint]:
    found = {}
    for side, where in given.items():
        row = manifest["parents"][side]
        if "files" not in row:
            fields = (("model", f"{side}, {row['model']!r}"), ("found", "a model that was in memory"))
            fix = "leave out --inputs and --recompute"
            raise Problem(CheckpointError, "the parents were no checkpoints", fields, fix).error()
        place = locate(row, side, child, None if where is None else os.fspath(where))
        found[side] = open_source(place, follow_links=True)  # nothing is copied from them
    return found


@contextmanager
def _progress(total: int, is_shown: bool) -> Iterator[Callable[[int], object]]:
    if not is_shown:
        yield lambda nbytes: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="B", unit_scale=True, desc="verifying", mininterval=0.2) as bar:
        yield bar.update
