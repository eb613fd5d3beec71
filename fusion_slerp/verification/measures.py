"""Norms and angles of the source models, measured again and compared with the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from math import cos, isclose, radians
from typing import Any

from fusion_slerp.engine.measuring import measure
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.engine.steps import OnBytes
from fusion_slerp.planning.amounts import MEASURING
from fusion_slerp.planning.plan import Merge, MergePlan, TensorPlan
from fusion_slerp.planning.rules import SUMS_IN_64_LANES
from fusion_slerp.settings.labels import BASE
from fusion_slerp.verification.findings import Deviation

SUMMED_OTHERWISE = 1e-12
"""Sums in a different order differ in their last digits: of matrices that were merged by rows or columns, and
of all tensors by older rules. Relative for norms, absolute for the cosines of angles.
"""


def is_measured(tensor: TensorPlan, plan: MergePlan) -> bool:
    """Whether norms and an angle in the report tell all of a tensor's sources.

    Not those of more than two: the report has the angle of the first two alone. Nor those of a base, from
    which differences are measured. Methods whose result is not in the span of the sources have no norms.
    """
    how = plan.settings.how
    units = tensor.work.units if isinstance(tensor.work, Merge) and how.is_in_span else {}
    are_two = all(len(owners) == 2 and BASE not in owners for owners in units)
    return are_two and any(how.n_passes(parameters)[0] for parameters in units.values())


def nbytes_measured(plan: MergePlan) -> int:
    """Returns the bytes that `check_measures` measures."""
    if not any(is_measured(tensor, plan) for tensor in plan.tensors):
        return 0
    return sum(tensor.nbytes_in for tensor in plan.tensors if tensor.is_merged)


def check_measures(
    plan: MergePlan, report: Mapping[str, Mapping[str, Any]], rules: int, on_bytes: OnBytes
) -> Iterator[Deviation | None]:
    """Measures the source models' tensors again; yields a deviation or None for each that is measured.

    Norms and angle are sums over every element, in float64 and in a fixed order: the same weights give
    the same numbers, to the last digit.

    Args:
        plan: The plan of the same merge.
        report: The rows of merge_report.json, by tensor.
        rules: The rules by which the model was merged.
        on_bytes: Called with the bytes just measured, the pass and the tensor.
    """
    tensors = {tensor.out.name: tensor for tensor in plan.tensors if is_measured(tensor, plan)}
    if not tensors:
        return
    with closing(measure(plan)) as measured:
        for measurement in measured:
            now = measurement.report
            on_bytes(measurement.nbytes, MEASURING, now.name)
            if now.name in tensors:
                before = report.get(now.name, {})
                yield _deviation(before, now, _tolerance(tensors[now.name], rules))


def _tolerance(tensor: TensorPlan, rules: int) -> float:
    by_tensor = not isinstance(tensor.work, Merge) or tensor.work.granularity == "tensor"
    return 0.0 if by_tensor and rules >= SUMS_IN_64_LANES else SUMMED_OTHERWISE


def _deviation(before: Mapping[str, Any], now: TensorReport, tolerance: float) -> Deviation | None:
    norms = before.get("norms", {})
    for label, norm in now.norms.items():
        if not _is_same(norms.get(label), norm, tolerance):
            difference = f"its norm is {norm}, was {norms.get(label)} when it was merged"
            return Deviation(f"{label}: weights", now.name, difference)
    if _is_same_angle(before.get("angle_deg"), now.angle_deg, tolerance):
        return None
    difference = f"the angle is {now.angle_deg}°, was {before.get('angle_deg')}° when it was merged"
    return Deviation(f"{' and '.join(list(now.norms)[:2])}: weights", now.name, difference)


def _is_same(before: Any, now: float | None, tolerance: float) -> bool:
    if before is None or now is None:
        return before is now
    return isinstance(before, (int, float)) and isclose(before, now, rel_tol=tolerance, abs_tol=tolerance)


def _is_same_angle(before: Any, now: float | None, tolerance: float) -> bool:
    """Compares cosines, if a tolerance is needed: small angles magnify an error in the sums."""
    if not tolerance or now is None or not isinstance(before, (int, float)):
        return _is_same(before, now, tolerance)
    return isclose(cos(radians(before)), cos(radians(now)), rel_tol=0.0, abs_tol=tolerance)
