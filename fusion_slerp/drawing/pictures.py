"""Pictures that cards and reports share: the angle by layer and kind of module, and values over depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fusion_slerp.drawing.axes import depth_frame
from fusion_slerp.drawing.charts import Point, Series, line_chart
from fusion_slerp.drawing.heat import HeatMap
from fusion_slerp.drawing.markup import Html


def angle_map(stack: Mapping[str, Any], pair: str, scale: Mapping[str, Any], models: str) -> HeatMap:
    """Returns the heat map of a pair's angles in one stack of layers.

    Args:
        stack: One of `depth.angles`' stacks.
        pair: The labels of two models, as `"a-b"`.
        scale: The scale of all maps; see `depth.scale`.
        models: The two models in words.
    """
    return HeatMap(
        title=f"Angle in degrees between {models} by layer and kind of module",
        columns=[str(layer) for layer in stack["layers"]],
        column_title="layer",
        rows=[each["label"] for each in stack["kinds"]],
        groups=[each["module"] for each in stack["kinds"]],
        cells=stack["cells"][pair],
        low=scale["low"],
        high=scale["high"],
        is_open=scale["is_open"],
        unit="°",
        digits=digits_of(scale),
    )


def digits_of(scale: Mapping[str, Any]) -> int:
    """Returns the digits after the point that tell the values of a scale apart."""
    span = scale["high"] - scale["low"]
    return 0 if span >= 100 else 1 if span >= 5 else 2 if span >= 0.5 else 3


def depth_series(label: str, name: str, layers: Sequence[int], values: Sequence[float | None]) -> Series:
    """Returns a line with a value for each layer."""
    return Series(label, name, [Point(x, y) for x, y in zip(layers, values, strict=True)])


def depth_chart(series: Sequence[Series], y_title: str, title: str, width: int, most_right: int) -> Html:
    """Returns lines over depth, of which there is at least one.

    Args:
        series: The lines.
        y_title: Above the vertical axis.
        title: What the chart shows, for readers of screens.
        width: Of the drawing.
        most_right: The largest width of the lines' names.
    """
    layers = [int(point.x) for point in series[0].points]
    right = min(24 + 7 * max(len(each.name) for each in series), most_right)
    frame = depth_frame(layers, y_title, right, width)
    return line_chart(series, frame, title, read_x=lambda x: f"layer {x:g}")
