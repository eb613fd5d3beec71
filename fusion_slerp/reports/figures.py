"""The pictures of a report for papers: SVG, and PNG if the optional extra `figures` is installed.

They are drawn by the functions of the page, on white.

PNG comes from resvg (1.4 MB). Where vl-convert, which carries fonts, takes 33 MB, resvg uses those of the
system: without any it would draw no text, so that is an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fusion_slerp.drawing.heat import heat_svg
from fusion_slerp.drawing.markup import Html
from fusion_slerp.drawing.standalone import standalone
from fusion_slerp.errors import OutputError, Problem, SettingsError
from fusion_slerp.paths import Named, absolute_text, user_path, utf8
from fusion_slerp.reports.sections import angles, evaluation, norms, sweep, values

ZOOM = 3
"""Pixels of a PNG for one unit of the drawing: 300 dots per inch at 7.2 inches for a wide one."""

EXTRA = "pip install 'fusion-slerp[figures]'"


def check_folder(folder: Named) -> Path:
    """Returns the folder for the figures, which need not exist.

    Raises:
        OutputError: It is a file.
    """
    path = user_path(folder, OutputError)
    if os.path.lexists(path) and not path.is_dir():
        fields = (("path", absolute_text(path)), ("found", "a file"), ("needed", "a folder"))
        raise Problem(
            OutputError, "the figures need a folder", fields, "name a folder, which may be new"
        ).error()
    return path


def write_figures(data: Mapping[str, Any], folder: Path, overwrite: bool = False) -> list[Path]:
    """Writes every picture that the data has, and returns the files.

    Args:
        data: See `data.gather`.
        folder: Created if it does not exist.
        overwrite: Whether files of the same names are replaced.

    Raises:
        OutputError: A file exists, or cannot be written.
        SettingsError: No system font can be found for a PNG.
    """
    from fusion_slerp.reports.writing import write_file

    drawn = {name: standalone(chart) for name, chart in pictures(data)}
    contents = {f"{name}.svg": utf8(svg) for name, svg in drawn.items()}
    if has_png():
        contents |= {f"{name}.png": png(svg) for name, svg in drawn.items()}
    folder.mkdir(parents=True, exist_ok=True)
    return [write_file(folder / name, content, overwrite) for name, content in contents.items()]


def pictures(data: Mapping[str, Any]) -> Iterator[tuple[str, Html]]:
    """Yields the pictures that a paper may need, with their names."""
    if data.get("angles"):
        found = angles.heat_maps(data)
        for i, (_, heat) in enumerate(found, start=1):
            yield f"angles{f'-{i}' if len(found) > 1 else ''}", heat_svg(heat)
    for stack in (data.get("norms") or [])[:1]:
        for module, chart in norms.charts(data, stack):
            yield f"norms-{module}", chart
    for option in data.get("values") or []:
        if "constant" not in option:
            for wide, _ in list(values.charts(data, option))[:1]:
                yield f"values-{_file_name(option['option'])}", wide
    if data.get("sweep"):
        for name, chart in sweep.pictures(data):
            yield _file_name(name), chart
    if data.get("evaluation"):
        for text, chart in evaluation.loss_charts(data):
            yield f"losses-{_file_name(text)}", chart


def _file_name(name: str) -> str:
    return re.sub(r"[^\w-]+", "-", name)[:60]


def has_png() -> bool:
    """Whether PNG can be made: whether the extra `figures` is installed."""
    from importlib.util import find_spec

    return find_spec("resvg_py") is not None


def png(svg: str) -> bytes:
    """Returns an SVG as a PNG of `ZOOM` pixels for each unit.

    Raises:
        SettingsError: The system has no fonts, so that all text would be missing.
    """
    import resvg_py  # type: ignore[import-not-found]

    with_text = _rendered(resvg_py, svg)
    if with_text == _rendered(resvg_py, re.sub(r"<text.*?</text>", "", svg, flags=re.DOTALL)):
        fix = "apt-get install fonts-dejavu-core"
        raise Problem(
            SettingsError, "PNG figures need a font of the system", (("found", "none"),), fix
        ).error()
    return with_text


def _rendered(resvg_py: Any, svg: str) -> bytes:
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=ZOOM))
