"""A search in the section of its points: trials that were stopped, and the metric over each option alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fusion_slerp.drawing.axes import Frame
from fusion_slerp.drawing.charts import Point, Series, line_chart
from fusion_slerp.drawing.marks import STOPPED
from fusion_slerp.drawing.markup import DASH, Html, number, percent, signed
from fusion_slerp.searches.record import COMPLETE, PRUNED

STOPPED_EARLY = "stopped early"

NOTE = (
    "Crosses are trials that were stopped early: the best loss until then plus the difference from it on the "
    "part of the texts that both have read, with its 95 % interval."
)

Sweep = Mapping[str, Any]


def trials(sweep: Sweep) -> list[Mapping[str, Any]]:
    """Returns the trials of a search; none of a sweep."""
    search = sweep.get("search")
    return search["trials"] if search else []


def stopped(sweep: Sweep, axis: str) -> list[Series]:
    """Returns the trials that were stopped early as points over an option; nothing without any."""
    found = [
        Point(each["values"][axis], *(each["estimate"][key] for key in ("loss", "low", "high")))
        for each in trials(sweep)
        if each["state"] == PRUNED and each["estimate"]
    ]
    return [Series(STOPPED, STOPPED_EARLY, sorted(found), has_line=False)] if found else []


def slices(sweep: Sweep, axes: Sequence[str]) -> Iterator[tuple[str, Html]]:
    """Yields a chart of all trials over each option that takes numbers, with the option's name."""
    metric = sweep["metric"]["name"]
    best = None if sweep["best"] is None else sweep["points"][sweep["best"]]
    for axis in axes:
        if not all(isinstance(each["values"].get(axis), (int, float)) for each in trials(sweep)):
            continue
        points = sorted(Point(point["values"][axis], point["metric"]) for point in sweep["points"])
        every = [*stopped(sweep, axis), Series("child", "evaluated in full", points, has_line=False)]
        mark = None if best is None else Point(best["values"][axis], best["metric"])
        frame = Frame(360, 250, axis, metric, right=24)
        title = f"{metric} over {axis}"
        yield axis, line_chart(every, frame, title, (), mark, lambda x, own=axis: f"{own} = {x:g}", 4)


def series_names(sweep: Sweep) -> dict[str, str]:
    """Returns the marks of trials with their names."""
    named = {"child": "evaluated in full"}
    return named | ({STOPPED: STOPPED_EARLY} if any(each["estimate"] for each in trials(sweep)) else {})


def first_cells(sweep: Sweep) -> list[str]:
    """Returns the first cell of each point's row: the number of its trial; in a sweep, of the point."""
    numbers = {each["point"]: each["number"] for each in trials(sweep)}
    if not numbers:
        return [str(i + 1) for i in range(len(sweep["points"]))]
    return [str(numbers.get(i, DASH)) for i in range(len(sweep["points"]))]


def stopped_rows(sweep: Sweep, n_scores: int) -> list[list[object]]:
    """Returns the rows of trials that were not evaluated in full, which have no scores.

    Args:
        sweep: The points with the trials.
        n_scores: The number of columns of scores.
    """
    return [
        [
            str(each["number"]),
            *(
                each["values"][name] if isinstance(each["values"][name], str) else f"{each['values'][name]:g}"
                for name in sweep["vary"]
            ),
            *([DASH] * n_scores),
            _away(each["from_best"]),
            f"stopped at {percent(each['share'])}" if each["state"] == PRUNED else each["state"],
        ]
        for each in trials(sweep)
        if each["state"] != COMPLETE
    ]


def _away(difference: Mapping[str, Any]) -> str:
    if difference.get("value") is None:
        return DASH
    return f"{signed(difference['value'], 4)} ± {number(difference.get('stderr'), 4)}"
