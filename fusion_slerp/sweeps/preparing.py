"""Everything of a sweep that comes before the first weight is read: its points are planned and checked."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fusion_slerp.api import Model
from fusion_slerp.errors import (
    FusionSlerpError,
    OutputError,
    Problem,
    SettingsError,
    raise_all,
    setting,
)
from fusion_slerp.garbage import rare_searches
from fusion_slerp.methods import DEFAULT
from fusion_slerp.paths import real_path
from fusion_slerp.planning.memory import TORCH_NBYTES
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.planning.resources import check_resources
from fusion_slerp.settings.labels import labels
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sweeps.axes import Axis, options_at, parse_axes
from fusion_slerp.sweeps.best import LOWER
from fusion_slerp.sweeps.examination import Evaluating, Examination, check_mode, deciding, examine
from fusion_slerp.sweeps.identity import settings_of, sweep_identity
from fusion_slerp.sweeps.planning import plan_all, without_tensors
from fusion_slerp.sweeps.points import MAX_POINTS, Values, grid
from fusion_slerp.sweeps.record import SweepRecord
from fusion_slerp.sweeps.results import Results, check_folder
from fusion_slerp.sweeps.scores import AVERAGE_LOSS
from fusion_slerp.sweeps.tasks import Tasks

TRANSFORMERS_NBYTES = 360_000_000
"""Added by torch and transformers, which hold and run the model (measured with torch 2.13 on Linux)."""


@dataclass(frozen=True, slots=True)
class PreparedSweep:
    """A sweep of which everything is decided and checked, and nothing is written.

    Attributes:
        models: The models as the user named them, without the base.
        base: The ancestor; None without.
        axes: What is varied.
        points: The values of each point.
        options: The options that are the same at every point.
        parents: The models by label.
        plan: The plan of the first point.
        nbytes_read: Bytes of weights that separate merges of all points would read.
        evaluating: How models are evaluated.
        examination: What models are evaluated on, opened; None without, or if nothing is left to evaluate.
        record: The record before the first result.
        out: The folder of the sweep; None keeps it in memory alone.
    """

    models: tuple[Model, ...]
    base: Model | None
    axes: tuple[Axis, ...]
    points: tuple[Values, ...]
    options: Mapping[str, Any]
    parents: Mapping[str, Checkpoint]
    plan: MergePlan
    nbytes_read: int
    evaluating: Evaluating
    examination: Examination | None
    record: SweepRecord
    out: Path | None

    def options_at(self, values: Values) -> dict[str, Any]:
        """Returns the options of the merge at a point."""
        return options_at(self.axes, values, self.options, len(self.models))

    @property
    def peak_nbytes(self) -> int:
        """Estimated peak of resident memory before the evaluation: the model, buffers, and the libraries."""
        libraries = TRANSFORMERS_NBYTES if self.evaluating else 0
        of_torch = TORCH_NBYTES if self.evaluating and self._reads_bin else 0  # it is counted once
        return self.plan.peak_nbytes + self.nbytes_resident + libraries - of_torch

    @property
    def nbytes_resident(self) -> int:
        """Bytes of the model that every point overwrites; 0 if nothing is evaluated."""
        return self.plan.nbytes_written if self.evaluating else 0

    @property
    def _reads_bin(self) -> bool:
        return any(file.suffix == ".bin" for parent in self.parents.values() for file in parent.files)

    @property
    def dtype(self) -> str:
        """The type of most elements of the merged models, in which the parents are evaluated as well."""
        counts: Counter[str] = Counter()
        for tensor in self.plan.tensors:
            if tensor.out.dtype.is_mergeable:
                counts[tensor.out.dtype.name] += tensor.out.n_elements
        return max(counts, key=counts.__getitem__, default="float32")


@rare_searches()
def prepare_sweep(
    models: Sequence[Model],
    base: Model | None = None,
    *,
    vary: Mapping[str, Any],
    texts: Mapping[str, Model] | None = None,
    tasks: Tasks | None = None,
    out: Model | None = None,
    names: Mapping[str, str] | None = None,
    needs_evaluation: bool = True,
    is_in_memory: bool | None = None,
    metric: str | None = None,
    mode: str | None = None,
    max_points: int = MAX_POINTS,
    evaluation: Mapping[str, Any] | None = None,
    **options: Any,
) -> PreparedSweep:
    """Plans every point and checks everything that can be checked without reading a weight.

    Args:
        models: The models a, b, c, ...
        base: Their ancestor, for a method that takes one.
        vary: What is varied, see `axes`, and its values, see `values`.
        texts: A file or folder by the name of each text.
        tasks: Tasks of lm-evaluation-harness.
        out: The folder of the sweep; None keeps it in memory alone.
        names: Each model's label, by the names that `vary` may call it by besides its label.
        needs_evaluation: Whether a sweep without texts and tasks is refused.
        is_in_memory: Whether a merged model is in memory; None: if there are texts or tasks.
        metric: The path of the score that decides; None: the mean loss, or without texts the mean score.
        mode: `min` if a lower one is better, or `max`; None: whichever suits the metric.
        max_points: The limit of points.
        evaluation: Further arguments of `Evaluator`.
        **options: The options that are the same at every point.

    Raises:
        FusionSlerpError: All that is wrong, as far as it can be found at once.
    """
    named = {label: label for label in labels(len(models))}
    axes = parse_axes(vary, options, {**named, **(names or {})})
    points = grid(axes, max_points)
    folder = None if out is None else real_path(out, OutputError)
    evaluating = Evaluating(text_paths(texts), tasks, dict(evaluation or {}))
    raise_all([*_without_evaluation(evaluating, needs_evaluation), *check_mode(mode)])
    at = [options_at(axes, values, options, len(models)) for values in points]
    parents, plan, nbytes_read = plan_all(models, base, points, at)
    problems: list[Problem | FusionSlerpError] = list(without_tensors(axes, plan))
    problems += check_resources(plan, is_in_memory=bool(evaluating) if is_in_memory is None else is_in_memory)
    record = _record(parents, axes, points, options, evaluating, names or {}, problems)
    problems += check_folder(folder, record.identity) if folder is not None else []
    raise_all(problems)
    results = Results(record, folder)
    is_done = not evaluating or results.is_complete(points)
    examination = None if is_done else examine(evaluating, parents, plan)
    decides = deciding(metric or evaluating.default_metric, mode, evaluating, examination, results.peek())
    record = replace(record, metric=decides)
    own = tuple(models)
    return PreparedSweep(
        own, base, axes, points, options, parents, plan, nbytes_read, evaluating, examination, record, folder
    )


def text_paths(texts: Mapping[str, Model] | None) -> dict[str, Path]:
    """Returns the absolute path of each text."""
    given = texts or {}
    return {str(name): Path(os.path.abspath(os.path.expanduser(path))) for name, path in given.items()}


def _without_evaluation(evaluating: Evaluating, is_needed: bool) -> list[Problem]:
    if evaluating or not is_needed:
        return []
    fix = f"use {setting('texts', {'name': 'FILE.txt'})}, or {setting('children', 'FOLDER')}"
    needed = "texts or tasks to evaluate the points on, or a folder for the merged models"
    return [Problem(SettingsError, "nothing to do with the points of the sweep", (("needed", needed),), fix)]


def _record(
    parents: Mapping[str, Checkpoint],
    axes: Sequence[Axis],
    points: Sequence[Values],
    options: Mapping[str, Any],
    evaluating: Evaluating,
    names: Mapping[str, str],
    problems: list[Any],
) -> SweepRecord:
    """The record before the first result; adds a problem for texts that cannot be read."""
    axis_names, identity = [axis.name for axis in axes], {}
    try:
        identity = sweep_identity(
            parents, options, axis_names, evaluating.texts, evaluating.settings, evaluating.tasks
        )
    except OSError as error:
        fields = (("path", error.filename), ("found", error.strerror))
        fix = f"use {setting('texts', {'name': 'FILE.txt'})}"
        problems.append(Problem(SettingsError, "a text cannot be read", fields, fix))
    methods = dict.fromkeys(str(each.get("method", options.get("method", DEFAULT))) for each in points)
    return SweepRecord(
        method=", ".join(methods),
        models=_models(parents, names),
        settings=settings_of({name: value for name, value in options.items() if name != "method"}),
        vary={axis.name: axis.values for axis in axes},
        metric={"name": AVERAGE_LOSS, "better": LOWER},  # until the tasks are known
        identity=identity,
    )


def _models(parents: Mapping[str, Checkpoint], names: Mapping[str, str]) -> dict[str, dict[str, str]]:
    by_label = {label: name for name, label in names.items()}
    facts = {
        label: {"source": parent.source, "revision": parent.revision, "name": by_label.get(label)}
        for label, parent in parents.items()
    }
    return {label: {key: value for key, value in each.items() if value} for label, each in facts.items()}
