"""Whether the parents are still those that were merged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isclose
from pathlib import Path
from typing import Any

from fusion_slerp.engine.measuring import measure_pairs
from fusion_slerp.errors import CheckpointError, Problem
from fusion_slerp.output.identity import fingerprint
from fusion_slerp.output.manifest import LIMITS
from fusion_slerp.output.unfinished import differences
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.json_files import read_json
from fusion_slerp.verification.findings import Deviation

SUMMED_OTHERWISE = 1e-12
"""Matrices merged by rows or columns were summed in another order, so the last digits differ."""


def locate(row: Mapping[str, Any], side: str, child: Path, given: str | None) -> str:
    """Returns where a parent is: as the user says, on the hub, or beside the child under its own name.

    Raises:
        CheckpointError: It is a local folder, and not there.
    """
    if given is not None:
        return given
    name, revision = str(row["model"]), row.get("revision")
    if revision is not None:
        return f"{name}@{revision}"
    beside = child.parent / Path(name).name
    if beside.is_dir():
        return str(beside)
    fields = (("model", f"{side}, {name!r}, a local folder"), ("looked for", beside))
    fix = f"say where it is: --{side} FOLDER, or in Python {side}='FOLDER'"
    raise Problem(CheckpointError, "a parent is not beside the child", fields, fix).error()


def check_fingerprint(side: str, parent: Checkpoint, row: Mapping[str, Any]) -> list[Deviation]:
    """Returns how a parent differs from the one that was merged, as far as headers and config tell."""
    found = fingerprint(parent)
    return [
        Deviation(f"{side}: {name}", None, f"another file than was merged ({what})")
        for kind in ("beside", "files")
        for name in dict.fromkeys([*row[kind], *found[kind]])
        for what in _differences(row[kind].get(name), found[kind].get(name))[:1]
    ]


def _differences(before: Mapping[str, str] | None, now: Mapping[str, str] | None) -> list[str]:
    """How two rows differ. Only files in the hub's cache have a SHA-256; it counts if both have it."""
    if before and now and ("sha256" in before) != ("sha256" in now):
        before, now = ({k: v for k, v in each.items() if k != "sha256"} for each in (before, now))
    return differences(before, now)


def check_measures(plan: MergePlan, report: Mapping[str, Mapping[str, Any]]) -> Iterator[Deviation | None]:
    """Measures the parents' tensors again; yields one deviation or None for each.

    Norms and angle are sums over every element, in float64 and in a fixed order: the same weights give
    the same numbers, to the last digit. Tensors that were copied are not measured.

    Args:
        plan: Of the same merge.
        report: The rows of merge_report.json, by tensor.
    """
    granularity = {tensor.out.name: tensor.granularity for tensor in plan.tensors}
    for measurement in measure_pairs(plan):
        found = measurement.report
        if found.norm_a is None:
            continue
        row = report.get(found.name, {})
        tolerance = 0.0 if granularity[found.name] == "tensor" else SUMMED_OTHERWISE
        for key in ("norm_a", "norm_b", "angle_deg"):
            before, now = row.get(key), getattr(found, key)
            if not _same(before, now, tolerance):
                text = f"{key} is {now}, was {before} when it was merged"
                side = {"norm_a": "a", "norm_b": "b"}.get(key, "a and b")
                yield Deviation(f"{side}: weights", found.name, text)
                break
        else:
            yield None


def _same(before: Any, now: float | None, tolerance: float) -> bool:
    if before is None or now is None:
        return before is now
    return isinstance(before, (int, float)) and isclose(before, now, rel_tol=tolerance, abs_tol=tolerance)


def read_report(file: Path) -> dict[str, dict[str, Any]]:
    """Returns the rows of a merge_report.json by tensor; empty if it cannot be read."""
    try:
        return {row["name"]: row for row in read_json(file, LIMITS)["tensors"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
