"""Heat maps: an accessible table in the page, the same cells as SVG in a figure."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

from fusion_slerp.drawing.axes import CHARACTER, shortened, svg_of, text
from fusion_slerp.drawing.colours import LEVELS, level
from fusion_slerp.drawing.markup import Html, joined, number, tag

SHOWN_NUMBERS = 16
"""Columns of a table whose cells show their numbers; with more, only the colours, and numbers on demand."""

ROW_HEIGHT = 22.0
"""Of a drawing's rows, in its units."""

LONGEST_NAME = 40
"""Characters of a row's name in a drawing; a longer one is cut."""

NUMBER_WIDTH = 34
"""Cells of a drawing at least this wide show their numbers."""


class HeatMap(NamedTuple):
    """A table of numbers.

    Attributes:
        title: What it shows.
        columns: The columns' names, as the numbers of layers.
        column_title: What they are: `"layer"`.
        rows: The rows' names.
        groups: The group of each row, as its module; neighbours of one group are set apart from others.
        cells: A number for each row and column; None where there is none.
        low: The smallest value of the scale.
        high: The largest.
        is_open: Whether there are values above `high`.
        unit: The values' unit, as `"°"`.
        digits: Digits after the point.
        marked: A cell that stands out, by row and column.
    """

    title: str
    columns: Sequence[str]
    column_title: str
    rows: Sequence[str]
    groups: Sequence[str]
    cells: Sequence[Sequence[float | None]]
    low: float
    high: float
    is_open: bool = False
    unit: str = ""
    digits: int = 1
    marked: tuple[int, int] | None = None


def heat_table(heat: HeatMap) -> Html:
    """Returns a heat map as a grid that arrow keys move in."""
    is_dense = len(heat.columns) > SHOWN_NUMBERS
    every = _named_columns(len(heat.columns))
    corner = tag("th", heat.column_title, scope="col", class_="corner")
    head = [
        tag("th", c, scope="col", class_=None if i in every else "mute") for i, c in enumerate(heat.columns)
    ]
    lines = [_line(heat, i) for i in range(len(heat.rows))]
    inner = joined([tag("thead", tag("tr", corner, *head)), tag("tbody", *lines)])
    grid = tag(
        "table",
        inner,
        class_=f"heat {'dense' if is_dense else 'open'}",
        role="grid",
        aria_label=f"{heat.title}. Arrow keys move between cells.",
        aria_readonly="true",
        data_unit=heat.unit,
        data_column=heat.column_title,
    )
    return tag("div", grid, class_="scroll")


def _named_columns(n: int) -> set[int]:
    """The columns whose names are shown: every one, or every fifth or tenth."""
    step = 1 if n <= SHOWN_NUMBERS else 5 if n <= 60 else 10
    return set(range(0, n, step))


def _line(heat: HeatMap, i: int) -> Html:
    group = heat.groups[i]
    is_first = i == 0 or heat.groups[i - 1] != group
    heading = tag("span", group, class_="group") if is_first and group != heat.rows[i] else Html()
    name = tag("th", heading, heat.rows[i], scope="row")
    cells = [_cell(heat, i, j, value) for j, value in enumerate(heat.cells[i])]
    return tag("tr", name, *cells, class_="first" if is_first and i else None)


def _cell(heat: HeatMap, i: int, j: int, value: float | None) -> Html:
    if value is None:
        return tag("td", "", class_="none", aria_label="no value")
    kind = f"h{level(value, heat.low, heat.high)}"
    kind += " marked" if heat.marked == (i, j) else ""
    return tag("td", number(value, heat.digits), class_=kind)


def legend(heat: HeatMap) -> Html:
    """Returns the scale of a heat map, with its ends and its middle."""
    ramp = tag("span", *(tag("i", "", class_=f"h{i}") for i in range(LEVELS)), class_="ramp")
    middle = (heat.low + heat.high) / 2
    names = [f"{value:g}{heat.unit}" for value in (heat.low, middle, heat.high)]
    names[-1] += " and more" if heat.is_open else ""
    ends = tag("span", *(tag("span", name) for name in names), class_="ends")
    return tag(
        "div",
        ramp,
        ends,
        class_="legend",
        role="img",
        aria_label=f"Colours run from {names[0]} to {names[-1]}",
    )


def heat_svg(heat: HeatMap, width: int = 720) -> Html:
    """Returns a heat map as a drawing of its own, of at most this width.

    The cells of a colour are one path: 720 cells take 20 kB.
    """
    names = [shortened(name, LONGEST_NAME) for name in heat.rows]
    left = 10 + CHARACTER * max(map(len, names))
    wide = min((width - left - 8) / len(heat.columns), 56.0)
    tops = _tops(heat)
    every = _named_columns(len(heat.columns))
    parts = [text(left, 12, heat.column_title, "soft")]
    parts += [
        text(left + wide * (j + 0.5), 25, name, "tick", "middle")
        for j, name in enumerate(heat.columns)
        if j in every
    ]
    middle = ROW_HEIGHT / 2 + 4
    parts += [text(left - 8, y + middle, name, "name", "end") for name, y in zip(names, tops, strict=True)]
    parts += _cells_svg(heat, left, wide, tops)
    bottom = tops[-1] + ROW_HEIGHT
    parts += _legend_svg(heat, left, bottom + 14)
    needed = ceil(left + max(wide * len(heat.columns), 8 * LEVELS + 50) + 8)
    return svg_of(needed, bottom + 52, heat.title, parts)


def _tops(heat: HeatMap) -> list[float]:
    """The upper ends of the rows, with space between groups."""
    tops, y = [], 31.0
    for i, group in enumerate(heat.groups):
        y += 6 if i and group != heat.groups[i - 1] else 0
        tops.append(y)
        y += ROW_HEIGHT
    return tops


def _cells_svg(heat: HeatMap, left: float, wide: float, tops: Sequence[float]) -> list[str]:
    gap = min(1.0, wide / 10)
    across, down = wide - gap, ROW_HEIGHT - 1
    areas: dict[int, list[str]] = {}
    numbers: list[str] = []
    for y, line in zip(tops, heat.cells, strict=True):
        for j, value in enumerate(line):
            if value is None:
                continue
            x, step = left + wide * j, level(value, heat.low, heat.high)
            areas.setdefault(step, []).append(f"M{x:.2f} {y:g}h{across:.2f}v{down:g}h{-across:.2f}z")
            if wide >= NUMBER_WIDTH:
                shown = number(value, heat.digits)
                numbers.append(text(x + wide / 2, y + ROW_HEIGHT / 2 + 4, shown, f"tick c{step}", "middle"))
    return [*(f'<path class="f{step}" d="{"".join(areas[step])}"/>' for step in sorted(areas)), *numbers]


def _legend_svg(heat: HeatMap, x: float, y: float) -> list[str]:
    step = 8.0
    parts = [
        f'<rect class="f{i}" x="{x + step * i:g}" y="{y:g}" width="{step + 0.3:g}" height="10"/>'
        for i in range(LEVELS)
    ]
    ends = [(x, f"{heat.low:g}{heat.unit}", "start"), (x + step * LEVELS, f"{heat.high:g}{heat.unit}", "end")]
    return [*parts, *(text(at, y + 26, name, "tick", anchor) for at, name, anchor in ends)]
