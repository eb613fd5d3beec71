"""The colours of maps on a terminal: the scale of reports, or a few steps where there are few colours."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fusion_slerp.drawing.colours import level, sequential

if TYPE_CHECKING:
    from rich.console import Console

STEPS = {
    "256": ("color(54)", "color(24)", "color(31)", "color(36)", "color(78)", "color(185)", "color(227)"),
    "standard": ("blue", "cyan", "bright_green", "bright_yellow"),
}
"""The scale in steps, by rich's names, for terminals of 256 and 16 colours. Rounding its own colours to
theirs would break the order of lightness."""


def painter(low: float, high: float, screen: Console) -> Callable[[float], str] | None:
    """Returns what gives a value its colour on a screen; None if it shows no colours or no half blocks.

    Args:
        low: The smallest value.
        high: The largest; if it is the same, all values have the colour of the middle.
        screen: The console.
    """
    system = screen.color_system
    if not screen.is_terminal or screen.no_color or system is None or not screen.encoding.startswith("utf"):
        return None
    colours = STEPS.get(system) or sequential(is_dark=True)
    if low == high:
        return lambda value: colours[len(colours) // 2]
    return lambda value: colours[level(value, low, high, len(colours))]
