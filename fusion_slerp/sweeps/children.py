"""The merged models of a sweep's points, each in a folder of its own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusion_slerp.api import Model, prepare_merge
from fusion_slerp.cluster.merging import run_shared_merge
from fusion_slerp.cluster.ranks import ALONE, Ranks
from fusion_slerp.errors import FusionSlerpError, OutputError, Problem, listed, raise_all
from fusion_slerp.merging import MergeResult, PreparedMerge, run_merges
from fusion_slerp.output.child_settings import child_settings
from fusion_slerp.output.manifest import ManifestError, read_manifest
from fusion_slerp.output.target import check_disk_space
from fusion_slerp.paths import real_path
from fusion_slerp.planning.rules import RULES
from fusion_slerp.settings.merge_settings import make_settings
from fusion_slerp.sweeps.points import Values, point_name
from fusion_slerp.sweeps.preparing import PreparedSweep

LOOK_EVERY_S = 0.1
"""Between two looks at folders that another machine has made."""


def share_children(
    sweep: PreparedSweep, prepared: Sequence[PreparedMerge], ranks: Ranks = ALONE
) -> list[MergeResult]:
    """Merges models into their folders from one reading, if they differ only in the values of options.

    Args:
        sweep: The sweep.
        prepared: The merges of some of its points; those of rank 0 count.
        ranks: The processes, to which the models are dealt; each reads the source models once.

    Returns:
        The results of this process.

    Raises:
        FusionSlerpError: As `run_merges`. Models that are complete stay, and the next run resumes the others.
    """
    targets = ranks.on_first(lambda: [str(each.target) for each in prepared])
    own = targets[ranks.rank :: ranks.count]

    def make() -> list[MergeResult]:
        merges = prepared[:: ranks.count] if ranks.is_first else [_child_at(sweep, Path(out)) for out in own]
        return run_merges(merges) if merges else []

    results = ranks.on_all(make)
    ranks.on_first(lambda: _wait_for(targets, ranks.timeout_s / 2))
    return results


def _child_at(sweep: PreparedSweep, target: Path) -> PreparedMerge:
    """Prepares the merge of the point that a folder is named after."""
    (values,) = (values for values in sweep.points if point_name(values) == target.name)
    return prepare_child(sweep, values, target)


def _wait_for(targets: Sequence[str], limit_s: float) -> None:
    """Returns when this machine sees what all have made: some file systems show new folders late.

    Raises:
        OutputError: It does not within some seconds.
    """
    until = time.monotonic() + limit_s
    while missing := [out for out in targets if not os.path.isdir(out)]:
        if time.monotonic() > until:
            fields = (("missing", listed(missing, 3)),)
            fix = "choose an output folder on a file system that all machines of the job share"
            headline = "rank 0 does not see merged models that other processes have made"
            raise Problem(OutputError, headline, fields, fix).error()
        time.sleep(LOOK_EVERY_S)


def prepare_children(sweep: PreparedSweep, folder: Path, is_resumed: bool) -> list[PreparedMerge]:
    """Prepares the merges of all points that are not in the folder yet.

    Args:
        sweep: The sweep.
        folder: An absolute path; each model gets a folder of its point's name in it.
        is_resumed: Whether the sweep is one that an earlier run began, which may have made some.

    Raises:
        FusionSlerpError: All that is wrong with any, or they do not fit on the disk together.
    """
    prepared, problems = [], []
    for values in sweep.points:
        target = folder / point_name(values)
        if is_resumed and is_made(sweep, values, target):
            continue
        try:
            prepared.append(prepare_child(sweep, values, target))
        except FusionSlerpError as error:
            problems.append(error)
    if prepared and not problems:
        problems += check_disk_space(folder, sum(each.nbytes_written for each in prepared))
    raise_all(problems)
    return prepared


def prepare_child(sweep: PreparedSweep, values: Values, target: Path) -> PreparedMerge:
    """Prepares the merge of one point."""
    return prepare_merge(sweep.models, target, sweep.base, **sweep.options_at(values))


def prepare_best(sweep: PreparedSweep, known: Iterable[Values], folder: Model | None) -> Path | None:
    """Returns where the best point's merged model goes, which was checked; writes nothing.

    Args:
        sweep: The sweep.
        known: The points of which an earlier run of the sweep may have written one there.
        folder: The folder; None writes none.

    Raises:
        FusionSlerpError: It cannot be written there.
    """
    if folder is None:
        return None
    target = real_path(folder, OutputError)
    if not any(is_made(sweep, values, target) for values in known):
        prepare_child(sweep, sweep.points[0], target)  # any point will do for the checks of the folder
    return target


def save_best(
    sweep: PreparedSweep,
    best: Values | None,
    target: Path | None,
    may_exist: bool = True,
    ranks: Ranks = ALONE,
) -> None:
    """Writes the best point's merged model, unless it is there.

    Args:
        sweep: The sweep.
        best: The point; None writes nothing.
        target: As from `prepare_best`; that of rank 0 counts.
        may_exist: Whether an earlier run may have written it; likewise.
        ranks: The processes, which make it together.
    """

    def missing() -> str | None:
        if best is None or target is None or (may_exist and is_made(sweep, best, target)):
            return None
        return str(target)

    out = ranks.on_first(missing)
    if best is not None and out is not None:
        prepared = ranks.on_all(lambda: prepare_child(sweep, best, Path(out)))
        run_shared_merge(prepared, ranks)


def is_made(sweep: PreparedSweep, values: Values, target: Path) -> bool:
    """Whether a folder holds the merged model of a point: by its manifest, without reading weights."""
    try:
        manifest = read_manifest(target)
    except ManifestError:
        return False
    settings = json.loads(json.dumps(child_settings(make_settings(**sweep.options_at(values)))))
    identity = sweep.record.identity
    parents = {label: _without_digests(each) for label, each in manifest["parents"].items()}
    known = {label: _without_digests(each) for label, each in identity["parents"].items()}
    return manifest["rules"] == RULES and manifest["settings"] == settings and parents == known


def _without_digests(parent: Mapping[str, Any]) -> dict[str, Any]:
    """A model's row in a manifest, without the digests of weights that one merge computes and another not."""
    files = {name: (row["nbytes"], row["tensors"]) for name, row in parent["files"].items()}
    return {"model": parent["model"], "revision": parent.get("revision"), "files": files}
