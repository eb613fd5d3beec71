"""Evaluates the points of a sweep, each once: what a sweep does in order, and a search as it chooses."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from fusion_slerp.evaluation.evaluation import Evaluation, difference, difference_fields
from fusion_slerp.sweeps.axes import Axis, options_at
from fusion_slerp.sweeps.best import BEST
from fusion_slerp.sweeps.models import MERGED
from fusion_slerp.sweeps.points import Values
from fusion_slerp.sweeps.record import Scores, SweepPoint, SweepRecord
from fusion_slerp.sweeps.results import Results

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an evaluation found.

    Attributes:
        scores: The scores.
        evaluation: The losses of the tokens, by which models are compared; None for other scores.
        samples: What the model wrote: `{"prompt", "text"}` for each prompt.
    """

    scores: Scores
    evaluation: Evaluation | None = None
    samples: tuple[Mapping[str, str], ...] = ()


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


@dataclass(slots=True)
class SweepRunner:
    """Evaluates points and parents, and keeps the results.

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

    def evaluate_parent(self, parent: Parent) -> Scores:
        """Returns the scores of a parent, which is loaded, evaluated and freed unless they are known."""
        known = self.record.parents.get(parent.label)
        if known is not None and self._has_losses(parent.label, known):
            return known
        model = parent.load()
        found = self.judge(parent.label, model)
        del model
        gc.collect()  # models hold reference cycles, and the next one needs the memory
        self.results.add_parent(parent.label, found.scores, found.evaluation)
        return found.scores

    def evaluate(self, values: Values) -> SweepPoint:
        """Returns the result of a point: a recombination and an evaluation, unless it is known.

        Args:
            values: A value by the name of each axis; one that the sweep's record lacks is added to it.

        Raises:
            FusionSlerpError: The merge fails with these values; nothing is recorded for the point.
        """
        known = self.record.point(values)
        if known is not None and self._has_losses(known.name, known.scores):
            return known
        started = time.perf_counter()
        model = self.resident().at(self.options_at(values))
        merged = time.perf_counter()
        found = self.judge(MERGED, model)
        seconds = {"merge": merged - started, "evaluate": time.perf_counter() - merged}
        seconds = {name: round(value, 3) for name, value in seconds.items()}
        differences = self._from_parents(found.evaluation)
        point = SweepPoint(dict(values), found.scores, differences, seconds, found.samples)
        self.results.add_values(values)
        self.results.add_point(point, found.evaluation)
        return point

    def finish(self) -> SweepRecord:
        """Returns the record, in which every point is compared with the best one."""
        best = self.record.best_point
        if best is None or _is_compared(self.record, best):
            return self.record
        of_best = self.results.losses(best.name)
        if of_best is not None:
            self.results.replace_points(
                tuple(self._from_best(point, of_best) for point in self.record.points)
            )
        return self.record

    def resident(self) -> Resident:
        """Returns the model that becomes each point; the first call makes it."""
        if self._resident is None:
            self._resident = self.make_resident()
        return self._resident

    def _has_losses(self, name: str, scores: Scores) -> bool:
        """Whether a known result is whole: scores that are not of texts have no losses."""
        is_of_texts = any(isinstance(each, Mapping) and "loss_stderr" in each for each in scores.values())
        return not is_of_texts or self.results.has_losses(name)

    def _from_parents(self, evaluation: Evaluation | None) -> dict[str, Any]:
        others = {parent.label: self.results.losses(parent.label) for parent in self.parents}
        found = {
            label: difference_fields(difference(evaluation, other))
            for label, other in others.items()
            if evaluation is not None and other is not None
        }
        return {label: differences for label, differences in found.items() if differences}

    def _from_best(self, point: SweepPoint, of_best: Evaluation) -> SweepPoint:
        of_point = self.results.losses(point.name)
        if of_point is None:
            return point
        differences = {**point.differences, BEST: difference_fields(difference(of_point, of_best))}
        return replace(point, differences=differences)


def _is_compared(record: SweepRecord, best: SweepPoint) -> bool:
    """Whether every point has its differences from this best one, not from an earlier one."""
    own = best.differences.get(BEST, {})
    is_own = all(each["value"] == 0 for each in own.values())
    return is_own and all(point.differences.get(BEST) for point in record.points)
