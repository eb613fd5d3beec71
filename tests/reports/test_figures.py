"""Figures for papers: the pictures of the page as files of their own."""

import re
import struct
import xml.etree.ElementTree as ET

import pytest

from fusion_slerp.errors import OutputError, SettingsError
from fusion_slerp.reports import figures
from fusion_slerp.reports.data import Subject, gather


@pytest.fixture(scope="module")
def child_data(demo_child):
    return gather(Subject((str(demo_child),)))


def test_every_picture_is_a_file_of_its_own(child_data, sweep_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "has_png", lambda: False)
    drawn = figures.write_figures(child_data, tmp_path / "figures")
    assert [file.name for file in drawn] == [
        "angles.svg",
        "norms-attention.svg",
        "norms-mlp.svg",
        "norms-norm.svg",
        "values-t.svg",
        "losses-plays.svg",
        "losses-code.svg",
        "losses-average.svg",
    ]
    drawn += figures.write_figures(gather(Subject((str(sweep_folder),))), tmp_path / "sweep")
    assert drawn[8].name == "sweep.svg"
    for file in drawn:
        text = file.read_text(encoding="utf-8")
        assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
        assert not re.search(r"var\(|data-read|<script|href", text)


def test_a_second_run_needs_overwrite(child_data, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "has_png", lambda: False)
    figures.write_figures(child_data, tmp_path)
    with pytest.raises(OutputError, match=r"angles\.svg"):
        figures.write_figures(child_data, tmp_path)
    figures.write_figures(child_data, tmp_path, overwrite=True)


def test_png_has_three_pixels_for_each_unit(child_data, tmp_path):
    pytest.importorskip("resvg_py")
    name, chart = next(iter(figures.pictures(child_data)))
    svg = figures.standalone(chart)
    picture = figures.png(svg)
    width, height = struct.unpack(">II", picture[16:24])
    assert name == "angles"
    assert picture.startswith(b"\x89PNG")
    given = ET.fromstring(svg)
    assert (width, height) == pytest.approx(
        (3 * float(given.get("width")), 3 * float(given.get("height"))), abs=3
    )


def test_text_that_no_font_can_draw_is_an_error(child_data, monkeypatch):
    pytest.importorskip("resvg_py")
    monkeypatch.setattr(figures, "_rendered", lambda resvg, svg: b"the same")
    with pytest.raises(SettingsError, match="fonts-dejavu-core"):
        figures.png(figures.standalone(next(iter(figures.pictures(child_data)))[1]))


def test_a_file_is_no_folder_for_figures(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="a folder"):
        figures.check_folder(tmp_path / "file")
