"""The facts of a checkpoint, and the angles of two, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from fusion_slerp.cli.amounts import count_text, nbytes_text
from fusion_slerp.cli.difference import Cell, Difference, by_layer, by_module, cell
from fusion_slerp.cli.inspection import Facts
from fusion_slerp.cli.output import error_text, problem_blocks
from fusion_slerp.cli.tables import ruled
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.settings.labels import labels
from fusion_slerp.tensor_names import MODULES, layer_of

SHOWN_FILES = 6

LEGEND = "\nAngle between A and B (degrees, mean weighted by elements), norm |A|, norm ratio |B|/|A|\n"

MEANS = "\nMean angle with A (degrees, weighted by elements), and norm ratio |X|/|A|\n"


def facts_table(found: Sequence[Facts]) -> Table:
    """Returns one column of facts per checkpoint; those that differ stand out."""
    table = ruled(show_header=len(found) > 1)
    table.add_column("", style="bold", no_wrap=True)
    for label, facts in zip(labels(len(found)), found, strict=True):
        table.add_column(f"{label.upper()}: {facts.source}", overflow="fold")
    lines = [_lines(facts) for facts in found]
    for name in lines[0]:
        values = [each[name] for each in lines]
        style = "yellow" if len(set(values)) > 1 and name not in ("model", "files", "special tokens") else ""
        table.add_row(name, *(Text(value, style) for value in values))
    return table


def _lines(facts: Facts) -> dict[str, str]:
    tied = {True: "yes", False: "no", None: "the config does not say"}[facts.is_tied]
    revision = f"@{facts.revision}" if facts.revision else ""
    return {
        "model": f"{facts.folder}{revision}",
        "architecture": facts.architecture,
        "parameters": f"{count_text(facts.n_parameters)} in {facts.n_tensors} tensors",
        "types": ", ".join(f"{name} ({count_text(n)})" for name, n in facts.dtypes.items()),
        "layers": str(facts.n_layers),
        "files": _files(facts),
        "embedding": "not known by its name" if facts.n_rows is None else f"{facts.n_rows} rows",
        "tokenizer": f"{facts.n_tokens} tokens, {facts.tokenizer}"
        if facts.tokenizer
        else "none that is readable",
        "special tokens": ", ".join(f"{kind} {token}" for kind, token in facts.special.items()) or "none",
        "chat template": "yes" if facts.has_chat_template else "no",
        "head tied": f"{tied}{', but stored all the same' if facts.is_tied and facts.stores_head else ''}",
    }


def _files(facts: Facts) -> str:
    named = [f"{name} {nbytes_text(nbytes)}" for name, nbytes in facts.files.items()]
    if len(named) <= SHOWN_FILES:
        return "\n".join(named)
    total = nbytes_text(sum(facts.files.values()))
    return "\n".join([*named[:2], f"... {len(named)} files, {total} in all"])


def difference_tables(found: Difference) -> list[Table | Text]:
    """Returns what is printed of two checkpoints."""
    parts: list[Table | Text] = []
    measured = found.measured
    if measured:
        parts += [Text(LEGEND), layer_table(measured), Text(), outside_table(measured), summary(found)]
    if found.error is not None:
        headline = "\nProblems that prevent a merge:" if measured else "\nThey cannot be merged:"
        parts.append(Text(headline, "bold"))
        parts += [Text.assemble("\n", error_text(block)) for block in problem_blocks(found.error)]
    parts += [Text.assemble(("doubtful: ", "yellow"), line) for line in found.warnings]
    if found.error is None:
        parts.append(Text.assemble(("They can be merged", "bold green"), ", with the default options."))
    return parts


def mean_tables(found: Mapping[str, Difference]) -> list[Table | Text]:
    """Returns what is printed of several models: how far each, by its label, is from model a."""
    table = ruled()
    for name in ("X", "all", *MODULES, "|X|/|A|"):
        table.add_column(name, justify="left" if name == "X" else "right")
    lines = []
    for label, each in found.items():
        table.add_row(label.upper(), *_means(each.measured))
        lines += [(label, warning) for warning in each.warnings]
    parts: list[Table | Text] = [Text(MEANS), table, Text()]
    for label, each in found.items():
        if each.error is not None:
            parts.append(Text(f"Problems that prevent a merge of A and {label.upper()}:", "bold"))
            parts += [Text.assemble("\n", error_text(block), "\n") for block in problem_blocks(each.error)]
    return parts + [Text.assemble((f"doubtful (A, {n.upper()}): ", "yellow"), line) for n, line in lines]


def _means(measured: Sequence[TensorReport]) -> list[str]:
    if not measured:
        return ["-"] * (len(MODULES) + 2)
    whole, modules = cell(measured), by_module(measured)
    angles = [f"{modules[m].angle_deg:.2f}" if m in modules else "-" for m in MODULES]
    return [f"{whole.angle_deg:.2f}", *angles, "-" if whole.ratio is None else f"{whole.ratio:.3f}"]


def layer_table(measured: Sequence[TensorReport]) -> Table:
    """Returns layers by modules: mean angle, norm of a, norm of b over norm of a."""
    layers = by_layer(measured)
    modules = [m for m in MODULES if any(m in found for found in layers.values())]
    table = ruled()
    table.add_column("layer", justify="right")
    for module in modules:
        table.add_column(f"{module}\nangle", justify="right", style="cyan")
        table.add_column("\n|A|", justify="right")
        table.add_column("\n|B|/|A|", justify="right")
    for number, found in layers.items():
        cells = [text for m in modules for text in (_cells(found[m]) if m in found else ("", "", ""))]
        table.add_row(str(number), *cells)
    return table


def outside_table(measured: Sequence[TensorReport]) -> Table:
    """Returns the tensors that belong to no layer, one by one."""
    table = ruled()
    for name in ("outside the layers", "angle", "|A|", "|B|/|A|"):
        table.add_column(name, justify="left" if name.startswith("outside") else "right")
    for report in measured:
        if layer_of(report.name) is None:
            table.add_row(Text(report.name), *_cells(cell([report])))
    return table


def summary(found: Difference) -> Text:
    """Returns the mean angle and the largest ones."""
    measured = found.measured
    width = max(len(report.name) for report in found.largest)
    lines = [f"  {report.name:{width}}  {report.angle_deg:6.2f}°" for report in found.largest]
    mean = f"{cell(measured).angle_deg:.2f}° over {len(measured)} tensors, weighted by their elements"
    return Text.assemble(
        ("\nmean angle ", "bold"), mean, ("\nlargest angles\n", "bold"), "\n".join(lines), "\n"
    )


def _cells(found: Cell) -> tuple[str, str, str]:
    ratio = "" if found.ratio is None else f"{found.ratio:.3f}"
    return f"{found.angle_deg:.2f}", f"{found.norm_a:.2f}", ratio
