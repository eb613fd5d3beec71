"""A value by layer and kind of module: a map of half blocks in colour, or the numbers where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from fusion_slerp.cli.tables import ruled
from fusion_slerp.cli.terminal_colours import painter
from fusion_slerp.tensor_names import MODULES

if TYPE_CHECKING:
    from rich.console import Console

MAX_CELL, MIN_CELL = 12, 5
"""Columns of a cell, where the screen has them; a cell is at least as wide as its heading."""

LEGEND_CELLS = 24
MAX_NAMED = 8
"""Cells that are named next to a map."""

GAP = "  "

ByLayer = Mapping[int, Mapping[str, float]]
Column = tuple[str, str]
"""A group and a kind of module."""


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Values by layer and kind of module.

    Attributes:
        groups: For each heading, such as a model's label, the values; `""` for one without a heading.
        form: How a value is written, as for `format`.
        unit: What follows a number in the legend.
        names_largest: Whether the cells of the largest values are named next to the map.
    """

    groups: Mapping[str, ByLayer]
    form: str = ".2f"
    unit: str = ""
    names_largest: bool = False

    @property
    def columns(self) -> list[Column]:
        """The columns that have values, group by group."""
        return [
            (group, module)
            for group, layers in self.groups.items()
            for module in MODULES
            if any(module in cells for cells in layers.values())
        ]

    @property
    def layers(self) -> list[int]:
        """The layers of all groups, in order."""
        return sorted(set().union(*self.groups.values()))

    @property
    def values(self) -> list[float]:
        """All values."""
        return [
            value for layers in self.groups.values() for cells in layers.values() for value in cells.values()
        ]

    def at(self, layer: int, column: Column) -> float | None:
        """Returns the value of a cell; None if the layer has no such module."""
        return self.groups[column[0]].get(layer, {}).get(column[1])

    def text(self, value: float | None) -> str:
        """Returns a value as it is written; a dash for None."""
        return "-" if value is None else format(value, self.form)


def parts(shown: HeatMap, screen: Console) -> list[Table | Text]:
    """Returns a map as it suits the screen: colours with a legend, or a table of the numbers.

    Args:
        shown: The map.
        screen: The console. A pipe, `NO_COLOR` and a screen without these characters get the numbers.
    """
    if not shown.values:
        return []
    paint = painter(min(shown.values), max(shown.values), screen)
    if paint is None:
        return [number_table(shown)]
    widths = _widths(shown, screen.width)
    blocks = _blocks(shown, widths, screen.width)
    lines = [
        line for block in blocks for line in (*_block(shown, block, widths, paint, screen.width), Text())
    ]
    return [*lines, _legend(shown, paint)]


def number_table(shown: HeatMap) -> Table:
    """Returns the values as a table of layers by modules."""
    table = ruled()
    table.add_column("layer", justify="right", no_wrap=True)
    for group, module in shown.columns:
        table.add_column(f"{group}\n{module}" if group else module, justify="right", no_wrap=True)
    for layer in shown.layers:
        table.add_row(str(layer), *(shown.text(shown.at(layer, column)) for column in shown.columns))
    return table


def _widths(shown: HeatMap, width: int) -> dict[Column, int]:
    """The columns' widths: equal, and as large as the screen and `MAX_CELL` permit."""
    columns = shown.columns
    room = width - _label_width(shown) - (_named_width(shown) if shown.names_largest else 0)
    even = min(max(room // len(columns) - len(GAP), MIN_CELL), MAX_CELL)
    return {column: max(even, *map(len, column)) for column in columns}


def _blocks(shown: HeatMap, widths: Mapping[Column, int], width: int) -> list[list[Column]]:
    """The columns in blocks that fit the screen, each a map of its own; a group is not split."""
    blocks: list[list[Column]] = [[]]
    for _, columns in groupby(shown.columns, key=lambda column: column[0]):
        group = list(columns)
        if blocks[-1] and _used(shown, [*blocks[-1], *group], widths) > width:
            blocks.append([])
        blocks[-1] += group
    return blocks


def _used(shown: HeatMap, columns: Sequence[Column], widths: Mapping[Column, int]) -> int:
    return _label_width(shown) + sum(widths[column] + len(GAP) for column in columns)


def _block(
    shown: HeatMap,
    columns: Sequence[Column],
    widths: Mapping[Column, int],
    paint: Callable[[float], str],
    width: int,
) -> Iterator[Text]:
    """The lines of one map: headings, then two layers a line, with the largest values next to them."""
    margin = _label_width(shown)
    if any(group for group, _ in columns):
        groups = [
            group if i == 0 or columns[i - 1][0] != group else "" for i, (group, _) in enumerate(columns)
        ]
        yield _headings(margin, "", groups, columns, widths)
    has_room = _used(shown, columns, widths) + _named_width(shown) <= width
    named = _named(shown, columns) if shown.names_largest and has_room else []
    heading = _headings(margin, "layer", [module for _, module in columns], columns, widths)
    yield heading.append(f"{GAP}largest", "bold") if named else heading
    layers = shown.layers
    for i in range(0, len(layers), 2):
        pair = layers[i : i + 2]
        line = Text.assemble(("-".join(map(str, pair)).rjust(margin), "bold"))
        for column in columns:
            line.append(GAP).append_text(
                _cell([shown.at(layer, column) for layer in pair], widths[column], paint)
            )
        if i // 2 < len(named):
            line.append(f"{GAP}{named[i // 2]}")
        yield line


def _headings(
    margin: int,
    first: str,
    names: Sequence[str],
    columns: Sequence[Column],
    widths: Mapping[Column, int],
) -> Text:
    cells = [GAP + name.ljust(widths[column]) for name, column in zip(names, columns, strict=True)]
    return Text(first.rjust(margin) + "".join(cells), "bold")


def _cell(pair: Sequence[float | None], width: int, paint: Callable[[float], str]) -> Text:
    """Two layers' values, the first in the upper half of the line; the half of a missing one stays empty."""
    upper, lower = pair if len(pair) == 2 else (pair[0], None)
    if upper is None:
        return Text(" " * width if lower is None else "▄" * width, "" if lower is None else paint(lower))
    return Text("▀" * width, paint(upper) if lower is None else f"{paint(upper)} on {paint(lower)}")


def _legend(shown: HeatMap, paint: Callable[[float], str]) -> Text:
    low, high = min(shown.values), max(shown.values)
    if low == high:
        return Text.assemble(("██ ", paint(low)), f"{shown.text(low)}{shown.unit} everywhere")
    line = Text(f"{shown.text(low)}{shown.unit} ")
    for i in range(LEGEND_CELLS):
        line.append("█", paint(low + (high - low) * i / (LEGEND_CELLS - 1)))
    return line.append(f" {shown.text(high)}{shown.unit}")


def _named(shown: HeatMap, columns: Sequence[Column]) -> list[str]:
    """The largest values of some columns, each with its layer and module."""
    cells = [(layer, column, shown.at(layer, column)) for layer in shown.layers for column in columns]
    known = [(value, layer, column) for layer, column, value in cells if value is not None]
    largest = sorted(known, key=lambda cell: -cell[0])[:MAX_NAMED]
    number = max(len(shown.text(value)) for value, _, _ in largest)
    return [
        f"{shown.text(value):>{number}}{shown.unit} layer {layer} {column[1]}"
        for value, layer, column in largest
    ]


def _named_width(shown: HeatMap) -> int:
    return max(map(len, [*_named(shown, shown.columns), "largest"])) + len(GAP)


def _label_width(shown: HeatMap) -> int:
    return max(len("layer"), 2 * len(str(max(shown.layers))) + 1)
