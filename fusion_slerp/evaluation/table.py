"""The table that shows at a glance whether the merge worked."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor, isfinite, log10
from textwrap import fill
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fusion_slerp.evaluation import losses as perplexity
from fusion_slerp.evaluation.settings import MERGED


def print_comparison(scores: Mapping[str, dict[str, Any]], other_tokens: set[str]) -> None:
    """Prints one row per model, the merged one last, and the result of the comparison in a sentence.

    Args:
        scores: The report of each model, by name.
        other_tokens: Names of the models that were scored on tokens other than the merged one's.
    """
    console = Console(highlight=False)
    rows = {name: score for name, score in scores.items() if name != MERGED} | {MERGED: scores[MERGED]}
    losses = {name: row["average"]["loss"] for name, row in rows.items() if name not in other_tokens}
    finite = {name: loss for name, loss in losses.items() if isfinite(loss)}
    best = min(finite, key=finite.__getitem__) if len(rows) > 1 and finite else ""
    labels = {name: f"{name} *" if name in other_tokens else name for name in rows}
    texts = [text for text in rows[MERGED] if text != "average"]
    # The first that fits: with standard errors, without them, or only the averages.
    for shown, sign in ((texts, "+-" if console.options.ascii_only else "±"), (texts, ""), ([], "")):
        table = _table(rows, labels, shown, sign, best)
        unbounded = console.options.update(max_width=10_000)  # measure() cuts at the width it is given
        if console.measure(table, options=unbounded).maximum <= console.width:
            break
    console.print("Loss in nats per token, and perplexity on the next line")
    console.print(table)
    if not shown:
        console.print("The figures of the single texts do not fit this width; they are in the report.")
    if other_tokens:
        console.print("* its own tokenizer makes other tokens, so its losses are not comparable")
    console.print(Text(perplexity.verdict(losses, MERGED)))


def _table(
    rows: Mapping[str, dict[str, Any]], labels: Mapping[str, str], texts: list[str], sign: str, best: str
) -> Table:
    """Returns the table of losses; `sign` precedes standard errors, which are left out if it is empty."""
    table = Table("model", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in (*texts, "average"):
        table.add_column(Text(fill(heading, 16)), justify="right", no_wrap=True)
    for name, score in rows.items():
        cells = [Text(_cell(score[text], sign)) for text in texts]
        average = _cell(score["average"], "") + ("\nbest" if name == best else "")
        cells.append(Text(average, style="bold green" if name == best else ""))
        table.add_row(Text(fill(labels[name], 24)), *cells)
    return table


def _cell(score: Mapping[str, float], sign: str) -> str:
    lines = []
    for value, slope in ((score["loss"], 1.0), (score["perplexity"], score["perplexity"])):
        # About four significant digits, at most three decimals; the error has as many as its value.
        plain = isfinite(value) and value < 1e6
        form = f".{min(3, max(0, 3 - floor(log10(max(value, 1.0)))))}f" if plain else ".3g"
        lines.append(f"{value:{form}}" + (f" {sign} {score['loss_stderr'] * slope:{form}}" if sign else ""))
    return "\n".join(lines)
