"""The style of the command's tables."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.table import Table


def longest_word(values: Iterable[str]) -> int:
    """Returns the width that a column of texts needs to break no word."""
    return max((len(word) for value in values for word in value.split()), default=1)


def ruled(**arguments: object) -> Table:
    """Returns a table with a rule below its header and two spaces between columns."""
    style = {"box": box.SIMPLE_HEAD, "pad_edge": False, "show_edge": False, "header_style": "bold"}
    return Table(**{**style, "padding": (0, 1, 0, 0), **arguments})  # type: ignore[arg-type]
