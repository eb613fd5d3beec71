"""The outcome of a search, in sentences: the best point, how it compares, and how far to trust that."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

from fusion_slerp.searches.record import PRUNED
from fusion_slerp.sweeps.best import BEST, best_of, best_parent, verdict
from fusion_slerp.sweeps.points import point_text
from fusion_slerp.sweeps.scores import difference_key

if TYPE_CHECKING:
    from fusion_slerp.searches.record import Holdout, SearchRecord
    from fusion_slerp.sweeps.record import SweepPoint


def conclusion(record: SearchRecord) -> str:
    """Returns the whole outcome, a sentence in each line."""
    return "\n".join(conclusions(record))


def conclusions(record: SearchRecord) -> list[str]:
    """Returns the sentences of the outcome."""
    best = record.best_point
    sentences = [verdict(record.sweep)]
    if best is not None:
        sentences += [text for text in (_from_parent(record), _from_uniform(record)) if text]
    sentences.append(cost(record))
    if best is not None:
        sentences.append(optimism(record))
    return sentences + ([] if record.holdout is None else held_out(record, record.holdout))


def cost(record: SearchRecord) -> str:
    """Returns what the trials cost."""
    n, n_stopped = len(record.trials), sum(trial.state == PRUNED for trial in record.trials)
    stopped = f", {n_stopped} of them stopped early" if n_stopped else ""
    return f"{n} trial{'s' * (n != 1)}{stopped}, at the cost of {record.n_evaluations:.1f} evaluations"


def optimism(record: SearchRecord) -> str:
    """Returns the warning that comes with the best of many."""
    if record.holdout is not None:
        return "Its score here is optimistic, because it was chosen by it; the held-out texts chose nothing."
    return (
        f"The best of {len(record.trials)} trials owes part of its lead to chance: expect less on "
        "others, and measure it on texts (holdout) or tasks that the search did not see."
    )


def uniform_points(record: SearchRecord) -> list[SweepPoint]:
    """Returns the points at which one value holds for all groups of an option; none without groups."""
    names = list(record.sweep.vary)
    if len(names) < 2 or len({name.partition(".")[0] for name in names}) > 1:
        return []
    return [
        point
        for point in record.sweep.points
        if all(value == point.values[names[0]] for value in point.values.values())
    ]


def from_uniform(record: SearchRecord) -> tuple[SweepPoint, dict[str, float]] | None:
    """Returns the best point with one value for all groups, and by how much the best point differs from it.

    None without groups or such a point, or if it is the best one.
    """
    points, key = uniform_points(record), difference_key(record.sweep.metric)
    index = best_of([point.scores for point in points], record.sweep.metric)
    if index is None or points[index] == record.best_point:
        return None
    found = points[index].differences.get(BEST, {}).get(key)
    return None if found is None else (points[index], _reversed(found))


def _reversed(difference: Mapping[str, float]) -> dict[str, float]:
    value, low, high = (-difference[key] for key in ("value", "high", "low"))
    return {"value": value, "stderr": difference["stderr"], "low": low, "high": high}


def _from_parent(record: SearchRecord) -> str:
    label, best = best_parent(record.sweep), record.best_point
    if label is None or best is None:
        return ""
    found = best.differences.get(label, {}).get(difference_key(record.sweep.metric))
    name = "better parent" if len(record.sweep.parents) == 2 else "best parent"
    return "" if found is None else f"from the {name}, {label}: {interval(found)}"


def _from_uniform(record: SearchRecord) -> str:
    option = next(iter(record.sweep.vary)).partition(".")[0]
    found = from_uniform(record)
    if found is None:
        best = record.best_point
        is_best = best is not None and best in uniform_points(record)
        return f"no {option} by group is better than one {option} for all groups" if is_best else ""
    point, difference = found
    value = point_text({option: next(iter(point.values.values()))})
    return f"from the best with one {option} for all groups, {value}: {interval(difference)}"


def interval(difference: Mapping[str, Any]) -> str:
    """Returns a difference with its 95 % interval."""
    value, low, high = (
        nan if difference[key] is None else difference[key] for key in ("value", "low", "high")
    )
    if not isfinite(low):
        return f"{value:+.3f} (error unknown)"
    return f"{value:+.3f} (95 % interval {low:+.3f} to {high:+.3f})"


def held_out(record: SearchRecord, holdout: Holdout) -> list[str]:
    """Returns the results on the held-out texts: the losses, then how the best differs from each parent."""
    average = {label: scores["average"] for label, scores in holdout.scores.items()}
    losses = [f"{label} {_loss(scores)}" for label, scores in average.items()]
    texts = ", ".join(name for name in holdout.digests)
    lines = [f"held out ({texts}): {', '.join(losses)}"]
    for label, texts_of in holdout.differences.items():
        if "average" in texts_of:
            lines.append(f"held out, from {label}: {interval(texts_of['average'])}")
    return lines


def _loss(scores: Mapping[str, Any]) -> str:
    loss, stderr = scores["loss"], scores.get("loss_stderr")
    if loss is None:
        return "not finite"
    return f"{loss:.3f}" + ("" if stderr is None else f" ± {stderr:.3f}")
