"""Charts of one value a row, with error bars: losses of models, and differences from zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fusion_slerp.drawing.axes import (
    CHARACTER,
    Axes,
    Frame,
    bottom_of,
    shortened,
    svg_of,
    text,
    tick_text,
    ticks,
)
from fusion_slerp.drawing.marks import colour_name, mark
from fusion_slerp.drawing.markup import Html, html, number, signed


class Dot(NamedTuple):
    """A row of a dot chart: its label and name, a value, and the ends of its error bar."""

    label: str
    name: str
    value: float
    low: float | None = None
    high: float | None = None


def dot_chart(dots: Sequence[Dot], width: int, x_title: str, title: str, with_zero: bool = False) -> Html:
    """Returns one row for each value, with its error bar.

    Args:
        dots: The rows, from top to bottom.
        width: Of the drawing.
        x_title: Below the axis.
        title: What the chart shows, for readers of screens.
        with_zero: Whether zero is shown, as a line to compare with.
    """
    left, right, step, top = 96.0, 58, 27, 10
    height = top + step * len(dots) + 44
    values = [v for dot in dots for v in (dot.value, dot.low, dot.high) if v is not None]
    values += [0.0] if with_zero else []
    marks = ticks(min(values), max(values), 5)
    frame = Frame(width, height, x_title, "", [(v, tick_text(v)) for v in marks], right)
    axes = Axes(frame, (marks[0], marks[-1]), (0, 1), left, top, 42)
    lines = [f'<path class="grid" d="M{axes.at_x(v):g} {top}V{height - 42}"/>' for v in marks]
    if with_zero:
        lines.append(f'<path class="zero" d="M{axes.at_x(0):g} {top}V{height - 42}"/>')
    rows = [_dot(dot, top + step * i + step / 2, axes, step, with_zero) for i, dot in enumerate(dots)]
    return svg_of(width, height, title, [*lines, *bottom_of(axes), *rows])


def _dot(dot: Dot, y: float, axes: Axes, step: int, is_signed: bool) -> str:
    x, kind = axes.at_x(dot.value), colour_name(dot.label)
    bar, read = "", f"{dot.name}|{number(dot.value, 4)}"
    if dot.low is not None and dot.high is not None:
        low, high = axes.at_x(dot.low), axes.at_x(dot.high)
        bar = f'<path class="bar" d="M{low:g} {y:g}H{high:g}M{low:g} {y - 4:g}v8M{high:g} {y - 4:g}v8"/>'
        read += f"|95 % interval: {number(dot.low, 4)} to {number(dot.high, 4)}"
    most = int((axes.left - 10) / CHARACTER)
    name = shortened(dot.name, most)
    band = (
        f'<rect class="band" x="0" y="{y - step / 2:g}" width="{axes.frame.width}" height="{step}" '
        f'data-read="{html(read)}"/>'
    )
    dots = f'<g class="dots" transform="translate({x:g} {y:g}) scale(.85)">{mark(dot.label)}</g>'
    shown = signed(dot.value) if is_signed else number(dot.value)
    value = text(axes.frame.width - axes.frame.right + 12, y + 4, shown, "tick")
    return f'{text(0, y + 4, name, "name")}<g class="series s-{kind}">{bar}{dots}</g>{value}{band}'
