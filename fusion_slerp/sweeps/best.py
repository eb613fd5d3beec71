"""Which point of a sweep is best, and whether the data can tell it from others.

Points are compared by the differences of their losses on the same tokens, or of their scores on the same
documents, which vary far less than the losses and scores themselves. The best of many estimates is good by
luck as well, so it would be wrong to say that its point is the best. Instead, a set of points is given that
holds the truly best one in 95 % of sweeps: those that are not worse than the best estimate by more than its
luck explains.

Source: S. S. Gupta, Technometrics 7, 225 (1965). We differ in using Bonferroni's bound, which needs no
equal or independent errors: the truly best point is compared with each other one, and all of these one-sided
comparisons share 5 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from fusion_slerp.sweeps.scores import difference_key, score_at, stderr_at, text_of
from fusion_slerp.sweeps.values import value_text

if TYPE_CHECKING:
    from fusion_slerp.sweeps.record import SweepPoint, SweepRecord

BEST = "best"
"""The name, among a point's differences, of that from the best point."""

LOWER, HIGHER = "lower", "higher"

LEVEL = 0.05
"""How often the truly best point may be missing in `within_noise`."""

HALF_WIDTH = NormalDist().inv_cdf(0.975)
"""Standard errors from the middle of a 95 % interval to its ends, for a normal distribution."""


def best_of(scores: Sequence[Mapping[str, Any]], metric: Mapping[str, str]) -> int | None:
    """Returns the index of the best scores; None if none has a finite number at the metric's path."""
    by_index = {index: score_at(each, metric["name"]) for index, each in enumerate(scores)}
    finite = {index: value for index, value in by_index.items() if value is not None and isfinite(value)}
    choose = max if metric["better"] == HIGHER else min
    return choose(finite, key=finite.__getitem__) if finite else None


def differs(difference: Mapping[str, float]) -> bool | None:
    """Whether zero is outside of a difference's 95 % interval; None if its error is unknown.

    Args:
        difference: With `low` and `high`, the ends of the interval.
    """
    low, high = difference["low"], difference["high"]
    return None if not (isfinite(low) and isfinite(high)) else low > 0 or high < 0


def within_noise(record: SweepRecord) -> tuple[int, ...] | None:
    """Returns the points that may be the best instead; None if the sweep lacks errors.

    Together with the best point, they hold the truly best one in at least 95 % of sweeps.
    """
    key = difference_key(record.metric)
    differences = [point.differences.get(BEST, {}).get(key) for point in record.points]
    known = {index: each for index, each in enumerate(differences) if each is not None}
    if record.best is None or len(known) < len(differences):
        return None
    known.pop(record.best)
    sign = -1 if record.metric["better"] == HIGHER else 1
    return tuple(index for index, each in known.items() if not _is_worse(each, sign, len(known)))


def _is_worse(difference: Mapping[str, float], sign: int, n_comparisons: int) -> bool:
    """Whether a score is worse than the best one, as one of several comparisons; no, if the error is unknown.

    Args:
        difference: By how much it exceeds the best one.
        sign: 1 if lower is better, -1 if higher is.
        n_comparisons: How many scores are compared with the best one.
    """
    value, low, high = (difference[key] for key in ("value", "low", "high"))
    wider = NormalDist().inv_cdf(1 - LEVEL / n_comparisons) / HALF_WIDTH
    return isfinite(high - low) and sign * value > (high - low) / 2 * wider


def neighbours(points: Sequence[SweepPoint], index: int) -> tuple[int, ...]:
    """Returns the points next to one: on each axis, those with the next lower and next higher values."""
    next_to = []
    here = points[index].values
    for axis, value in here.items():
        line = [i for i, point in enumerate(points) if _without(point.values, axis) == _without(here, axis)]
        if all(isinstance(points[i].values[axis], (int, float)) for i in line):
            line.sort(key=lambda i, axis=axis: points[i].values[axis])
        at = next(n for n, i in enumerate(line) if points[i].values[axis] == value)
        next_to += line[max(0, at - 1) : at] + line[at + 1 : at + 2]
    return tuple(next_to)


def _without(values: Mapping[str, Any], axis: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != axis}


def best_parent(record: SweepRecord) -> str | None:
    """Returns the label of the best parent among those that were scored on the same tokens as the points."""
    text = text_of(record.metric)
    known = set().union(*(point.differences for point in record.points)) if text else set(record.parents)
    labels = [label for label in record.parents if label in known]
    index = best_of([record.parents[label] for label in labels], record.metric)
    return None if index is None else labels[index]


def verdict(record: SweepRecord) -> str:
    """Returns in a sentence which point is best, and from which others it does not differ."""
    if record.best is None:
        return f"no point has a finite {record.metric['name']}: check the weights for NaN or infinity"
    point = record.points[record.best]
    parts = [f"best {_named(point.values, list(point.values))}: {_score_text(record)}"]
    parts += [text for text in (_noise_text(record), _parent_text(record)) if text]
    return "; ".join(parts)


def _score_text(record: SweepRecord) -> str:
    assert record.best is not None
    scores, path = record.points[record.best].scores, record.metric["name"]
    value, stderr = score_at(scores, path), stderr_at(scores, path)
    return f"{value:.3f}" + (f" ± {stderr:.3f}" if stderr is not None and isfinite(stderr) else "")


def _noise_text(record: SweepRecord) -> str:
    noise = within_noise(record)
    if noise is None or len(record.points) < 2:
        return ""
    if not noise:
        return "better than every other point"
    if len(noise) == len(record.points) - 1:
        return "not distinguishable from any other point"
    assert record.best is not None
    axes = [name for name, values in record.vary.items() if len(values) > 1] or list(record.vary)
    names = [_named(record.points[index].values, axes, bare=len(axes) == 1) for index in noise]
    return f"not distinguishable from {_enumerated(names)}"


def _enumerated(names: Sequence[str], limit: int = 5) -> str:
    shown = names if len(names) <= limit else [*names[:limit], f"{len(names) - limit} more"]
    *first, last = shown
    return f"{', '.join(first)} and {last}" if first else last


def _named(values: Mapping[str, Any], axes: Sequence[str], bare: bool = False) -> str:
    if bare:
        return value_text(values[axes[0]])
    text = ", ".join(f"{name} = {value_text(values[name])}" for name in axes)
    return f"({text})" if len(axes) > 1 else text


def _parent_text(record: SweepRecord) -> str:
    label = best_parent(record)
    if label is None or record.best is None:
        return ""
    which = "better parent" if len(record.parents) == 2 else "best parent"
    name = f"{which}, {record.models[label].get('name', label)}"
    point = record.points[record.best]
    difference = point.differences.get(label, {}).get(difference_key(record.metric))
    if difference is None:
        gap = _gap(score_at(point.scores, record.metric["name"]), record.parents[label], record.metric)
        return f"{gap} the {name}" if gap else ""
    value, stderr = difference["value"], difference["stderr"]
    if value == 0:
        return f"the same as the {name}"
    how = "below" if value < 0 else "above"
    size = f"{abs(value):.3f} ± {stderr:.3f} {how}"
    if differs(difference) is False:
        return f"not distinguishable from the {name} ({size})"
    return f"{size} the {name}"


def _gap(value: float | None, parent: Mapping[str, Any], metric: Mapping[str, str]) -> str:
    other = score_at(parent, metric["name"])
    if value is None or other is None:
        return ""
    return f"{abs(value - other):.3f} {'below' if value < other else 'above'}"
