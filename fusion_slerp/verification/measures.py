"""Norms and angles of the source models, measured again and compared with the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isclose
from typing import Any

from fusion_slerp.engine.measuring import measure
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.planning.plan import Merge, MergePlan, TensorPlan
from fusion_slerp.verification.findings import Deviation

SUMMED_OTHERWISE = 1e-12
"""Matrices merged by rows or columns were summed in a different order, so their last digits differ."""


def is_measured(tensor: TensorPlan, plan: MergePlan) -> bool:
    """Whether the merge of a tensor measures its sources, so that the report has their norms."""
    passes = plan.settings.how.passes
    return isinstance(tensor.work, Merge) and any(passes(unit)[0] for unit in tensor.work.units.values())


def check_measures(plan: MergePlan, report: Mapping[str, Mapping[str, Any]]) -> Iterator[Deviation | None]:
    """Measures the source models' tensors again; yields a deviation or None for each that is measured.

    Norms and angle are sums over every element, in float64 and in a fixed order: the same weights give
    the same numbers, to the last digit.

    Args:
        plan: The plan of the same merge.
        report: The rows of merge_report.json, by tensor.
    """
    tensors = {tensor.out.name: tensor for tensor in plan.tensors if is_measured(tensor, plan)}
    if not tensors:
        return
    for measurement in measure(plan):
        now = measurement.report
        if now.name in tensors:
            before = report.get(now.name, {})
            yield _deviation(before, now, _tolerance(tensors[now.name]))


def _tolerance(tensor: TensorPlan) -> float:
    by_tensor = not isinstance(tensor.work, Merge) or tensor.work.granularity == "tensor"
    return 0.0 if by_tensor else SUMMED_OTHERWISE


def _deviation(before: Mapping[str, Any], now: TensorReport, tolerance: float) -> Deviation | None:
    norms = before.get("norms", {})
    for label, norm in now.norms.items():
        if not _is_same(norms.get(label), norm, tolerance):
            difference = f"its norm is {norm}, was {norms.get(label)} when it was merged"
            return Deviation(f"{label}: weights", now.name, difference)
    if _is_same(before.get("angle_deg"), now.angle_deg, tolerance):
        return None
    difference = f"the angle is {now.angle_deg}°, was {before.get('angle_deg')}° when it was merged"
    return Deviation(f"{' and '.join(list(now.norms)[:2])}: weights", now.name, difference)


def _is_same(before: Any, now: float | None, tolerance: float) -> bool:
    if before is None or now is None:
        return before is now
    return isinstance(before, (int, float)) and isclose(before, now, rel_tol=tolerance, abs_tol=tolerance)
