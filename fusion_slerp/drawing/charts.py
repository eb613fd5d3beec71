"""Line charts as SVG, over depth or over a parameter, with error bars and levels to compare with.

Colours are classes, so that a page and a figure style the same drawing. Each chart has bands that a page
reads out: `data-read` holds their lines, separated by `|`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import ceil
from typing import NamedTuple

from fusion_slerp.drawing.axes import (
    CHARACTER,
    FONT,
    Axes,
    Frame,
    bottom_of,
    grid_of,
    shortened,
    svg_of,
    text,
    tick_text,
    ticks,
)
from fusion_slerp.drawing.marks import colour_name, mark
from fusion_slerp.drawing.markup import Html, html, number


class Point(NamedTuple):
    """A value at a position, with the ends of its error bar if it has one."""

    x: float
    y: float | None
    low: float | None = None
    high: float | None = None


class Series(NamedTuple):
    """A line of a chart.

    Attributes:
        label: The label of a model, which decides colour and mark; or any other text.
        name: Its name next to the line.
        points: Its points by ascending x.
        has_line: Whether a line joins them, with the name at its end.
    """

    label: str
    name: str
    points: Sequence[Point]
    has_line: bool = True


class Level(NamedTuple):
    """A horizontal line: a value to compare with."""

    label: str
    name: str
    y: float


def line_chart(
    series: Sequence[Series],
    frame: Frame,
    title: str,
    levels: Sequence[Level] = (),
    best: Point | None = None,
    read_x: Callable[[float], str] = tick_text,
    digits: int = 3,
) -> Html:
    """Returns lines with their points, error bars and names.

    Args:
        series: The lines.
        frame: Size and axes.
        title: What the chart shows, for readers of screens.
        levels: Horizontal lines to compare with.
        best: A point that is marked.
        read_x: Names a position when it is read out.
        digits: Digits after the point of values that are read out.
    """
    axes = _axes(series, frame, levels)
    parts = [*grid_of(axes), *bottom_of(axes)]
    parts += [_level(each, axes) for each in levels]
    parts += [_line(each, axes) for each in series]
    if best is not None and best.y is not None:
        parts.append(_best(best, axes))
    lines = [each for each in series if each.has_line]
    ends = [(axes.at_y(y), each.label, each.name) for each in lines if (y := _last(each)) is not None]
    ends += [(axes.at_y(each.y), each.label, each.name) for each in levels]
    parts += _names(ends, axes)
    parts += _bands(series, levels, axes, read_x, digits)
    return svg_of(frame.width, frame.height, title, parts)


def _axes(series: Sequence[Series], frame: Frame, levels: Sequence[Level]) -> Axes:
    points = [point for each in series for point in each.points]
    xs = [point.x for point in points] + [x for x, _ in frame.x_ticks or ()]
    ys = [v for p in points for v in (p.y, p.low, p.high) if v is not None] + [each.y for each in levels]
    low, high = frame.y_limits or (min(ys, default=0.0), max(ys, default=1.0))
    marks = ticks(low, high)
    left = 14 + CHARACTER * max(len(tick_text(value)) for value in marks)
    x = (min(xs, default=0.0), max(xs, default=1.0))
    return Axes(frame, x if x[0] < x[1] else (x[0] - 0.5, x[1] + 0.5), (marks[0], marks[-1]), left)


def _line(series: Series, axes: Axes) -> str:
    known = [point for point in series.points if point.y is not None]
    drawn, pen = [], "M"
    for point in series.points:
        if point.y is None:
            pen = "M"
            continue
        drawn.append(f"{pen}{axes.at_x(point.x):g} {axes.at_y(point.y):g}")
        pen = "L"
    bars = "".join(_bar(point, axes) for point in known)
    spacing = (axes.frame.width - axes.left) / max(len(known), 1)
    marks = known if spacing >= 9 or not series.has_line else known[:: ceil(9 / spacing)]
    dots = "".join(
        f'<g transform="translate({axes.at_x(p.x):g} {axes.at_y(p.y or 0):g})">{mark(series.label)}</g>'
        for p in marks
    )
    kind = colour_name(series.label)
    line = f'<path class="line" d="{"".join(drawn)}"/>' if series.has_line else ""
    return f'<g class="series s-{kind}">{line}{bars}<g class="dots">{dots}</g></g>'


def _bar(point: Point, axes: Axes) -> str:
    """The error bar of a point, with ends."""
    if point.low is None or point.high is None:
        return ""
    x, low, high = axes.at_x(point.x), axes.at_y(point.low), axes.at_y(point.high)
    return f'<path class="bar" d="M{x:g} {high:g}V{low:g}M{x - 3:g} {high:g}h6M{x - 3:g} {low:g}h6"/>'


def _level(level: Level, axes: Axes) -> str:
    y, right = axes.at_y(level.y), axes.frame.width - axes.frame.right
    return f'<path class="level s-{colour_name(level.label)}" d="M{axes.left:g} {y:g}H{right}"/>'


def _best(point: Point, axes: Axes) -> str:
    x, y = axes.at_x(point.x), axes.at_y(point.y or 0.0)
    ring = f'<circle class="ring" cx="{x:g}" cy="{y:g}" r="8.5"/>'
    anchor = "end" if x > axes.frame.width - axes.frame.right - 30 else "middle"
    return ring + text(x, max(y - 15, 12), "best", "strong halo", anchor)


def _last(series: Series) -> float | None:
    return next((point.y for point in reversed(series.points) if point.y is not None), None)


def _names(ends: Iterable[tuple[float, str, str]], axes: Axes) -> list[str]:
    """The names of lines at their right ends, moved apart where they would overlap."""
    gap, room = FONT + 2, axes.frame.right - 12
    ordered = sorted(ends)
    positions: list[float] = []
    for y, _, _ in ordered:
        positions.append(max(y, positions[-1] + gap) if positions else y)
    limit = axes.frame.height - axes.bottom + 4
    for i in range(len(positions) - 1, -1, -1):
        positions[i] = min(positions[i], limit)
        limit = positions[i] - gap
    x = axes.frame.width - axes.frame.right + 8
    most = int(room / CHARACTER)
    return [
        text(x, y + 4, shortened(name, most), f"name t-{colour_name(label)}")
        for y, (_, label, name) in zip(positions, ordered, strict=True)
    ]


def _bands(
    series: Sequence[Series],
    levels: Sequence[Level],
    axes: Axes,
    read_x: Callable[[float], str],
    digits: int,
) -> list[str]:
    """An invisible band for each position, with everything that is to be read there."""
    xs = sorted({point.x for each in series for point in each.points if point.y is not None})
    edges = [axes.at_x(x) for x in xs]
    parts = []
    for i, x in enumerate(xs):
        start = (edges[i - 1] + edges[i]) / 2 if i else max(axes.left - 8, 0)
        end = (edges[i] + edges[i + 1]) / 2 if i + 1 < len(xs) else axes.frame.width - axes.frame.right + 8
        lines = [read_x(x)]
        lines += [_read(each.name, point, digits) for each in series for point in each.points if point.x == x]
        lines += [f"{each.name}: {number(each.y, digits)}" for each in levels]
        read = "|".join(line.replace("|", "/") for line in lines if line)
        height = axes.frame.height - axes.top - axes.bottom
        parts.append(
            f'<rect class="band" x="{start:g}" y="{axes.top:g}" width="{end - start:g}" height="{height:g}" '
            f'data-read="{html(read)}"/>'
        )
    return parts


def _read(name: str, point: Point, digits: int) -> str:
    if point.y is None:
        return ""
    if point.low is None or point.high is None:
        return f"{name}: {number(point.y, digits)}"
    return f"{name}: {number(point.y, digits)} ({number(point.low, digits)} to {number(point.high, digits)})"
