"""Trials without models: their loss depends on the values alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fusion_slerp.searches.record import COMPLETE, PRUNED, Trial
from fusion_slerp.searches.sampling import TPE, suggest
from fusion_slerp.searches.study import Study

LossOf = Callable[[Mapping[str, Any]], float]


def valley(values: Mapping[str, Any]) -> float:
    """A smooth function of numbers, lowest at 0.37."""
    return sum((value - 0.37) ** 2 for value in values.values())


def run(study: Study, n_trials: int, loss_of: LossOf = valley, sampler: str = TPE, seed: int = 0) -> None:
    """Continues a study up to a number of trials; a loss far from the best is one of a trial that stops."""
    while len(study.trials) < n_trials:
        trials = study.trials
        suggestion = suggest(study.space, study.finished, [t.values for t in trials], sampler, seed)
        if suggestion is None:
            return
        loss = loss_of(suggestion.values)
        best = min((t.loss or 0.0 for t in trials if t.state == COMPLETE), default=loss)
        if loss > best + 0.1:
            difference = {"value": loss - best, "stderr": 0.01}
            study.add(Trial(suggestion.values, PRUNED, loss, 0.125, 1, difference), suggestion)
        else:
            study.add(Trial(suggestion.values, COMPLETE, loss), suggestion)


def frozen(study: Study) -> list[dict[str, Any]]:
    """What two equal studies share: all of their trials but the times."""
    return [
        {
            "number": trial.number,
            "state": trial.state.name,
            "params": trial.params,
            "values": trial.values,
            "intermediate": trial.intermediate_values,
            "system": trial.system_attrs,
        }
        for trial in study.finished
    ]
