"""A sweep or a search: the loss over what was varied, the source models as lines, and the best marked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import isfinite
from typing import Any

from fusion_slerp.drawing.axes import Frame
from fusion_slerp.drawing.charts import Level, Point, Series, line_chart
from fusion_slerp.drawing.depth import scale
from fusion_slerp.drawing.heat import HeatMap, heat_svg, heat_table, legend
from fusion_slerp.drawing.marks import STOPPED
from fusion_slerp.drawing.markup import DASH, Html, joined, number, signed, table, tag
from fusion_slerp.reports.evaluations import AVERAGE
from fusion_slerp.reports.sections import search
from fusion_slerp.reports.sections.evaluation import Z
from fusion_slerp.reports.sections.parts import Data, Section, key, labelled, panels, paragraph, plot
from fusion_slerp.settings.labels import labels


def section(data: Data) -> Section | None:
    """Returns the curve of one parameter, the heat map of two, and the table of all points."""
    sweep = data.get("sweep")
    if not sweep or not sweep["points"]:
        return None
    axes, is_search = varied(sweep), bool(search.trials(sweep))
    parts = [paragraph(_lead(sweep))]
    if len(axes) == 1 and _is_numeric(sweep, axes[0]):
        wide, narrow = curves(data, axes[0])
        parts += [
            key(_series_names(data)),
            paragraph(_of_levels(data), class_="note"),
            plot(wide, narrow=narrow),
        ]
    elif is_search:
        charts = [plot(chart, axis) for axis, chart in search.slices(sweep, axes)]
        parts += [
            key(search.series_names(sweep)),
            paragraph(_of_stopped(sweep), class_="note"),
            panels(charts),
        ]
    elif len(axes) == 2:
        found = heat_map(sweep, axes)
        parts += [legend(found), heat_table(found)]
    name = "Search" if is_search else "Sweep"
    return Section("sweep", name, f"The metric over {' and '.join(axes)}", joined([*parts, _table(data)]))


def _of_stopped(sweep: Mapping[str, Any]) -> str:
    return search.NOTE if STOPPED in search.series_names(sweep) else ""


def _is_numeric(sweep: Mapping[str, Any], axis: str) -> bool:
    return all(isinstance(point["values"].get(axis), (int, float)) for point in sweep["points"])


def _lead(sweep: Mapping[str, Any]) -> str:
    noise = sweep["within_noise"]
    text = f"Points are judged by {sweep['metric']['name']}; {sweep['metric']['better']} is better."
    if noise:
        text += (
            " Points within the noise of the best are marked in the table: the data cannot tell them apart."
        )
    return text


def _lines(sweep: Mapping[str, Any]) -> list[str]:
    """The texts that have a line each, that of the metric first; none if the metric is no loss of a text."""
    texts = sweep["texts"] if sweep["text"] is not None else []
    first = [text for text in texts if text == sweep["text"]]
    return [*first, *(text for text in texts if text not in first)][:6]


def pictures(data: Data) -> Iterator[tuple[str, Html]]:
    """Yields the curve or the heat map as a drawing of its own, or those of a search, with their names."""
    sweep, axes = data["sweep"], varied(data["sweep"])
    if len(axes) == 1 and _is_numeric(sweep, axes[0]):
        yield "sweep", curves(data, axes[0])[0]
    elif search.trials(sweep):
        yield from ((f"search-{axis}", chart) for axis, chart in search.slices(sweep, axes))
    elif len(axes) == 2:
        yield "sweep", heat_svg(heat_map(sweep, axes))


def varied(sweep: Mapping[str, Any]) -> list[str]:
    """Returns the parameters that take several values; all of them if none does, and of a search."""
    if search.trials(sweep):
        return list(sweep["vary"])
    return [name for name, values in sweep["vary"].items() if len(values) > 1] or list(sweep["vary"])


def _of_levels(data: Data) -> str:
    sweep = data["sweep"]
    what = f", on the {_text_name(sweep['text'])}" if sweep["text"] else ""
    lines = f"Dashed lines are the source models{what}." if sweep["parents"] else ""
    return " ".join(filter(None, ["Bars are 95 % intervals.", lines, _of_stopped(sweep)]))


def _series_names(data: Data) -> dict[str, str]:
    sweep = data["sweep"]
    lines = _lines(sweep)
    if not lines:
        return {"child": sweep["metric"]["name"]}
    own = {mark: _text_name(text) for mark, text in zip(_marks(sweep, lines), lines, strict=True)}
    return own | {each.label: each.name for each in search.stopped(sweep, varied(sweep)[0])}


def _marks(sweep: Mapping[str, Any], lines: Sequence[str]) -> list[str]:
    """The look of each line: the merged model's for the text that decides."""
    others = iter(labels(len(lines) + 3)[2:])  # the first ones are those of models
    return ["child" if text == sweep["text"] else next(others) for text in lines]


