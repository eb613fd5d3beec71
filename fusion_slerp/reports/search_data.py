"""The data of a report about a search, beyond that of the points that were evaluated in full: its trials."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusion_slerp.reports.evaluations import finite
from fusion_slerp.reports.names import plain, without_folders
from fusion_slerp.searches.conclusions import cost, held_out, optimism
from fusion_slerp.searches.record import COMPLETE, FILE, SearchRecord, Trial, read_search
from fusion_slerp.sweeps.record import SweepPoint


def search_data(folder: Path) -> dict[str, Any] | None:
    """Returns the trials of a search and its conclusions; None if the folder is a sweep's.

    Raises:
        SettingsError: The folder has a record of a search that is not readable.
    """
    if not os.path.lexists(folder / FILE):
        return None
    record = read_search(folder)
    return {
        "trials": list(_trials(record)),
        "cost": cost(record),
        "conclusions": [optimism(record), *_held_out(record)] if record.best_point else [],
    }


def _held_out(record: SearchRecord) -> list[str]:
    return [] if record.holdout is None else held_out(record, record.holdout)


def _trials(record: SearchRecord) -> Iterator[dict[str, Any]]:
    """The trials in their order; of one that was evaluated in full, `point` is its index among the points."""
    best: float | None = None
    for i, trial in enumerate(record.trials):
        yield {
            "number": i,
            "values": {name: plain(without_folders(value)) for name, value in trial.values.items()},
            "state": trial.state,
            "point": _index(trial, record.sweep.points),
            "share": trial.share,
            "from_best": {key: finite(value) for key, value in trial.difference.items()},
            "estimate": _estimate(trial.difference, best),
        }
        if trial.state == COMPLETE and trial.loss is not None:
            best = trial.loss if best is None else min(best, trial.loss)


def _index(trial: Trial, points: Sequence[SweepPoint]) -> int | None:
    return next((i for i, point in enumerate(points) if point.values == trial.values), None)


def _estimate(difference: Mapping[str, float], best: float | None) -> dict[str, float] | None:
    """The loss of a trial that was stopped, as far as its part of the texts shows.

    It is the best loss until then plus the paired difference from it, whose error is much smaller than that
    of the trial's own loss on that part.
    """
    value, low, high = (finite(difference.get(key)) for key in ("value", "low", "high"))
    if best is None or value is None or low is None or high is None:
        return None
    return {"loss": best + value, "low": best + low, "high": best + high}
