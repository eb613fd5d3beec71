"""The values of t, or of the other options that a method takes for each tensor, over depth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fusion_slerp.drawing.markup import Html, joined, name, number, table, tag
from fusion_slerp.drawing.pictures import depth_chart, depth_series
from fusion_slerp.reports.sections.parts import (
    Data,
    Section,
    names,
    paragraph,
    plot,
    stack_title,
)
from fusion_slerp.settings.labels import labels
from fusion_slerp.vocabulary.remarks import enumerated


def section(data: Data) -> Section | None:
    """Returns a line over depth for each option that varies, and the constants in words."""
    options = data.get("values")
    if not options:
        return None
    parts: list[Html] = []
    for option in options:
        if "constant" not in option:
            parts += [tag("h3", _named(data, option["option"]), " over depth")]
            parts += [plot(wide, narrow=narrow) for wide, narrow in charts(data, option)]
            parts.append(_outside(option))
    return Section(
        "values", "Values", "The values that were used", joined([paragraph(_lead(data, options)), *parts])
    )


def charts(data: Data, option: Mapping[str, Any]) -> Iterator[tuple[Html, Html]]:
    """Yields the chart of each stack of layers, for wide and for narrow screens."""
    for stack in option["stacks"]:
        title = f"{option['option']} by layer {stack_title(stack['stack'], len(option['stacks']))}".strip()
        lines = stack["lines"]
        series = [
            depth_series(mark, line["kinds"], stack["layers"], line["values"])
            for mark, line in zip(labels(len(lines)), lines, strict=True)
        ]
        name = option["option"]
        yield depth_chart(series, name, title, 720, 220), depth_chart(series, name, title, 360, 110)


def _lead(data: Data, options: list[Mapping[str, Any]]) -> str:
    fixed = [
        f"{_named(data, each['option'])} = {each['constant']:g}" for each in options if "constant" in each
    ]
    if len(fixed) == len(options):
        return f"Every tensor was merged with {enumerated(fixed)}."
    lead = "Kinds of modules that share their values share a line."
    return f"{lead} The same for every tensor: {enumerated(fixed)}." if fixed else lead


def _named(data: Data, option: str) -> str:
    """An option with the name of the model that it belongs to."""
    own, _, label = option.partition(" ")
    return f"{own} of {names(data).get(label, label)} ({label})" if label else own


def _outside(option: Mapping[str, Any]) -> Html:
    if not option["outside"]:
        return Html()
    rows = [[name(tensor), number(value, 3)] for tensor, value in option["outside"].items()]
    caption = f"{option['option']} outside the layers"
    return table(["outside the layers", option["option"]], rows, caption, [1], "small")
