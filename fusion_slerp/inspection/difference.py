"""The difference between two checkpoints: what prevents a merge, angles and norms by layer and module."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from math import sqrt

from fusion_slerp.engine.measuring import Measurement, measure
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.errors import CheckpointError, FusionSlerpError, MismatchError, Problem, raise_all
from fusion_slerp.inspection.readable import Problems
from fusion_slerp.planning.plan import MergePlan, TensorPlan
from fusion_slerp.planning.planner import make_plan
from fusion_slerp.settings.labels import BASE, labels
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.header import TensorEntry
from fusion_slerp.tensor_names import layer_of, module_of

MOST = 5
"""Number of tensors that are named: those of the largest angle, and those with NaN or infinity."""

SHARE = 0.5
"""Models that cannot be merged are compared if they have at least this share of their tensors in common."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Several tensors taken as one.

    Attributes:
        angle_deg: The mean of their angles, weighted by elements.
        norm_a: Their Euclidean norm in the first model; with a base, that of its difference from the base.
        norm_b: The same in the second.
    """

    angle_deg: float
    norm_a: float
    norm_b: float

    @property
    def ratio(self) -> float | None:
        """The norm in the second model divided by that in the first; None if that is zero."""
        return self.norm_b / self.norm_a if self.norm_a else None


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference between two checkpoints.

    Attributes:
        error: What prevents a merge; None if nothing does.
        warnings: Warnings, one line each.
        notes: What would happen to the rows of differing vocabularies, one line each.
        reports: One for each tensor that was compared; empty if the models have too little in common.
    """

    error: FusionSlerpError | None
    warnings: tuple[str, ...]
    notes: tuple[str, ...] = ()
    reports: tuple[TensorReport, ...] = ()

    @property
    def measured(self) -> list[TensorReport]:
        """The tensors that have an angle."""
        return [report for report in self.reports if report.angle_deg is not None]

    @property
    def largest(self) -> list[TensorReport]:
        """The tensors of the largest angle."""
        return sorted(self.measured, key=lambda report: -(report.angle_deg or 0.0))[:MOST]


Model = tuple[Checkpoint, Problems]
"""A model, and what is known to prevent a merge of it."""


def compare(models: Mapping[str, Model], progress: Callable[[int, int], object]) -> Difference:
    """Plans a merge at t = 0.5 and measures the tensors that it would merge, as far as they are readable.

    Args:
        models: Two models, a and b, and their base, if the angles are those of the task vectors.
        progress: Called with the bytes done and the bytes in all.
    """
    opened = {label: model for label, (model, _) in models.items()}
    known = [problem for _, problems in models.values() for problem in problems]
    warnings = tuple(line for model in opened.values() for line in model.warnings)
    plan, problems = _plan(opened, known)
    if plan is None:
        return Difference(as_error(problems), warnings)
    unreadable: list[FusionSlerpError] = []
    reports, done, total = [], 0, plan.nbytes_in
    with closing(_measured(plan, unreadable)) as found:
        for measured in found:
            done += measured.nbytes
            reports.append(measured.report)
            progress(done, total)
    error = as_error([*problems, *_first(unreadable)])
    if error is not None and not any(report.norms for report in reports):
        return Difference(error, warnings)
    return Difference(error, plan.warnings, plan.notes, tuple(reports))


def compare_others(
    models: Mapping[str, Model], progress: Callable[[int, int], object]
) -> Iterator[tuple[str, Difference]]:
    """Yields the difference between the first model and each of the others with its label; see `compare`."""
    base = {BASE: models[BASE]} if BASE in models else {}
    first, *others = (model for label, model in models.items() if label != BASE)
    for label, other in zip(labels(len(others) + 1)[1:], others, strict=True):
        yield label, compare({"a": first, "b": other, **base}, progress)


