"""The heat map of the angle by layer and kind of module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusion_slerp.drawing.colours import level
from fusion_slerp.drawing.heat import HeatMap, heat_table, legend
from fusion_slerp.drawing.markup import Html, count, joined, name, number, table, tag
from fusion_slerp.drawing.pictures import angle_map, digits_of
from fusion_slerp.reports.sections.parts import Data, Section, labelled, paragraph, stack_title


def section(data: Data) -> Section | None:
    """Returns a heat map for each pair of models and stack of layers, and a table of what is outside."""
    angles = data.get("angles")
    if not angles:
        return None
    found = heat_maps(data)
    parts = [paragraph(_lead(data)), paragraph(_of_scale(angles["scale"]), class_="note")]
    parts += [legend(found[0][1])] if found else []
    maps = [joined([tag("h3", title) if title else "", heat_table(heat)]) for title, heat in found]
    parts.append(tag("div", *(tag("div", each) for each in maps), class_="maps"))
    parts += _outside(data)
    return Section("angles", "Angles", "How far apart the weights are", joined(parts))


def heat_maps(data: Data) -> list[tuple[str, HeatMap]]:
    """Returns the heat maps with their headings, which are empty if there is only one."""
    angles = data["angles"]
    found = []
    for pair in angles["pairs"]:
        for stack in angles["stacks"]:
            title = [_pair_text(data, pair)] if len(angles["pairs"]) > 1 else []
            title += [each] if (each := stack_title(stack["stack"], len(angles["stacks"]))) else []
            found.append((": ".join(title), angle_map(stack, pair, angles["scale"], _pair_text(data, pair))))
    return found


def _pair_text(data: Data, pair: str) -> str:
    one, other = pair.split("-")
    return f"{labelled(data, one)} and {labelled(data, other)}"


OF_WEIGHTS = (
    "The angle between the models' weights, each tensor taken as one vector: 0° means that they point the "
    "same way, 90° that they have nothing in common. A cell is the mean over its tensors, "
    "weighted by elements."
)
OF_TASK_VECTORS = (
    "The angle between the models' task vectors, their differences from the base. Near 90° they change the "
    "base independently; small angles mean that they change it alike, angles above 90° that they undo "
    "each other."
)
NEW = " The merge took no angles; these were measured for this report."


def _lead(data: Data) -> str:
    what = OF_TASK_VECTORS if data["has_base"] else OF_WEIGHTS
    return what + (NEW if data.get("angles_are_new") else "")


def _of_scale(scale: Mapping[str, Any]) -> str:
    more = ", and a few values are above" if scale["is_open"] else ""
    ends = f"The colours follow the data: from {scale['low']:g}° to {scale['high']:g}°{more}."
    return f"{ends} Point at a cell, or move with the arrow keys, for its number."


def _outside(data: Data) -> list[Html]:
    angles, scale = data["angles"], data["angles"]["scale"]
    if not angles["outside"]:
        return []
    pairs = list(angles["pairs"])
    head = [
        "tensor",
        *(f"{pair.replace('-', ' and ')}" if len(pairs) > 1 else "angle" for pair in pairs),
        "elements",
    ]
    rows = [
        [
            name(each["name"]),
            *(_chip(each["angles"].get(pair), scale) for pair in pairs),
            count(each["elements"]),
        ]
        for each in angles["outside"]
    ]
    return [
        tag("h3", "Outside the layers"),
        table(head, rows, "Angles outside the layers", range(1, len(head))),
    ]


def _chip(value: float | None, scale: Mapping[str, Any]) -> Html:
    if value is None:
        return Html()
    colour = tag("i", "", class_=f"chip h{level(value, scale['low'], scale['high'])}")
    return joined([colour, f"{number(value, digits_of(scale))}°"])
