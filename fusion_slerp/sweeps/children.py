"""The merged models of a sweep's points, each in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusion_slerp.api import prepare_merge
from fusion_slerp.errors import FusionSlerpError, raise_all
from fusion_slerp.merging import MergeResult, PreparedMerge, run_merges
from fusion_slerp.output.child_settings import child_settings
from fusion_slerp.output.manifest import ManifestError, read_manifest
from fusion_slerp.output.target import check_disk_space
from fusion_slerp.planning.rules import RULES
from fusion_slerp.settings.merge_settings import make_settings
from fusion_slerp.sweeps.points import Values, point_name
from fusion_slerp.sweeps.preparing import PreparedSweep


def children(prepared: Sequence[PreparedMerge]) -> list[MergeResult]:
    """Merges models into their folders from one reading, if they differ only in the values of options.

    Raises:
        FusionSlerpError: As `run_merges`. Models that are complete stay, and the next run resumes the others.
    """
    return run_merges(prepared) if prepared else []


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
