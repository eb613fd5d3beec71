"""How two checkpoints differ: whether they can be merged, and their angles and norms by layer and module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

from fusion_slerp.engine.measuring import measure
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.errors import FusionSlerpError
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.planning.planner import make_plan
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.tensor_names import layer_of, module_of

MOST = 5
"""Tensors of the largest angle that are named."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Several tensors as one.

    Attributes:
        angle_deg: The mean of their angles, weighted by elements.
        norm_a: Euclidean norm of all of them in the first model.
        norm_b: In the second.
    """

    angle_deg: float
    norm_a: float
    norm_b: float

    @property
    def ratio(self) -> float | None:
        """Norm of the second over that of the first."""
        return self.norm_b / self.norm_a if self.norm_a else None


@dataclass(frozen=True, slots=True)
class Difference:
    """What was found of two checkpoints.

    Attributes:
        error: Why they cannot be merged as they are; None if they can.
        warnings: What is doubtful, one line each.
        reports: One per tensor that both have; empty if they do not belong together at all.
    """

    error: FusionSlerpError | None
    warnings: tuple[str, ...]
    reports: tuple[TensorReport, ...] = field(default=())

    @property
    def measured(self) -> list[TensorReport]:
        """The tensors that have an angle."""
        return [report for report in self.reports if report.angle_deg is not None]

    @property
    def largest(self) -> list[TensorReport]:
        """The tensors of the largest angle."""
        return sorted(self.measured, key=lambda report: -(report.angle_deg or 0.0))[:MOST]


def compare(a: Checkpoint, b: Checkpoint, progress: Callable[[int, int], object]) -> Difference:
    """Plans a merge at t = 0.5 and measures what it would measure.

    Args:
        a: The first.
        b: The second.
        progress: Called with bytes done and bytes in all.

    Raises:
        CheckpointError: A weight is not finite, or a file cannot be read.
    """
    plan, error = _plan(a, b)
    if plan is None:
        return Difference(error, (*a.warnings, *b.warnings))
    reports, done, total = [], 0, plan.nbytes_in
    for found in measure(plan):
        done += found.nbytes
        reports.append(found.report)
        progress(done, total)
    return Difference(error, plan.warnings, tuple(reports))


def compare_others(
    models: Sequence[Checkpoint], progress: Callable[[int, int], object]
) -> Iterator[Difference]:
    """Yields the difference between the first model and each other one; see `compare`."""
    first, *others = models
    for other in others:
        yield compare(first, other, progress)


def _plan(a: Checkpoint, b: Checkpoint) -> tuple[MergePlan | None, FusionSlerpError | None]:
    """The plan, or that of the tensors they share; and why the first is not available."""
    first = None
    for settings in (MergeSettings(), MergeSettings(missing="copy")):
        try:
            return make_plan({"a": a, "b": b}, settings), first
        except FusionSlerpError as error:
            first = first or error
    return None, first


def by_module(reports: Sequence[TensorReport]) -> dict[str, Cell]:
    """Returns the modules, each as a whole."""
    found: dict[str, list[TensorReport]] = {}
    for report in reports:
        found.setdefault(module_of(report.name), []).append(report)
    return {module: cell(group) for module, group in found.items()}


def cell(reports: Sequence[TensorReport]) -> Cell:
    """Returns several measured tensors as one; at least one."""
    weight = sum(report.n_elements for report in reports) or 1
    angle = sum((report.angle_deg or 0.0) * report.n_elements for report in reports) / weight
    norm_a, norm_b = (
        sqrt(sum(report.norms.get(label, 0.0) ** 2 for report in reports)) for label in ("a", "b")
    )
    return Cell(angle, norm_a, norm_b)


def by_layer(reports: Sequence[TensorReport]) -> dict[int, dict[str, Cell]]:
    """Returns each layer's modules; tensors outside the layers are left out."""
    found: dict[int, dict[str, list[TensorReport]]] = {}
    for report in reports:
        layer = layer_of(report.name)
        if layer is not None:
            found.setdefault(layer[1], {}).setdefault(module_of(report.name), []).append(report)
    return {n: {m: cell(group) for m, group in found[n].items()} for n in sorted(found)}


def as_fields(found: Difference) -> dict[str, Any]:
    """The difference for machines."""
    from fusion_slerp.cli.output import error_fields

    measured = found.measured
    return {
        "can_be_merged": found.error is None,
        "problems": [] if found.error is None else error_fields(found.error)["problems"],
        "warnings": list(found.warnings),
        "mean_angle_deg": cell(measured).angle_deg if measured else None,
        "largest": [report.name for report in found.largest],
        "layers": {
            str(n): {m: [c.angle_deg, c.norm_a, c.norm_b] for m, c in modules.items()}
            for n, modules in by_layer(measured).items()
        },
        "tensors": [
            {
                "name": report.name,
                "rule": report.rule,
                "angle_deg": report.angle_deg,
                "norm_a": report.norms.get("a"),
                "norm_b": report.norms.get("b"),
            }
            for report in found.reports
        ],
    }
