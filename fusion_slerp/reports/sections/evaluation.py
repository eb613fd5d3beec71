"""Losses of the models on texts with error bars, the paired differences, and the scores of tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fusion_slerp.drawing.dots import Dot, dot_chart
from fusion_slerp.drawing.markup import DASH, Html, count, joined, number, signed, table, tag
from fusion_slerp.reports.evaluations import AVERAGE
from fusion_slerp.reports.sections.parts import Data, Section, labelled, numbers, panels, paragraph, plot

Z = 1.959964
"""Standard errors on each side of a 95 % interval."""


def section(data: Data) -> Section | None:
    """Returns a chart of each text with a row for each model, then the differences."""
    found = data.get("evaluation")
    if not found or not (found["models"] or found["tasks"]):
        return None
    parts: list[Html] = []
    if found["models"]:
        lead = (
            "Loss in nats per token; less is better. Bars are 95 % intervals. Models are to be compared by "
            "the differences below rather than by these bars: on the same tokens, differences vary far less."
        )
        parts += [
            paragraph(lead),
            panels(plot(chart, _text_name(text)) for text, chart in loss_charts(data)),
            _table(data),
        ]
    parts += [*_differences(data), *_tasks(data)]
    return Section("evaluation", "Evaluation", "How well they predict", joined(parts))


def loss_charts(data: Data) -> Iterator[tuple[str, Html]]:
    """Yields the chart of each text with the text's name."""
    found = data["evaluation"]
    for text in found["texts"]:
        dots = [
            _dot(data, label, scores[text]) for label, scores in found["models"].items() if text in scores
        ]
        dots = [dot for dot in dots if dot is not None]
        if dots:
            yield text, dot_chart(dots, 360, "nats per token", f"Loss on {_text_name(text)}")


def _text_name(text: str) -> str:
    return "average of the texts" if text == AVERAGE else text


def _dot(data: Data, label: str, score: Mapping[str, Any]) -> Dot | None:
    if score["loss"] is None:
        return None
    error = score.get("loss_stderr")
    ends = (None, None) if error is None else (score["loss"] - Z * error, score["loss"] + Z * error)
    return Dot(label, labelled(data, label), score["loss"], *ends)


def _table(data: Data) -> Html:
    found = data["evaluation"]
    head = ["text", "model", "loss", "± standard error", "perplexity", "bits per byte", "tokens", "tokens/s"]
    rows = [
        [
            _text_name(text),
            labelled(data, label),
            number(scores[text]["loss"], 4),
            number(scores[text].get("loss_stderr"), 4),
            number(scores[text].get("perplexity"), 2),
            number(scores[text].get("bits_per_byte"), 4),
            count(scores[text]["tokens"]) if "tokens" in scores[text] else DASH,
            number(scores[text].get("tokens_per_s"), 0),
        ]
        for text in found["texts"]
        for label, scores in found["models"].items()
        if text in scores
    ]
    return numbers("The numbers", head, rows, "losses", range(2, len(head)))


def _differences(data: Data) -> list[Html]:
    """Charts of the paired differences, one for each model that others are compared with."""
    found = data["evaluation"]["differences"]
    if not found:
        return []
    lead = (
        "Differences of losses on the same tokens, with 95 % intervals: to the left of zero, the first model "
        "is better. An interval that contains zero shows no difference."
    )
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for each in found:
        groups.setdefault((each["of"], each["from"]), []).append(each)
    charts = []
    for (of, other), rows in groups.items():
        dots = [Dot(of, e["text"], e["value"], e.get("low"), e.get("high")) for e in rows]
        title = f"{labelled(data, of)} against {labelled(data, other)}"
        charts.append(
            plot(dot_chart(dots, 360, "difference in nats per token", title, with_zero=True), title)
        )
    return [tag("h3", "Paired differences"), paragraph(lead), panels(charts), _difference_table(data, found)]


def _difference_table(data: Data, found: Sequence[Mapping[str, Any]]) -> Html:
    head = ["text", "of", "against", "difference", "95 % interval"]
    rows = [
        [
            _text_name(e["text"]),
            labelled(data, e["of"]),
            labelled(data, e["from"]),
            signed(e["value"], 4),
            _interval(e),
        ]
        for e in found
    ]
    return numbers("The numbers", head, rows, "differences", [3, 4])


def _interval(each: Mapping[str, Any]) -> str:
    if "low" not in each or "high" not in each:
        return DASH
    return f"{signed(each['low'], 4)} to {signed(each['high'], 4)}"


def _tasks(data: Data) -> list[Html]:
    found = data["evaluation"]["tasks"]
    if not found:
        return []
    pairs = dict.fromkeys(
        (task, metric) for tasks in found.values() for task, own in tasks.items() for metric in own
    )
    rows = [
        [task, metric, *(number(own.get(task, {}).get(metric), 4) for own in found.values())]
        for task, metric in pairs
    ]
    head = ["task", "metric", *(labelled(data, label) for label in found)]
    return [tag("h3", "Tasks"), table(head, rows, "Scores of the tasks", range(2, len(head)))]
