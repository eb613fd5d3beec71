"""The merged model's merge_report.json: what happened to each tensor, and why.

A row holds the tensor's name, `action` and `why`, the values of the method's options that may vary by tensor
(`"t": 0.3`) and `n_elements`; if the tensor was measured, `angle_deg` and `norms` by label; if its rows come
from several models, `rows`.

Format 1 had no `format`; it had `norm_a` and `norm_b`, in `rows` `from_a` and `from_b`, and `t end` for
`values`. It is read as format 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fusion_slerp.engine.report import TensorReport
from fusion_slerp.output.manifest import LIMITS, encode
from fusion_slerp.sources.json_files import read_json

REPORT = "merge_report.json"
FORMAT = 2

NORM, COPIED = "norm_", "from_"
"""Prefixes of format 1's keys that ended in a label."""


def report_text(reports: Sequence[TensorReport]) -> str:
    """Returns the text of a report."""
    rows = [encode(_row(report)) for report in reports]
    return f'{{\n "format": {FORMAT},\n "tensors": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n"


def _row(report: TensorReport) -> dict[str, Any]:
    action, _, because = report.rule.partition(": ")
    fields = {
        "name": report.name,
        "action": action,
        "why": report.why or because or None,
        **report.values,
        "n_elements": report.n_elements,
        "angle_deg": report.angle_deg,
        "norms": report.norms or None,
        "rows": None if report.rows is None else asdict(report.rows),
    }
    return {name: value for name, value in fields.items() if value is not None}


def read_report(file: Path) -> dict[str, dict[str, Any]]:
    """Returns the rows of a report by tensor, in the present format; empty if it cannot be read."""
    try:
        content = read_json(file, LIMITS)
        rows = content["tensors"]
        if content.get("format", 1) == 1:
            rows = [_in_present_form(row) for row in rows]
        return {row["name"]: row for row in rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _in_present_form(row: Mapping[str, Any]) -> dict[str, Any]:
    norms = _by_label(row, NORM)
    kept = {key: value for key, value in row.items() if not key.startswith(NORM)}
    counts = kept.pop("rows", None)
    if kept.get("why") == "t end":
        kept["why"] = "values"
    return {
        **kept,
        **({"norms": norms} if norms else {}),
        **({"rows": _counts_in_present_form(counts)} if counts else {}),
    }


def _counts_in_present_form(counts: Mapping[str, int]) -> dict[str, Any]:
    copied = {label: count for label, count in _by_label(counts, COPIED).items() if count}
    return {"merged": counts["merged"], "copied": copied, "filled": counts["filled"]}


def _by_label(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key[len(prefix) :]: value for key, value in values.items() if key.startswith(prefix)}
