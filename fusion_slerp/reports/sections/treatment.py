"""What was interpolated, averaged and copied, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fusion_slerp.drawing.markup import Html, count, joined, name, percent, plural, table, tag
from fusion_slerp.reports.sections.parts import Data, Section, paragraph

REASONS = {
    "nearly parallel": "so close to parallel that the arc and the straight line agree",
    "nearly opposite": "nearly opposite: there is no shortest arc",
    "zero vector": "one of them is zero, which has no direction",
    "values": "the values choose one model",
    "owner": "only that model has it",
    "integer": "whole numbers are never interpolated",
    "equal": "equal in all models",
    "no entry": "no entry of the schedule matches its name",
    "no base": "the base lacks it",
}
"""Reasons of a merge's report, in words."""

PATTERNS = 6
"""Patterns of the bar's parts; more share the last."""


def section(data: Data) -> Section | None:
    """Returns a bar of the elements by treatment, and a table with the reasons."""
    groups = data.get("treatment")
    if not groups:
        return None
    total = sum(each["elements"] for each in groups) or 1
    lead = "Each tensor by what was done with it. The bar shows shares of the parameters."
    parts = [paragraph(lead), _bar(groups, total)]
    rows = [
        [
            joined([tag("i", "", class_=f"chip p{min(i, PATTERNS - 1)}"), each["action"]]),
            REASONS.get(each["why"], each["why"]),
            count(each["tensors"]),
            count(each["elements"]),
            percent(each["elements"] / total),
            name(each["example"]),
        ]
        for i, each in enumerate(groups)
    ]
    head = ["made by", "because", "tensors", "parameters", "share", "for example"]
    parts.append(table(head, rows, "Treatment of the tensors", [2, 3, 4], "reasons"))
    return Section("treatment", "Treatment", "What was done with each tensor", joined(parts))


def _bar(groups: Sequence[Mapping[str, Any]], total: int) -> Html:
    """One bar that is divided by shares of the parameters."""
    parts = []
    for i, each in enumerate(groups):
        made = f"{each['action']}: {each['why']}" if each["why"] else each["action"]
        share = each["elements"] / total
        read = f"{made}|{percent(share)} of the parameters|{plural(each['tensors'], 'tensor')}"
        kind = f"part p{min(i, PATTERNS - 1)}"
        name = tag("span", each["action"]) if share > 0.08 else ""
        parts.append(tag("span", name, class_=kind, style=f"flex-grow:{share:.5f}", data_read=read))
    what = "Shares of the parameters: arrow keys read the values"
    return tag("div", *parts, class_="plot shares", tabindex="0", role="group", aria_label=what)
