"""Evaluates the points of a sweep, each once: what a sweep does in order, and a search as it chooses."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from fusion_slerp.sweeps.axes import Axis, options_at
from fusion_slerp.sweeps.best import BEST
from fusion_slerp.sweeps.judgement import Details, Judgement, differences
from fusion_slerp.sweeps.models import MERGED
from fusion_slerp.sweeps.points import Values
from fusion_slerp.sweeps.record import Scores, SweepPoint, SweepRecord
from fusion_slerp.sweeps.results import Results

if TYPE_CHECKING:
    from torch import nn


class Resident(Protocol):
    """One model in memory, whose weights each recombination overwrites."""

    def at(self, options: Mapping[str, Any]) -> nn.Module:
        """Returns the model, with the weights of a merge with these options."""
        ...


@dataclass(frozen=True, slots=True)
class Parent:
    """A model that the points are compared with.

    Attributes:
        label: Its label.
        load: Loads it.
    """

    label: str
    load: Callable[[], nn.Module]


Subject = str | Values
"""A model of a sweep: a parent, by label, or a point, by its values."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found of a parent or point; plain data, which another process may keep.

    Attributes:
        judgement: What the evaluation found.
        seconds: Wall time of `merge` and `evaluate`; empty for a parent.
    """

    judgement: Judgement
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class SweepRunner:
    """Evaluates points and parents, and keeps the results.

    Each takes two steps: `measure` makes and judges the model, and `keep` adds the result to the record.

    Attributes:
        axes: What is varied.
        options: The options that are the same at every point.
        n_models: Number of models, without the base.
        results: Where results are kept, open.
        parents: The models that the points are compared with.
        make_resident: Makes the model that becomes each point, when the first point is evaluated.
        judge: Evaluates a parent, by label, or the model of a point, as `merged`.
    """

    axes: Sequence[Axis]
    options: Mapping[str, Any]
    n_models: int
    results: Results
    parents: Sequence[Parent]
    make_resident: Callable[[], Resident]
    judge: Callable[[str, nn.Module], Judgement]
    _resident: Resident | None = field(default=None, init=False)

    @property
    def record(self) -> SweepRecord:
        """All results so far."""
        return self.results.record

    def options_at(self, values: Values) -> dict[str, Any]:
        """Returns the options of the merge at a point."""
        return options_at(self.axes, values, self.options, self.n_models)

    def subjects(self, points: Iterable[Values]) -> list[Subject]:
        """Returns what a sweep of these points evaluates: the parents, then the points."""
        return [*(parent.label for parent in self.parents), *points]

    def is_known(self, subject: Subject) -> bool:
        """Whether the result of a parent or point is there, with all that others are compared by."""
        if isinstance(subject, str):
            scores = self.record.parents.get(subject)
            return scores is not None and self.results.has_details(subject, scores)
        point = self.record.point(subject)
        return point is not None and self.results.has_details(point.name, point.scores)

    def measure(self, subject: Subject) -> Measured:
        """Makes and judges the model of a parent or point, and keeps nothing.

        Raises:
            FusionSlerpError: The merge fails with these values.
        """
        if isinstance(subject, str):
            return self._measure_parent(subject)
        started = time.perf_counter()
        model = self.resident().at(self.options_at(subject))
        merged = time.perf_counter()
        judgement = self.judge(MERGED, model)
        seconds = {"merge": merged - started, "evaluate": time.perf_counter() - merged}
        return Measured(judgement, {name: round(value, 3) for name, value in seconds.items()})

    def _measure_parent(self, label: str) -> Measured:
        """Loads, judges and frees a parent."""
        (parent,) = (parent for parent in self.parents if parent.label == label)
        model = parent.load()
        judgement = self.judge(label, model)
        del model
        gc.collect()  # models hold reference cycles, and the next one needs the memory
        return Measured(judgement)

    def keep(self, subject: Subject, measured: Measured) -> None:
        """Adds a result to the record, and all differences that it makes known; results come in any order.

        Args:
            subject: The parent or point; values that the sweep's record lacks are added to it.
            measured: What was found of it.
        """
        found = measured.judgement
        if isinstance(subject, str):
            self._compare_with_parent(subject, found.details)  # first: a parent that is known is not compared
            self.results.add_parent(subject, found.scores, found.details)
            return
        values = dict(subject)
        differs = self._from_parents(found.details, found.scores)
        point = SweepPoint(values, found.scores, differs, measured.seconds, found.samples)
        self.results.add_values(values)
        self.results.add_point(point, found.details)

    def evaluate_parent(self, parent: Parent) -> Scores:
        """Returns the scores of a parent, which is loaded, evaluated and freed unless they are known."""
        self._evaluate(parent.label)
        return self.record.parents[parent.label]

    def evaluate(self, values: Values) -> SweepPoint:
        """Returns the result of a point: a recombination and an evaluation, unless it is known.

        Args:
            values: A value by the name of each axis; one that the sweep's record lacks is added to it.

        Raises:
            FusionSlerpError: The merge fails with these values; nothing is recorded for the point.
        """
        self._evaluate(values)
        point = self.record.point(values)
        assert point is not None, "it was kept"
        return point

    def _evaluate(self, subject: Subject) -> None:
        if not self.is_known(subject):
            self.keep(subject, self.measure(subject))

    def finish(self) -> SweepRecord:
        """Returns the record, in which every point is compared with the best one."""
        best = self.record.best_point
        if best is None or _is_compared(self.record, best):
            return self.record
        of_best = self.results.details(best.name)
        if of_best != Details():
            self.results.replace_points(
                tuple(self._from_best(point, of_best) for point in self.record.points)
            )
        return self.record

    def resident(self) -> Resident:
        """Returns the model that becomes each point; the first call makes it."""
        if self._resident is None:
            self._resident = self.make_resident()
        return self._resident

    def _from_parents(self, details: Details, scores: Scores) -> dict[str, Any]:
        by_label = {
            parent.label: differences(details, self.results.details(parent.label), scores)
            for parent in self.parents
        }
        return {label: each for label, each in by_label.items() if each}

    def _compare_with_parent(self, label: str, of_parent: Details) -> None:
        """Adds the differences from a parent to the points that were kept before it."""
        points = self.record.points
        if any(label not in point.differences for point in points):
            self.results.replace_points(tuple(self._with_parent(point, label, of_parent) for point in points))

    def _with_parent(self, point: SweepPoint, label: str, of_parent: Details) -> SweepPoint:
        if label in point.differences:
            return point
        from_parent = differences(self.results.details(point.name), of_parent, point.scores)
        known = {**point.differences, label: from_parent}
        names = (*(parent.label for parent in self.parents), BEST)
        return replace(point, differences={name: known[name] for name in names if known.get(name)})

    def _from_best(self, point: SweepPoint, of_best: Details) -> SweepPoint:
        from_best = differences(self.results.details(point.name), of_best, point.scores)
        known = {**point.differences, BEST: from_best}
        return replace(point, differences=known) if from_best else point


def _is_compared(record: SweepRecord, best: SweepPoint) -> bool:
    """Whether every point has its differences from this best one, not from an earlier one."""
    own = best.differences.get(BEST, {})
    is_own = all(each["value"] == 0 for each in own.values())
    return is_own and all(point.differences.get(BEST) for point in record.points)
