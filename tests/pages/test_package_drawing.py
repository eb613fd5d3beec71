"""The picture of the packages shows the layers that import-linter checks."""

import importlib.util
from pathlib import Path

FILE = Path(__file__).resolve().parents[2] / "docs/package_drawing.py"


def test_the_picture_is_that_of_the_layers():
    spec = importlib.util.spec_from_file_location("package_drawing", FILE)
    assert spec is not None
    assert spec.loader is not None
    drawn = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawn)
    shown = drawn.PICTURE.read_text(encoding="utf-8")
    assert shown == drawn.drawing(drawn.layers()), "run: .venv-test/bin/python docs/package_drawing.py"
    assert all(drawn.ABOUT.get(row[0]) for row in drawn.layers()[:-1]), "a layer lacks its words in ABOUT"
