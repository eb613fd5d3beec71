"""Draws the packages of docs/design.md from the layers in pyproject.toml, which import-linter checks.

.venv-test/bin/python docs/package_drawing.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "design-packages.svg"

ABOUT = {
    "cli": "the command; FusionBench's methods",
    "cluster": "merges over several machines",
    "reports": "reports as one HTML page",
    "searches": "the best of many merges",
    "sweeps": "many merges of the same models",
    "chains": "several merges in one file; losses; logs",
    "api": "merge, verify, inspect",
    "merging": "a prepared merge and its run",
    "output": "files, manifest, journal, the rename",
    "engine": "a plan on threads",
    "planning": "what happens to every tensor",
    "recipes": "mergekit's YAML; tokens and rows; pictures",
    "settings": "options; bytes of checkpoints",
    "methods": "one file a method, and a registry",
    "passes": "measures and combines",
    "kernels": "compiled loops: n vectors in",
    "paths": "users' paths; waiting for threads",
}
"""The words next to a layer, by its first package."""

BASE = "import nothing else of the package"

LEFT, WIDTH, GAP, STEP, HEIGHT = 30, 612, 12, 48, 40

BLUE, YELLOW, GREEN, GREY = (
    ("#90a4ae", "#e3f2fd"),
    ("#ffb74d", "#fff8e1"),
    ("#81c784", "#e8f5e9"),
    ("#b0bec5", "#eceff1"),
)
COLOURS = {"engine": YELLOW, "passes": YELLOW, "kernels": YELLOW, "methods": GREEN, "paths": GREY}
"""Of what computes, of what a new method touches, and of the base; all others are blue."""


def main() -> None:
    """Writes the picture."""
    PICTURE.write_text(drawing(layers()), encoding="utf-8")
    print(PICTURE.relative_to(ROOT))


def layers() -> list[list[str]]:
    """Returns the packages from the top layer to the bottom one."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (block,) = re.findall(r"^layers = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    return [line.split(" | ") for line in re.findall(r'"(.*)"', block)]


def drawing(found: list[list[str]]) -> str:
    """Returns the picture as SVG: a row for each layer."""
    height = 24 + STEP * len(found) + 8
    words = "; ".join(", ".join(row) for row in found)
    rows = "\n".join(
        line for i, row in enumerate(found) for line in _row(row, 24 + STEP * i, is_base=i + 1 == len(found))
    )
    font = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 {height}" font-family="{font}" font-size="15" \
role="img" aria-labelledby="title desc">
  <title id="title">The packages; imports run downward</title>
  <desc id="desc">From top to bottom: {words}.</desc>
  <rect width="960" height="{height}" rx="10" fill="#ffffff"/>
{rows}
  <path d="M12 30 V{height - 24}" stroke="#37474f" stroke-width="1.6"/>
  <path d="M7 {height - 32} L12 {height - 20} L17 {height - 32} z" fill="#37474f"/>
</svg>
"""


def _row(row: list[str], y: int, is_base: bool) -> Iterator[str]:
    """A layer's boxes with their names, and the words next to them; of the base, one box."""
    stroke, fill = GREY if is_base else COLOURS.get(row[0], BLUE)
    boxes = ["  ".join(name for name in row if not name.startswith("_"))] if is_base else row
    wide = (WIDTH - GAP * (len(boxes) - 1)) / len(boxes)
    for i, name in enumerate(boxes):
        x = LEFT + (wide + GAP) * i
        yield (
            f'  <rect x="{x:g}" y="{y}" width="{wide:g}" height="{HEIGHT}" rx="5" '
            f'stroke="{stroke}" fill="{fill}"/>'
        )
        size = ' font-size="12"' if is_base else ' font-weight="600"'
        yield (
            f'  <text x="{x + wide / 2:g}" y="{y + 25}" fill="#263238" text-anchor="middle"{size}>'
            f"{escape(name)}</text>"
        )
    about = BASE if is_base else ABOUT.get(row[0], "")
    yield f'  <text x="662" y="{y + 25}" fill="#546e7a" font-size="13">{escape(about)}</text>'


if __name__ == "__main__":
    main()
