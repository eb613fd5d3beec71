"""The table of scores on the harness's tasks: the models side by side, and whether the merged one differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fusion_slerp.evaluation.harness_documents import HarnessEvaluation, paired_differences

BETTER, WORSE, UNCLEAR = "better", "worse", "within the noise"
"""How the merged model compares with another: by whether the 95 % interval of their difference excludes 0."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The merged model and the best of the others on one metric of one task.

    Attributes:
        rival: The best of the others.
        difference: Merged minus rival, as `harness_documents.paired_differences` has it.
        outcome: `BETTER`, `WORSE` or `UNCLEAR`.
    """

    rival: str
    difference: Mapping[str, float]
    outcome: str


def print_scores(evaluations: Mapping[str, HarnessEvaluation], merged: str) -> None:
    """Prints one row per task and metric with a column per model, and the result in a sentence.

    Args:
        evaluations: The models, by name, on the same tasks.
        merged: Which of them is the merged model; it comes last.
    """
    console = Console(highlight=False)
    models = [*(name for name in evaluations if name != merged), merged]
    comparisons = compare_with_best(evaluations, merged)
    sign = "+-" if console.options.ascii_only else "±"
    # The first that fits: with standard errors, without them, or only the merged model.
    for shown, error_sign in ((models, sign), (models, ""), ([merged], "")):
        table = _table(evaluations, shown, merged, comparisons, error_sign, sign)
        unbounded = console.options.update(max_width=10_000)  # measure() cuts at the width it is given
        if console.measure(table, options=unbounded).maximum <= console.width:
            break
    console.print(table)
    if shown != models:
        console.print("The scores of the other models do not fit this width; they are in the report.")
    if sentence := verdict(comparisons, merged):
        console.print(Text(sentence))


def compare_with_best(
    evaluations: Mapping[str, HarnessEvaluation], merged: str
) -> dict[tuple[str, str], Comparison]:
    """Returns by task and metric how the merged model compares with the best of the others.

    Left out: metrics of which the harness does not know whether higher is better, and those that are not a
    mean over the same documents.
    """
    others = {name: each for name, each in evaluations.items() if name != merged}
    differences = {name: paired_differences(evaluations[merged], other) for name, other in others.items()}
    compared = {}
    for task, metric, values in _rows(evaluations[merged]):
        higher = values["higher_is_better"]
        usable = [name for name in others if metric in differences[name].get(task, {})]
        if not usable or higher is None:
            continue
        upward = 1 if higher else -1
        rival = min(usable, key=lambda name: upward * differences[name][task][metric]["value"])
        difference = differences[rival][task][metric]
        low, high = sorted((upward * difference["low"], upward * difference["high"]))
        outcome = BETTER if low > 0 else WORSE if high < 0 else UNCLEAR
        compared[task, metric] = Comparison(rival, difference, outcome)
    return compared


def verdict(comparisons: Mapping[tuple[str, str], Comparison], merged: str) -> str:
    """Returns in one sentence how the merged model did, by the first metric of each task; or nothing."""
    first: dict[str, tuple[str, Comparison]] = {}
    for (task, metric), comparison in comparisons.items():
        first.setdefault(task, (metric, comparison))
    if not first:
        return ""
    if len(first) == 1:
        (task, (metric, comparison)), *_ = first.items()
        gap = comparison.difference["value"]
        where = "the same as" if gap == 0 else f"{abs(gap):.3f} {'above' if gap > 0 else 'below'}"
        outcome = f" ({comparison.outcome})" if gap else ""
        return f"{merged}: {task} {metric} {where} the best other model, {comparison.rival}{outcome}"
    counts = Counter(comparison.outcome for _, comparison in first.values())
    parts = ", ".join(f"{counts[outcome]} {outcome}" for outcome in (BETTER, WORSE, UNCLEAR))
    return f"{merged}: {len(first)} tasks, each compared with the best other model: {parts}"


def _rows(evaluation: HarnessEvaluation) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for task, scores in evaluation.scores["tasks"].items():
        for metric, values in scores["metrics"].items():
            yield task, metric, values


def _table(
    evaluations: Mapping[str, HarnessEvaluation],
    models: list[str],
    merged: str,
    comparisons: Mapping[tuple[str, str], Comparison],
    error_sign: str,
    sign: str,
) -> Table:
    """Returns the table; `error_sign` precedes standard errors, which are left out if it is empty."""
    table = Table("task", "metric", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("n", justify="right")
    for name in models:
        table.add_column(Text(fill(name, 16)), justify="right", no_wrap=True)
    if comparisons:
        table.add_column("gain over best", justify="right", no_wrap=True)
    for task, metric, _ in _rows(evaluations[merged]):
        scores = [evaluations[name].scores["tasks"][task] for name in models]
        cells = [Text(_score(each["metrics"][metric], error_sign)) for each in scores]
        compared = [Text(_gain(comparisons.get((task, metric)), sign))] if comparisons else []
        table.add_row(Text(fill(task, 24)), Text(metric), str(scores[0]["n"]), *cells, *compared)
    return table


def _score(values: Mapping[str, Any], sign: str) -> str:
    stderr = values["stderr"]
    return _number(values["value"]) + (f" {sign} {_number(stderr)}" if sign and stderr is not None else "")


def _gain(comparison: Comparison | None, sign: str) -> str:
    if comparison is None:
        return ""
    value, stderr = comparison.difference["value"], comparison.difference["stderr"]
    return f"{'+' if value >= 0 else ''}{_number(value)} {sign} {_number(stderr)}\n{comparison.outcome}"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"
