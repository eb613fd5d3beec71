"""The best point on texts that the search never saw.

The best of many trials is chosen partly because chance favoured it on the texts that chose it, so its loss
there is too low on average. On texts that decided nothing, it is not.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_slerp.evaluation.evaluation import Evaluation, difference, difference_fields
from fusion_slerp.searches.record import Holdout, read_fields
from fusion_slerp.sweeps.best import BEST
from fusion_slerp.sweeps.models import MERGED
from fusion_slerp.sweeps.record import json_value

if TYPE_CHECKING:
    from fusion_slerp.searches.preparing import PreparedSearch
    from fusion_slerp.sweeps.runner import SweepRunner


def evaluate_holdout(
    search: PreparedSearch,
    runner: SweepRunner,
    known: Holdout | None,
    around_model: Callable[[str], AbstractContextManager[object]],
) -> Holdout | None:
    """Returns the best point and the parents on the held-out texts; None without texts or a best point.

    Args:
        search: The search.
        runner: Its models and points.
        known: The result of an earlier run, which is kept if it has the same best point, and these texts or
            this run has none.
        around_model: Entered while a model is made and evaluated, with its name.
    """
    best = runner.record.best_point
    if best is None:
        return None
    if known is not None and known.point == best.name and search.digests in ({}, known.digests):
        return known
    if search.holdout is None:
        return None
    evaluations: dict[str, Evaluation] = {}
    with around_model("the best, held out"):
        model = runner.resident().at(runner.options_at(best.values))
        evaluations[BEST] = search.holdout.evaluate(MERGED, model)
    for parent in runner.parents:
        with around_model(f"{parent.label}, held out"):
            evaluations[parent.label] = search.holdout.evaluate(parent.label, parent.load())
    differences = {
        label: difference_fields(difference(evaluations[BEST], other))
        for label, other in evaluations.items()
        if label != BEST
    }
    scores = {label: each.scores for label, each in evaluations.items()}
    return Holdout(
        best.name,
        search.digests,
        json_value(scores),
        json_value({label: each for label, each in differences.items() if each}),
    )


def known_holdout(folder: Path | None) -> Holdout | None:
    """Returns the result of an earlier run in a folder; None without."""
    if folder is None:
        return None
    try:
        found = read_fields(folder)["holdout"]
        return Holdout(**found) if found else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
