"""The norms of the source models and of the merged model over depth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fusion_slerp.drawing.axes import depth_frame
from fusion_slerp.drawing.charts import Point, Series, line_chart
from fusion_slerp.drawing.markup import Html, joined, number, tag
from fusion_slerp.reports.models import CHILD
from fusion_slerp.reports.sections.parts import (
    Data,
    Section,
    key,
    labelled,
    numbers,
    panels,
    paragraph,
    plot,
    stack_title,
)

CLOSE = 0.2
"""Norms that differ less from their mean are drawn as shares of it: their lines would hide each other."""

Lines = Mapping[str, Sequence[float | None]]
"""Norms by label and layer."""


def section(data: Data) -> Section | None:
    """Returns a chart for each module, with a line for each model."""
    found = data.get("norms")
    if not found:
        return None
    labels = list(
        dict.fromkeys(label for stack in found for lines in stack["modules"].values() for label in lines)
    )
    parts = [paragraph(_lead(data, found)), key({label: labelled(data, label) for label in labels})]
    for stack in found:
        title = stack_title(stack["stack"], len(found))
        parts += [tag("h3", title)] if title else []
        parts.append(panels(plot(chart, module) for module, chart in charts(data, stack)))
    return Section(
        "norms", "Norms", "How long the weights are", joined([*parts, _table(data, found, labels)])
    )


def charts(data: Data, stack: Mapping[str, Any]) -> Iterator[tuple[str, Html]]:
    """Yields the chart of each module of a stack with the module's name."""
    is_relative = are_close(data["norms"])
    for module, lines in stack["modules"].items():
        drawn = _shares(lines) if is_relative else lines
        series = [
            Series(label, _short(label), [Point(x, y) for x, y in zip(stack["layers"], values, strict=True)])
            for label, values in drawn.items()
        ]
        frame = depth_frame(
            stack["layers"], "% of the source models' mean" if is_relative else "norm", right=58
        )
        title = f"Norm of {module} by layer"
        yield module, line_chart(series, frame, title, read_x=lambda x: f"layer {x:g}", digits=2)


def are_close(found: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all norms are close to the mean of their models' norms."""
    shares = [
        share
        for stack in found
        for lines in stack["modules"].values()
        for line in _shares(lines).values()
        for share in line
        if share is not None
    ]
    return all(abs(share / 100 - 1) < CLOSE for share in shares)


def _shares(lines: Lines) -> dict[str, list[float | None]]:
    """Norms as percentages of the mean over the source models, layer by layer."""
    sources = [values for label, values in lines.items() if label != CHILD] or list(lines.values())
    means = [_mean(layer) for layer in zip(*sources, strict=True)]
    return {
        label: [
            100 * v / mean if v is not None and mean else None for v, mean in zip(values, means, strict=True)
        ]
        for label, values in lines.items()
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _short(label: str) -> str:
    return "merged" if label == CHILD else label


def _lead(data: Data, found: Sequence[Mapping[str, Any]]) -> str:
    if data["has_base"]:
        what = (
            "The Euclidean norm of each model's difference from the base: how far it moved. The longer one "
        )
        what += "dominates a plain sum."
    else:
        what = "The Euclidean norm of all weights of a module, layer by layer."
    if are_close(found):
        what += " The models are so close that the lines show shares of the source models' mean; the norms "
        what += "themselves are in the table."
    own = [s for stack in found for lines in stack["modules"].values() for s in _shares(lines).get(CHILD, ())]
    known = [share for share in own if share is not None]
    if known:
        what += f" The merged model's are between {min(known):.1f} % and {max(known):.1f} % of that mean."
    return f"{what} The axes do not start at zero."


def _table(data: Data, found: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Html:
    head = ["layer", "module", *(labelled(data, label) for label in labels)]
    rows = [
        [f"{stack_title(stack['stack'], len(found))} {layer}".strip(), module, *_values(lines, labels, i)]
        for stack in found
        for module, lines in stack["modules"].items()
        for i, layer in enumerate(stack["layers"])
    ]
    return numbers("The numbers", head, rows, "norms", range(2, len(head)))


def _values(lines: Lines, labels: Sequence[str], i: int) -> list[str]:
    return [number(lines[label][i] if label in lines else None, 4) for label in labels]
