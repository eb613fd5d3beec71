"""Charts as files: every colour and font is an attribute, and each is set once."""

import re
import xml.etree.ElementTree as ET

import pytest

from fusion_slerp.drawing.axes import Frame
from fusion_slerp.drawing.charts import Level, Point, Series, line_chart
from fusion_slerp.drawing.colours import LIGHT, sequential
from fusion_slerp.drawing.dots import Dot, dot_chart
from fusion_slerp.drawing.heat import HeatMap, heat_svg
from fusion_slerp.drawing.standalone import standalone

HEAT = HeatMap("Angles", ["0", "1"], "layer", ["q", "k"], ["x", "y"], [[0.0, None], [10.0, 5.0]], 0, 10)
LINES = [
    Series("a", "one", [Point(0, 1.0, 0.9, 1.1), Point(1, 2.0)]),
    Series("child", "two", [Point(0, 2.0)]),
]

CHARTS = {
    "heat": heat_svg(HEAT),
    "lines": line_chart(LINES, Frame(), "t", [Level("b", "three", 1.5)], Point(1, 2.0)),
    "dots": dot_chart([Dot("base", "one", 1.0, 0.5, 1.5)], 300, "x", "t", with_zero=True),
}


@pytest.mark.parametrize("name", CHARTS)
def test_a_file_has_no_stylesheet_and_no_classes(name):
    text = standalone(CHARTS[name])
    assert "class=" not in text
    assert "style" not in text
    assert "data-read" not in text
    root = ET.fromstring(text)  # a second attribute of one name would be an error
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert next(iter(root)).get("fill") == LIGHT["bg"]


def test_colours_of_cells_and_of_the_numbers_on_them():
    text = standalone(CHARTS["heat"])
    low, high = sequential()[0], sequential()[-1]
    assert f'<path fill="{low}"' in text
    assert f'<path fill="{high}"' in text
    assert re.search(r'fill="#ffffff">10\.0</text>', text)
    assert re.search(r'fill="#000000">0\.0</text>', text)


def test_the_parts_of_a_series_inherit_its_colour():
    text = standalone(CHARTS["lines"])
    assert f'<g color="{LIGHT["a"]}"><path fill="none" stroke="currentColor"' in text


def test_text_that_looks_like_a_class_stays():
    hostile = heat_svg(HEAT._replace(rows=[' class="grid"', "k"], title="</svg><script>"))
    text = standalone(hostile)
    assert "class=&quot;grid&quot;" in text
    assert "<script" not in text
    ET.fromstring(text)
