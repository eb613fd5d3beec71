"""A chart as an SVG file that reads anywhere: on white, with every colour and font as an attribute.

It has no stylesheet: sites that show files of strangers may forbid one, and a model's card is shown there.
"""

from __future__ import annotations

import re
from functools import cache

from fusion_slerp.drawing.colours import LIGHT, SERIES, sequential, text_on
from fusion_slerp.drawing.markup import Html

FAMILY = "DejaVu Sans, Liberation Sans, Helvetica, Arial, sans-serif"

Attributes = dict[str, str]

_CLASS = re.compile(r' class="([^"]*)"')
_BAND = re.compile(r'<rect class="band"[^>]*/>')


def standalone(chart: Html) -> str:
    """Returns a chart as the text of an SVG file, with its namespace and a white ground.

    Args:
        chart: A drawing whose parts have the classes of the page's stylesheet.
    """
    head, _, body = chart.partition(">")
    head = _CLASS.sub("", head).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    ground = f'<rect width="100%" height="100%" fill="{LIGHT["bg"]}"/>'
    font = f'<g font-family="{FAMILY}" font-size="12" fill="{LIGHT["ink"]}">'
    drawn = _CLASS.sub(_attributes, _BAND.sub("", body.removesuffix("</svg>")))
    return f"{head}>{ground}{font}{drawn}</g></svg>\n"


def _attributes(match: re.Match[str]) -> str:
    """The attributes of an element's classes; those of the last one win."""
    given: Attributes = {}
    for name in match[1].split():
        given |= _by_class().get(name, {})
    return "".join(f' {key}="{value}"' for key, value in given.items())


@cache
def _by_class() -> dict[str, Attributes]:
    """The look of each class: the colour of a series is inherited by its parts."""
    ink, soft, background = LIGHT["ink"], LIGHT["soft"], LIGHT["bg"]
    looks: dict[str, Attributes] = {
        "soft": {"fill": soft},
        "tick": {"fill": soft},
        "strong": {"font-weight": "700"},
        "halo": {"stroke": background, "stroke-width": "4", "paint-order": "stroke"},
        "grid": {"stroke": LIGHT["grid"], "fill": "none"},
        "axis": {"stroke": LIGHT["axis"], "fill": "none"},
        "zero": {"stroke": ink, "stroke-dasharray": "4 3"},
        "ring": {"fill": "none", "stroke": ink, "stroke-width": "2"},
        "line": {
            "fill": "none",
            "stroke": "currentColor",
            "stroke-width": "2",
            "stroke-linejoin": "round",
        },
        "bar": {"fill": "none", "stroke": "currentColor", "stroke-width": "1.4"},
        "level": {
            "fill": "none",
            "stroke": "currentColor",
            "stroke-width": "1.5",
            "stroke-dasharray": "6 4",
        },
        "dots": {"fill": "currentColor", "stroke": background, "stroke-width": "1"},
        "stroke": {"stroke": "currentColor", "stroke-width": "2"},
    }
    looks |= {f"s-{name}": {"color": LIGHT[name]} for name in ("child", "base", *SERIES)}
    for i, colour in enumerate(sequential()):
        looks |= {f"f{i}": {"fill": colour}, f"c{i}": {"fill": text_on(colour)}}
    return looks
