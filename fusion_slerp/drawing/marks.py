"""The look of a series in every chart: a colour, and a mark, so that nothing rests on colour alone."""

from __future__ import annotations

from fusion_slerp.drawing.colours import SERIES
from fusion_slerp.settings.labels import labels

SHAPES = {
    "circle": '<circle r="3.6"/>',
    "square": '<rect x="-3.3" y="-3.3" width="6.6" height="6.6"/>',
    "triangle": '<path d="M0-4.4 4 3H-4z"/>',
    "diamond": '<path d="M0-4.7 4.3 0 0 4.7-4.3 0z"/>',
    "down": '<path d="M0 4.4 4-3H-4z"/>',
    "cross": '<path d="M-3.4-3.4 3.4 3.4M3.4-3.4-3.4 3.4" class="stroke"/>',
    "star": '<path d="M0-6.5 1.9-2 6.5-1.9 3 1.3 4 6 0 3.4-4 6-3 1.3-6.5-1.9-1.9-2z"/>',
}
"""Marks around the origin, by name."""

ORDER = ("circle", "square", "triangle", "diamond", "down", "cross")

STOPPED = "stopped"
"""The label of trials that were stopped early."""

_LABELS = labels(24)


def colour_name(label: str) -> str:
    """Returns the name of a series' colour: its own for the merged model and the base, else by its label."""
    if label in ("child", "base"):
        return label
    if label == "best":
        return "child"
    if label == STOPPED:
        return "base"
    return SERIES[_index(label) % len(SERIES)]


def shape_name(label: str) -> str:
    """Returns the name of a series' mark in `SHAPES`."""
    if label in ("child", "best"):
        return "star"
    return "cross" if label in ("base", STOPPED) else ORDER[_index(label) % (len(ORDER) - 1)]


def mark(label: str) -> str:
    """Returns a series' mark as SVG around the origin."""
    return SHAPES[shape_name(label)]


def _index(label: str) -> int:
    return _LABELS.index(label) if label in _LABELS else sum(label.encode()) % len(SERIES)
