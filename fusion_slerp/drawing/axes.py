"""The axes of a chart: from values to positions in the drawing, round numbers, grid lines and names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil, floor, log10
from typing import NamedTuple

from fusion_slerp.drawing.markup import Html, html
from fusion_slerp.errors import printable

FONT = 12
"""Size of the text in units of the drawing, which are pixels at full width."""

CHARACTER = 6.6
"""Mean width of a character at that size."""


class Frame(NamedTuple):
    """The size of a chart and its axes.

    Attributes:
        width: In units of the drawing.
        height: Likewise.
        x_title: Below the horizontal axis.
        y_title: Above the vertical axis.
        x_ticks: Positions that are named on the horizontal axis, with their names; None chooses round
            numbers.
        right: Space to the right of the axes, for the names of lines.
        y_limits: The ends of the vertical axis; None takes those of the data, widened to round numbers.
    """

    width: int = 360
    height: int = 230
    x_title: str = ""
    y_title: str = ""
    x_ticks: Sequence[tuple[float, str]] | None = None
    right: int = 84
    y_limits: tuple[float, float] | None = None


def depth_frame(layers: Sequence[int], y_title: str, right: int = 84, width: int = 360) -> Frame:
    """Returns the axes of a chart over depth, with every layer named where there is space."""
    step = next(s for s in (1, 2, 4, 5, 8, 10, 20, 25, 50, 100, 10_000) if len(layers) / s <= 9)
    ticks = [(float(layer), str(layer)) for layer in layers if layer % step == 0]
    return Frame(width=width, x_title="layer", y_title=y_title, x_ticks=ticks, right=right)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Returns round numbers from just below `low` to just above `high`, `most` at most."""
    if high <= low:
        low, high = (low - 0.5, high + 0.5) if low == 0 else (low - abs(low) / 10, high + abs(low) / 10)
    rough = (high - low) / max(most - 2, 1)
    size = 10.0 ** floor(log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough * 0.999)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def tick_text(value: float) -> str:
    """Returns the number at a tick, without zeros that say nothing."""
    return f"{value:.6g}".replace("-", "−")


class Axes(NamedTuple):
    """From values to positions in the drawing.

    Attributes:
        frame: The size of the chart.
        x: The ends of the horizontal axis.
        y: The ends of the vertical axis.
        left: Space for the names on the vertical axis.
        top: Space above the axes.
        bottom: Space below them.
    """

    frame: Frame
    x: tuple[float, float]
    y: tuple[float, float]
    left: float
    top: float = 26
    bottom: float = 42

    def at_x(self, value: float) -> float:
        """Returns the horizontal position of a value."""
        low, high = self.x
        inner = self.frame.width - self.left - self.frame.right
        return round(self.left + (value - low) / ((high - low) or 1) * inner, 2)

    def at_y(self, value: float) -> float:
        """Returns the vertical position of a value."""
        low, high = self.y
        inner = self.frame.height - self.top - self.bottom
        return round(self.top + (high - value) / ((high - low) or 1) * inner, 2)


def grid_of(axes: Axes) -> list[str]:
    """Returns horizontal lines with their numbers, and the vertical axis's title."""
    right = axes.frame.width - axes.frame.right
    parts = [text(2, 13, axes.frame.y_title, "soft")]
    for value in ticks(*axes.y):
        if axes.y[0] <= value <= axes.y[1]:
            y = axes.at_y(value)
            parts.append(f'<path class="grid" d="M{axes.left:g} {y:g}H{right}"/>')
            parts.append(text(axes.left - 7, y + 4, tick_text(value), "tick", "end"))
    return parts


def bottom_of(axes: Axes) -> list[str]:
    """Returns the horizontal axis with its names and title."""
    frame = axes.frame
    y, right = frame.height - axes.bottom, frame.width - frame.right
    parts = [f'<path class="axis" d="M{axes.left:g} {y:g}H{right}"/>']
    named = frame.x_ticks
    if named is None:
        named = [(v, tick_text(v)) for v in ticks(*axes.x) if axes.x[0] - 1e-9 <= v <= axes.x[1] + 1e-9]
    for value, label in named:
        x = axes.at_x(value)
        parts.append(f'<path class="axis" d="M{x:g} {y:g}v4"/>')
        parts.append(text(x, y + 17, label, "tick", "middle"))
    middle = (axes.left + right) / 2
    return [*parts, text(middle, frame.height - 6, frame.x_title, "soft", "middle")]


def text(x: float, y: float, content: str, class_: str = "", anchor: str = "start") -> str:
    """Returns a text element; the content is escaped."""
    where = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return (
        f'<text x="{x:g}" y="{y:g}"{where} class="{class_}">{html(printable(content))}</text>'
        if content
        else ""
    )


def shortened(name: str, most: int) -> str:
    """Returns a name of at most this many characters; a cut one ends in an ellipsis."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def svg_of(width: float, height: float, title: str, parts: Iterable[str]) -> Html:
    """Returns a drawing with its title for readers of screens."""
    label = html(title)
    return Html(
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="{label}" class="chart">{"".join(parts)}</svg>'
    )
