"""The colours of heat maps: a ramp from dark to light, which colour-blind readers can follow."""

from __future__ import annotations

from itertools import pairwise

RAMP = ("#31246e", "#2a4f94", "#1f7797", "#2d9d85", "#79bf58", "#f4e24d")
"""From the smallest value to the largest: sRGB, evenly spaced.

Lightness rises evenly from stop to stop, so the order survives without hue, as in a greyscale print. The
darkest differs from a black screen, and the lightest from a white page.
"""

STEPS = {
    "256": ("color(54)", "color(24)", "color(31)", "color(36)", "color(78)", "color(185)", "color(227)"),
    "standard": ("blue", "cyan", "bright_green", "bright_yellow"),
}
"""The same in steps, by rich's names, for terminals of 256 and 16 colours. Rounding `RAMP` to their colours
would break the order of lightness."""


def colour(share: float) -> str:
    """Returns the colour of a value as `#rrggbb`.

    Args:
        share: The value's position between the smallest, 0, and the largest, 1.
    """
    position = min(max(share, 0.0), 1.0) * (len(RAMP) - 1)
    before = min(int(position), len(RAMP) - 2)
    low, high = list(pairwise(RAMP))[before]
    mixed = (
        round(x + (position - before) * (y - x)) for x, y in zip(_channels(low), _channels(high), strict=True)
    )
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def step(share: float, system: str) -> str:
    """Returns the colour of a value on a terminal of few colours; see `colour`.

    Args:
        share: The value's position between the smallest, 0, and the largest, 1.
        system: A key of `STEPS`.
    """
    steps = STEPS[system]
    return steps[min(int(max(share, 0.0) * len(steps)), len(steps) - 1)]


def _channels(stop: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(stop[1:]))
