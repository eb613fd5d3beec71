"""How the command's tables look."""

from __future__ import annotations

from rich import box
from rich.table import Table


def ruled(**arguments: object) -> Table:
    """A table with a rule below its header, and two spaces between columns."""
    style = {"box": box.SIMPLE_HEAD, "pad_edge": False, "show_edge": False, "header_style": "bold"}
    return Table(**{**style, "padding": (0, 1, 0, 0), **arguments})  # type: ignore[arg-type]
