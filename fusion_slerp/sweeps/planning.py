"""Plans every point of a sweep; a problem that several share is reported once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from fusion_slerp.api import Model, open_parents
from fusion_slerp.errors import FusionSlerpError, Problem, SettingsError, listed, raise_all, setting
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.planning.planner import make_plan
from fusion_slerp.settings.merge_settings import MergeSettings, make_settings
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.regular_files import reading_models
from fusion_slerp.sweeps.axes import Axis
from fusion_slerp.sweeps.points import Values, point_text

T = TypeVar("T")
R = TypeVar("R")


def plan_all(
    models: Sequence[Model],
    base: Model | None,
    points: Sequence[Values],
    options: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Checkpoint], MergePlan, int]:
    """Returns the models, opened, the plan of the first point, and the bytes that merges of all points read.

    Args:
        models: The models, without the base.
        base: The ancestor; None without.
        points: The points.
        options: The options of each.

    Raises:
        FusionSlerpError: What is wrong with any point, at once, and at which points.
    """
    settings = _at_every(points, options, lambda each: make_settings(**each))
    parents = open_parents(models, base, settings[0])
    first: list[MergePlan] = []

    def nbytes_read(each: MergeSettings) -> int:
        plan = make_plan(parents, each)
        if not first:
            first.append(plan)
        return plan.nbytes_read

    with reading_models():
        nbytes = sum(_at_every(points, settings, nbytes_read))
    return parents, first[0], nbytes


def _at_every(points: Sequence[Values], each: Sequence[T], make: Callable[[T], R]) -> list[R]:
    """Makes something of what belongs to each point; a problem is raised once, with the points it is at."""
    made: list[R] = []
    found: dict[str, tuple[Problem | FusionSlerpError, list[Values]]] = {}
    for values, one in zip(points, each, strict=True):
        try:
            made.append(make(one))
        except FusionSlerpError as error:
            for problem in error.problems or (error,):
                found.setdefault(str(problem), (problem, []))[1].append(values)
    raise_all([_placed(problem, at, len(points)) for problem, at in found.values()])
    return made


def _placed(problem: Any, at: Sequence[Values], n_points: int) -> Problem | FusionSlerpError:
    if len(at) == n_points or not isinstance(problem, Problem):
        return problem
    where = ("at", listed([point_text(values) for values in at], 3))
    return replace(problem, fields=(where, *problem.fields))


def without_tensors(axes: Sequence[Axis], plan: MergePlan) -> Iterator[Problem]:
    """Yields a problem for each axis whose part of a name no tensor has: its points would be equal."""
    names = [tensor.out.name for tensor in plan.tensors]
    for axis in axes:
        if axis.pattern is not None and not any(axis.pattern in name for name in names):
            parts = Counter(part for name in names for part in name.split(".") if not part.isdigit())
            common = [part for part, _ in parts.most_common() if part not in ("weight", "bias", "model")]
            needed = f"a part of tensors' names, such as {listed(common, 6)}"
            example = f"{axis.name.removesuffix(axis.pattern)}{next(iter(common), 'mlp')}"
            fix = f"use {setting('vary', {example: list(axis.values)})}"
            fields = (("found", axis.name), ("needed", needed))
            yield Problem(SettingsError, f"no tensor's name contains {axis.pattern!r}", fields, fix)