def _text_name(text: str) -> str:
    return "average of the texts" if text == AVERAGE else text


def curves(data: Data, axis: str) -> tuple[Html, Html]:
    """Returns the chart of the metric over one parameter, for wide and for narrow screens."""
    sweep = data["sweep"]
    points = sorted(sweep["points"], key=lambda point: point["values"][axis])
    lines = _lines(sweep)
    series = [
        Series(mark, _text_name(text), [_point(point, axis, text) for point in points])
        for mark, text in zip(_marks(sweep, lines), lines, strict=True)
    ]
    if not series:
        metric = [
            _with_error(point["values"][axis], point["metric"], point["metric_stderr"]) for point in points
        ]
        series = [Series("child", sweep["metric"]["name"], metric)]
    crosses = search.stopped(sweep, axis)
    series += crosses
    best = None if sweep["best"] is None else sweep["points"][sweep["best"]]
    mark = None if best is None else Point(best["values"][axis], _of_metric(best, sweep))
    y_title = "loss in nats per token" if lines else sweep["metric"]["name"]
    drawn = [
        line_chart(
            series,
            Frame(width, height, axis, y_title, None if crosses else _ticks(points, axis, most), right),
            f"{y_title} over {axis}",
            _levels(data),
            mark,
            lambda x: f"{axis} = {x:g}",
        )
        for width, height, right, most in ((720, 380, 150, 13), (360, 320, 92, 7))
    ]
    return drawn[0], drawn[1]


def _levels(data: Data) -> list[Level]:
    """The source models as lines to compare with."""
    sweep = data["sweep"]
    if sweep["text"] is not None and not sweep["metric"]["name"].endswith(".loss"):
        return []
    parents = sweep["parents"].items()
    return [Level(label, labelled(data, label), value) for label, value in parents if value is not None]


def _ticks(points: Sequence[Mapping[str, Any]], axis: str, most: int) -> list[tuple[float, str]] | None:
    """The points' own positions, or every second one; None if those are still too many or too close."""
    values = list(dict.fromkeys(point["values"][axis] for point in points))
    values = values if len(values) <= most else values[::2]
    span = (values[-1] - values[0]) or 1.0
    are_apart = all(high - low >= span / (1.5 * most) for low, high in pairwise(values))
    return [(value, f"{value:g}") for value in values] if len(values) <= most and are_apart else None


def _point(point: Mapping[str, Any], axis: str, text: str) -> Point:
    score = point["scores"].get(text, {})
    return _with_error(point["values"][axis], score.get("loss"), score.get("loss_stderr"))


def _with_error(x: float, y: float | None, stderr: float | None) -> Point:
    if y is None or stderr is None or not isfinite(stderr):
        return Point(x, y)
    return Point(x, y, y - Z * stderr, y + Z * stderr)


def _of_metric(point: Mapping[str, Any], sweep: Mapping[str, Any]) -> float | None:
    """Where the best point is marked: on the line of the text that decides."""
    if sweep["text"] is None:
        return point["metric"]
    return point["scores"].get(sweep["text"], {}).get("loss")


