"""Charts: numbers at their positions, nothing hidden, every text escaped."""

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from fusion_slerp.drawing.axes import Frame, tick_text, ticks
from fusion_slerp.drawing.charts import Level, Point, Series, line_chart
from fusion_slerp.drawing.dots import Dot, dot_chart
from fusion_slerp.drawing.heat import HeatMap, heat_svg, heat_table
from tests.reports.made import HOSTILE

SERIES = [
    Series("a", "first", [Point(0, 1.0, 0.9, 1.1), Point(1, 2.0), Point(2, None), Point(3, 4.0)]),
    Series("b", HOSTILE, [Point(0, 1.0), Point(3, 4.0)]),
]


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (3.15, 4.76), (-0.7, 0.01), (99.2, 100.8), (0, 0), (5, 5), (1e-9, 3e-9)]
)
def test_ticks_are_round_and_surround_the_values(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 8
    assert found[0] <= low + 1e-9
    assert found[-1] >= high - 1e-9
    assert max(len(tick_text(value)) for value in found) <= 7


def test_a_line_chart_is_xml_and_its_points_are_in_order():
    root = ET.fromstring(
        line_chart(SERIES, Frame(x_title="layer"), HOSTILE, [Level("base", "level", 2.5)], Point(1, 2.0))
    )
    assert root.get("role") == "img"
    lines = [path for path in root.iter("path") if path.get("class") == "line"]
    assert len(lines) == 2
    commands = re.findall(r"([ML])([\d.]+) ([\d.]+)", lines[0].get("d", ""))
    assert [command for command, _, _ in commands] == ["M", "L", "M"]  # a gap where there is no value
    assert [float(y) for _, _, y in commands] == sorted((float(y) for _, _, y in commands), reverse=True)


def test_bands_read_out_every_series_and_level():
    root = ET.fromstring(
        line_chart(SERIES, Frame(), "title", [Level("base", "level", 2.5)], read_x=lambda x: f"layer {x:g}")
    )
    reads = [
        band.get("data-read", "").split("|") for band in root.iter("rect") if band.get("class") == "band"
    ]
    assert reads[0] == [
        "layer 0",
        "first: 1.000 (0.900 to 1.100)",
        f"{HOSTILE[:-1]}\\u202e: 1.000",
        "level: 2.500",
    ]
    assert [read[0] for read in reads] == ["layer 0", "layer 1", "layer 3"]


def test_names_at_the_ends_of_lines_do_not_overlap():
    series = [Series(label, label, [Point(0, 0.0), Point(1, 1.0)]) for label in "abcdef"]
    root = ET.fromstring(line_chart(series, Frame(), "title"))
    ys = sorted(float(t.get("y", 0)) for t in root.iter("text") if (t.get("class") or "").startswith("name"))
    assert len(ys) == 6
    assert min(q - p for p, q in pairwise(ys)) >= 12


def test_a_dot_chart_has_a_row_for_each_value():
    root = ET.fromstring(
        dot_chart([Dot("a", "x", 1.0, 0.5, 1.5), Dot("child", "y", -2.0)], 360, "nats", "t", True)
    )
    reads = [band.get("data-read") for band in root.iter("rect") if band.get("class") == "band"]
    assert reads == ["x|1.0000|95 % interval: 0.5000 to 1.5000", "y|−2.0000"]
    assert sum(path.get("class") == "zero" for path in root.iter("path")) == 1


def heat(**changes) -> HeatMap:
    cells = [[1.0, None], [9.5, 4.0]]
    given = {
        "rows": [HOSTILE, "q"],
        "groups": ["mlp", "mlp"],
        "cells": cells,
        "low": 0,
        "high": 10,
        **changes,
    }
    return HeatMap(title="Angles", columns=["0", "1"], column_title="layer", unit="°", **given)


def test_a_heat_map_is_the_same_as_table_and_as_drawing():
    table, drawing = ET.fromstring(heat_table(heat())), ET.fromstring(heat_svg(heat()))
    classes = [cell.get("class") for cell in table.iter("td")]
    assert classes == ["h2", "none", "h22", "h9"]
    assert [path.get("class") for path in drawing.iter("path")] == ["f2", "f9", "f22"]
    assert [cell.text for cell in table.iter("td")] == ["1.0", None, "9.5", "4.0"]


def test_many_columns_keep_their_numbers_for_readers_of_screens():
    wide = HeatMap(
        "t", [str(i) for i in range(80)], "layer", ["q"], ["mlp"], [[float(i) for i in range(80)]], 0, 80
    )
    table = ET.fromstring(heat_table(wide))
    assert "dense" in (next(table.iter("table")).get("class") or "")
    assert [cell.text for cell in table.iter("td")][:2] == ["0.0", "1.0"]
    assert [head.get("class") for head in table.iter("th")][1:12] == [None, *["mute"] * 9, None]