def _plan(
    models: Mapping[str, Checkpoint], problems: Sequence[Problem | FusionSlerpError]
) -> tuple[MergePlan | None, Sequence[Problem | FusionSlerpError]]:
    """A plan for the models, or for what they have in common; and what prevents a merge."""
    copying = MergeSettings(missing="copy")
    attempts = (
        lambda: make_plan(models, MergeSettings()),
        lambda: make_plan(models, copying),
        lambda: make_plan(_in_common(models), copying),
    )
    for i, attempt in enumerate(attempts):
        try:
            plan = attempt()
        except FusionSlerpError as error:
            problems = problems or error.problems or (error,)
        else:
            warnings = [each for each in plan.warnings if not (i and each.startswith("only in "))]
            return replace(plan, warnings=tuple(warnings)), problems
    return None, problems


def _in_common(models: Mapping[str, Checkpoint]) -> dict[str, Checkpoint]:
    """The models with the tensors that can be compared alone, and the first one's config.

    Raises:
        MismatchError: They are too few.
    """
    first, *others = models.values()
    common = [
        name
        for name, entry in first.tensors.items()
        if entry.dtype.is_mergeable and all(_is_alike(entry, other.tensors.get(name)) for other in others)
    ]
    if not common or len(common) < SHARE * max(len(model.tensors) for model in models.values()):
        raise MismatchError("too little in common")
    return {
        label: replace(model, config=first.config, tensors={name: model.tensors[name] for name in common})
        for label, model in models.items()
    }


def _is_alike(entry: TensorEntry, other: TensorEntry | None) -> bool:
    return other is not None and other.dtype.is_mergeable and other.shape == entry.shape


def _measured(plan: MergePlan, unreadable: list[FusionSlerpError]) -> Generator[Measurement, None, None]:
    """Measures tensor by tensor, without those of NaN or infinity, whose errors go to a list."""
    tensors, done = plan.tensors, set[str]()
    while tensors:
        try:
            for measured in measure(replace(plan, tensors=tensors)):
                done.add(measured.report.name)
                yield measured
            return
        except FusionSlerpError as error:
            unreadable.append(error)
            bad = {value for p in error.problems if isinstance(p, Problem) for _, value in p.fields[:1]}
            left = [each for each in tensors if not bad & {each.out.name, *_names(each)}]
            if len(left) == len(tensors):
                return  # not about a tensor: the file or the disk
            tensors = tuple(each for each in left if each.out.name not in done)


def _names(tensor: TensorPlan) -> set[str]:
    return {source.name for source in tensor.sources.values()}


def _first(errors: Sequence[FusionSlerpError]) -> list[FusionSlerpError | Problem]:
    """The first errors, and how many more there are."""
    more = len(errors) - MOST
    rest = [Problem(CheckpointError, f"NaN or infinity in {more} more weights")] if more > 0 else []
    return [*errors[:MOST], *rest]


def as_error(problems: Sequence[Problem | FusionSlerpError]) -> FusionSlerpError | None:
    """Returns problems as one error; None if there are none."""
    try:
        raise_all(problems)
    except FusionSlerpError as error:
        return error
    return None


def by_module(reports: Sequence[TensorReport]) -> dict[str, Cell]:
    """Returns the modules, each as a whole."""
    groups: dict[str, list[TensorReport]] = {}
    for report in reports:
        groups.setdefault(module_of(report.name), []).append(report)
    return {module: cell(group) for module, group in groups.items()}


def cell(reports: Sequence[TensorReport]) -> Cell:
    """Returns measured tensors, at least one, as one."""
    weight = sum(report.n_elements for report in reports) or 1
    angle = sum((report.angle_deg or 0.0) * report.n_elements for report in reports) / weight
    norm_a, norm_b = (
        sqrt(sum(report.norms.get(label, 0.0) ** 2 for report in reports)) for label in ("a", "b")
    )
    return Cell(angle, norm_a, norm_b)


def by_layer(reports: Sequence[TensorReport]) -> dict[int, dict[str, Cell]]:
    """Returns each layer's modules, without tensors outside the layers."""
    layers: dict[int, dict[str, list[TensorReport]]] = {}
    for report in reports:
        layer = layer_of(report.name)
        if layer is not None:
            layers.setdefault(layer[1], {}).setdefault(module_of(report.name), []).append(report)
    return {n: {m: cell(group) for m, group in layers[n].items()} for n in sorted(layers)}