def heat_map(sweep: Mapping[str, Any], axes: Sequence[str]) -> HeatMap:
    """Returns the metric over two parameters; of a third one, the best value is shown."""
    down, across = axes
    better = max if sweep["metric"]["better"] == "higher" else min
    rows, columns = (_axis(sweep, axis) for axis in axes)
    cells: list[list[float | None]] = [[None] * len(columns) for _ in rows]
    for point in sweep["points"]:
        i, j = rows.index(str(point["values"][down])), columns.index(str(point["values"][across]))
        values = [v for v in (cells[i][j], point["metric"]) if v is not None]
        cells[i][j] = better(values) if values else None
    known = [value for line in cells for value in line if value is not None] or [0.0]
    ends = scale(known)
    best = None if sweep["best"] is None else sweep["points"][sweep["best"]]["values"]
    marked = None if best is None else (rows.index(str(best[down])), columns.index(str(best[across])))
    return HeatMap(
        f"{sweep['metric']['name']} by {down} and {across}",
        columns,
        across,
        rows,
        [down] * len(rows),
        cells,
        min(known),
        max(ends["high"], max(known)),
        digits=3,
        marked=marked,
    )


def _axis(sweep: Mapping[str, Any], axis: str) -> list[str]:
    values = dict.fromkeys(point["values"][axis] for point in sweep["points"])
    numeric = all(isinstance(value, (int, float)) for value in values)
    return [str(value) for value in (sorted(values) if numeric else values)]


def _table(data: Data) -> Html:
    sweep = data["sweep"]
    names, texts = list(sweep["vary"]), sweep["texts"]
    head = [
        "trial" if search.trials(sweep) else "point",
        *names,
        *_metric_name(sweep),
        *(f"loss, {text}" for text in texts),
        "from the best",
        tag("span", "remark", class_="vh"),
    ]
    first = search.first_cells(sweep)
    rows = [[first[i], *_cells(point, i, sweep)] for i, point in enumerate(sweep["points"])]
    rows += search.stopped_rows(sweep, len(head) - len(names) - 3)
    if search.trials(sweep):
        rows.sort(key=lambda row: int(str(row[0])) if str(row[0]).isdigit() else len(rows))
    parents = [
        [
            labelled(data, label),
            *([DASH] * len(names)),
            *_metric(value, sweep),
            *_parent_losses(data, label, texts),
            DASH,
            "source model",
        ]
        for label, value in sweep["parents"].items()
    ]
    save = tag("button", "Save as CSV", type="button", class_="save", data_csv="points")
    title = "All trials" if search.trials(sweep) else "All points"
    right = range(1, len(head) - 1)
    return joined(
        [
            tag("h3", title),
            tag("div", save, table(head, [*rows, *parents], title, right, "points"), class_="saved"),
        ]
    )


def _metric_name(sweep: Mapping[str, Any]) -> list[str]:
    """The heading of the metric's column; none if it is one of the losses, which have their own."""
    name = sweep["metric"]["name"]
    return [] if name in [f"{text}.loss" for text in sweep["texts"]] else [name]


def _metric(value: float | None, sweep: Mapping[str, Any]) -> list[str]:
    return [number(value, 4) for _ in _metric_name(sweep)]


def _parent_losses(data: Data, label: str, texts: Sequence[str]) -> list[str]:
    scores = data["evaluation"]["models"].get(label, {})
    return [number(scores.get(text, {}).get("loss"), 4) for text in texts]


def _cells(point: Mapping[str, Any], i: int, sweep: Mapping[str, Any]) -> list[object]:
    away = point["from_best"]
    if i == sweep["best"]:
        state: object = tag("strong", "best")
    elif i in (sweep["within_noise"] or []):
        state = "within noise"
    else:
        state = ""
    return [
        *(value if isinstance(value, str) else f"{value:g}" for value in point["values"].values()),
        *_metric(point["metric"], sweep),
        *(number(point["scores"].get(text, {}).get("loss"), 4) for text in sweep["texts"]),
        DASH if i == sweep["best"] or not away or away.get("value") is None else _away(away),
        state,
    ]


def _away(away: Mapping[str, float]) -> str:
    error = away.get("stderr")
    return signed(away["value"], 4) + ("" if error is None else f" ± {number(error, 4)}")
