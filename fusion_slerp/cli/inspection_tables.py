"""The facts of checkpoints, and the angles between them, as tables."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from fusion_slerp.cli import heat_map
from fusion_slerp.cli.amounts import count_text, nbytes_text
from fusion_slerp.cli.output import error_text, problem_blocks
from fusion_slerp.cli.tables import longest_word, ruled
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.errors import FusionSlerpError, printable
from fusion_slerp.inspection.difference import Cell, Difference, by_layer, by_module, cell
from fusion_slerp.inspection.facts import Facts
from fusion_slerp.tensor_names import MODULES, layer_of

if TYPE_CHECKING:
    from rich.console import Console

SHOWN_FILES = 6

MAY_VARY = ("files", "special tokens")
"""Facts that do not stand out where models differ."""

MAP = "\nAngle between A and {}, in degrees (--all lists norms as well)\n"

LEGEND = "\nAngle between A and {0} (degrees, mean weighted by elements), norm |A|, norm ratio |{0}|/|A|\n"

WITH_BASE = "\nA and {} stand for the models' differences from the base, their task vectors."

PREVENTED = "Problems that prevent a merge:"

MEANS = "\nMean angle with A (degrees, weighted by elements), and norm ratio |X|/|A|\n"


def facts_tables(models: Mapping[str, Facts]) -> list[Table | Text]:
    """Returns the models' names and folders, and their facts in columns; those that differ stand out.

    Args:
        models: Their facts by label.
    """
    names = list(models) if len(models) > 1 else [""]
    parts: list[Table | Text] = []
    table = ruled(show_header=len(models) > 1)
    table.add_column("", style="bold", no_wrap=True)
    lines = [_lines(facts) for facts in models.values()]
    for label, facts, own in zip(names, models.values(), lines, strict=True):
        parts.append(Text.assemble((f"{label.upper()}: " if label else "", "bold"), _named(facts)))
        table.add_column(label.upper(), min_width=longest_word(own.values()))
    for name in lines[0]:
        values = [each[name] for each in lines]
        style = "yellow" if len(set(values)) > 1 and name not in MAY_VARY else ""
        if any(values):
            table.add_row(name, *(Text(value, style) for value in values))
    return [*parts, Text(), table]


def _named(facts: Facts) -> str:
    """What the user called a model, and where it is if that is elsewhere."""
    revision = f"@{facts.revision}" if facts.revision else ""
    same = not revision and Path(os.path.expanduser(facts.source)) == Path(facts.folder)
    return printable(facts.source) + ("" if same else f"\n   {printable(facts.folder)}{revision}")


def problem_parts(headline: str, error: FusionSlerpError) -> list[Text]:
    """Returns the problems that prevent a merge, below a headline."""
    blocks = [Text.assemble("\n", error_text(block)) for block in problem_blocks(error)]
    return [Text(f"\n{headline}", "bold"), *blocks]


def _lines(facts: Facts) -> dict[str, str]:
    tied = {True: "yes", False: "no", None: "the config does not say"}[facts.is_tied]
    size = f"{count_text(facts.n_parameters)} in {facts.n_tensors} tensors"
    return {
        "architecture": facts.architecture,
        "config": ", ".join(f"{key}={value}" for key, value in facts.config.items()),
        "quantised": facts.quantised or "",
        "adapter": facts.adapter or "",
        "parameters": size if facts.n_tensors else "no readable weights",
        "types": ", ".join(f"{name} ({count_text(n)})" for name, n in facts.dtypes.items()),
        "layers": str(facts.n_layers) if facts.n_tensors else "",
        "files": _files(facts),
        "embedding": "no tensor with a known name" if facts.n_rows is None else f"{facts.n_rows} rows",
        "tokenizer": f"{facts.n_tokens} tokens, {facts.tokenizer}" if facts.tokenizer else "none readable",
        "special tokens": ", ".join(f"{kind} {token}" for kind, token in facts.special.items()) or "none",
        "chat template": "yes" if facts.has_chat_template else "no",
        "head tied": f"{tied}{', but stored as well' if facts.is_tied and facts.stores_head else ''}",
    }


def _files(facts: Facts) -> str:
    named = [f"{name} {nbytes_text(nbytes)}" for name, nbytes in facts.files.items()]
    if len(named) <= SHOWN_FILES:
        return "\n".join(named)
    total = nbytes_text(sum(facts.files.values()))
    return "\n".join([*named[:2], f"... {len(named)} files, {total} in all"])


def difference_tables(
    difference: Difference, has_base: bool, screen: Console, every: bool = False
) -> list[Table | Text]:
    """Returns the tables for two checkpoints.

    Args:
        difference: Their difference.
        has_base: Whether angles and norms are those of differences from a base.
        screen: The console that they are for.
        every: List the angle and the norms of every layer instead of a map of the angles.
    """
    parts: list[Table | Text] = []
    measured = difference.measured
    if measured:
        parts += [Text(WITH_BASE.format("B") * has_base + (LEGEND if every else MAP).format("B"))]
        parts += [layer_table(measured)] if every else angle_map({"": difference}, screen)
        parts += [Text(), outside_table(measured), summary(difference)]
    if difference.error is not None:
        parts += problem_parts(PREVENTED if measured else "They cannot be merged:", difference.error)
    remarks = [Text.assemble(("note: ", "cyan"), line) for line in difference.notes]
    remarks += [Text.assemble(("warning: ", "yellow"), line) for line in difference.warnings]
    if difference.error is None:
        remarks.append(Text.assemble(("They can be merged", "bold green"), ", with the default options."))
    return [*parts, Text(), *remarks] if remarks else parts


def angle_map(differences: Mapping[str, Difference], screen: Console) -> list[Table | Text]:
    """Returns the map of the angles with model a, by layer and kind of module.

    Args:
        differences: That of each model, by the heading of its columns.
        screen: The console that it is for.
    """
    layers = {heading: by_layer(each.measured) for heading, each in differences.items()}
    angles = {
        heading: {n: {m: cell.angle_deg for m, cell in cells.items()} for n, cells in each.items()}
        for heading, each in layers.items()
    }
    return heat_map.parts(heat_map.HeatMap(angles, unit="°", names_largest=len(angles) == 1), screen)


def mean_tables(
    differences: Mapping[str, Difference], has_base: bool, screen: Console, every: bool = False
) -> list[Table | Text]:
    """Returns the tables for several models: the mean angles of each with model a, then by layer.

    Args:
        differences: That of each model, by its label.
        has_base: Whether angles and norms are those of differences from a base.
        screen: The console that they are for.
        every: List the angle and the norms of every layer instead of a map of the angles.
    """
    table = ruled()
    for name in ("X", "all", *MODULES, "|X|/|A|"):
        table.add_column(name, justify="left" if name == "X" else "right", no_wrap=True)
    lines = []
    for label, each in differences.items():
        table.add_row(label.upper(), *_means(each.measured))
        lines += [(label, warning) for warning in each.warnings]
    parts: list[Table | Text] = [Text(WITH_BASE.format("X") * has_base + MEANS), table]
    by_label = {label.upper(): each for label, each in differences.items() if each.measured}
    if every:
        for label, each in by_label.items():
            parts += [Text(LEGEND.format(label)), layer_table(each.measured, label)]
    elif by_label:
        parts += [Text(MAP.format("X")), *angle_map(by_label, screen)]
    for label, each in differences.items():
        if each.error is not None:
            parts += problem_parts(f"Problems that prevent a merge of A and {label.upper()}:", each.error)
    return (
        parts
        + [Text()] * bool(lines)
        + [Text.assemble((f"warning (A, {n.upper()}): ", "yellow"), line) for n, line in lines]
    )


def _means(measured: Sequence[TensorReport]) -> list[str]:
    if not measured:
        return ["-"] * (len(MODULES) + 2)
    whole, modules = cell(measured), by_module(measured)
    angles = [f"{modules[m].angle_deg:.2f}" if m in modules else "-" for m in MODULES]
    return [f"{whole.angle_deg:.2f}", *angles, "-" if whole.ratio is None else f"{whole.ratio:.3f}"]


def layer_table(measured: Sequence[TensorReport], label: str = "B") -> Table:
    """Returns layers by modules: mean angle with a model, norm of A, norm ratio to it."""
    layers = by_layer(measured)
    modules = [m for m in MODULES if any(m in layer for layer in layers.values())]
    table = ruled()
    table.add_column("layer", justify="right", no_wrap=True)
    for module in modules:
        table.add_column(f"{module}\nangle", justify="right", style="cyan", no_wrap=True)
        table.add_column("\n|A|", justify="right", no_wrap=True)
        table.add_column(f"\n|{label}|/|A|", justify="right", no_wrap=True)
    for number, layer in layers.items():
        cells = [text for m in modules for text in (_cells(layer[m]) if m in layer else ("", "", ""))]
        table.add_row(str(number), *cells)
    return table


def outside_table(measured: Sequence[TensorReport]) -> Table:
    """Returns the tensors outside the layers, one by one."""
    table = ruled()
    for name in ("outside the layers", "angle", "|A|", "|B|/|A|"):
        table.add_column(name, justify="left" if name.startswith("outside") else "right", no_wrap=True)
    for report in measured:
        if layer_of(report.name) is None:
            table.add_row(Text(report.name), *_cells(cell([report])))
    return table


def summary(difference: Difference) -> Text:
    """Returns the mean angle and the largest angles."""
    measured = difference.measured
    width = max(len(report.name) for report in difference.largest)
    lines = [f"  {report.name:{width}}  {report.angle_deg:6.2f}°" for report in difference.largest]
    mean = f"{cell(measured).angle_deg:.2f}° over {len(measured)} tensors, weighted by their elements"
    return Text.assemble(("\nmean angle ", "bold"), mean, ("\nlargest angles\n", "bold"), "\n".join(lines))


def _cells(measured: Cell) -> tuple[str, str, str]:
    ratio = "" if measured.ratio is None else f"{measured.ratio:.3f}"
    return f"{measured.angle_deg:.2f}", f"{measured.norm_a:.2f}", ratio
