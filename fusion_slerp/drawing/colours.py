"""Colours of pages, figures and terminals, safe for colour-blind readers.

The sequential scale is our own: six stops in OKLCh whose lightness falls evenly, so that it reads in grey
and on paper. On dark ground it runs the other way round: small values recede in both. The lightest colour
differs from white and the darkest from black, for terminals whose ground nobody knows.

Source: OKLab, https://bottosson.github.io/posts/oklab; the categorical colours are those of M. Okabe and
K. Ito, https://jfly.uni-koeln.de/color, adjusted in lightness to 3:1 against the background.
"""

from __future__ import annotations

from functools import cache
from math import cos, radians, sin

LEVELS = 24
"""Steps of the sequential scale."""

STOPS = (
    (0.940, 0.105, 107),
    (0.845, 0.115, 135),
    (0.725, 0.110, 168),
    (0.590, 0.095, 220),
    (0.455, 0.105, 258),
    (0.320, 0.105, 285),
)
"""Lightness, chroma and hue in degrees, evenly spaced from the smallest value to the largest."""

INK, PAPER = "#000000", "#ffffff"
"""Text on light and on dark colours of the scale: every colour is at 4.5:1 from one of the two."""

Theme = dict[str, str]
"""The names of colours in stylesheets, and their values."""

LIGHT: Theme = {
    "bg": "#ffffff",
    "panel": "#f6f7f9",
    "ink": "#1a2028",
    "soft": "#56616e",
    "grid": "#e3e7ec",
    "axis": "#8a95a3",
    "accent": "#0b62a8",
    "child": "#1a2028",
    "base": "#6b7580",
    "a": "#0072b2",
    "b": "#d55e00",
    "c": "#00875f",
    "d": "#b4558d",
    "e": "#8f6200",
    "f": "#2e8fc4",
}
DARK: Theme = {
    "bg": "#14181d",
    "panel": "#1c2128",
    "ink": "#e8ecf1",
    "soft": "#a5b0bd",
    "grid": "#2c333c",
    "axis": "#6f7b89",
    "accent": "#7cc0f2",
    "child": "#f2f5f8",
    "base": "#97a2af",
    "a": "#56b4e9",
    "b": "#ee8a3a",
    "c": "#2fbf96",
    "d": "#d991bd",
    "e": "#e0ad2b",
    "f": "#8fd0f5",
}

SERIES = ("a", "b", "c", "d", "e", "f")
"""Names of the categorical colours, in order; more series share them and differ in their marks."""


@cache
def sequential(is_dark: bool = False) -> tuple[str, ...]:
    """Returns the `LEVELS` colours of the sequential scale, from the smallest value to the largest."""
    positions = [i / (LEVELS - 1) * (len(STOPS) - 1) for i in range(LEVELS)]
    colours = tuple(_between(STOPS, position) for position in positions)
    return colours[::-1] if is_dark else colours


def level(value: float, low: float, high: float, n: int = LEVELS) -> int:
    """Returns the index of a value's colour among `n` from `low` to `high`; values outside get the ends."""
    share = (value - low) / (high - low) if high > low else 0.0
    return min(max(int(share * n), 0), n - 1)


def text_on(colour: str) -> str:
    """Returns `INK` or `PAPER`, whichever contrasts more with a colour."""
    return max((INK, PAPER), key=lambda text: contrast(text, colour))


def contrast(one: str, other: str) -> float:
    """Returns the ratio of two colours' luminances as WCAG 2 defines it: from 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """Returns the relative luminance of `#rrggbb`, from 0 to 1."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def _between(stops: tuple[tuple[float, float, float], ...], position: float) -> str:
    before = min(int(position), len(stops) - 2)
    share = position - before
    values = (p + share * (q - p) for p, q in zip(stops[before], stops[before + 1], strict=True))
    return _hex(*values)


def _hex(lightness: float, chroma: float, hue: float) -> str:
    """A colour of OKLCh as `#rrggbb`; what sRGB cannot show is clipped."""
    a, b = chroma * cos(radians(hue)), chroma * sin(radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    channels = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    return "#" + "".join(f"{round(255 * _encoded(min(max(c, 0.0), 1.0))):02x}" for c in channels)


def _encoded(c: float) -> float:
    return 12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055
