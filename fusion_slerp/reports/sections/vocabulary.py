"""What the vocabularies have in common, and what became of the rest, token by token where it is little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusion_slerp.drawing.markup import DASH, Html, count, joined, name, plural, table, tag, verbatim
from fusion_slerp.errors import printable
from fusion_slerp.reports.models import CHILD
from fusion_slerp.reports.sections.parts import Data, Section, labelled, paragraph

SHOWN = 60
"""Characters of a token that are shown."""


def section(data: Data) -> Section | None:
    """Returns the counts, the rows of tensors that follow the tokens, the tokens, and the chat templates."""
    found, counts = data.get("vocabulary"), data.get("row_counts")
    templates = _templates(data)
    if not (found or counts or templates):
        return None
    parts = [
        *(_counts(found) if found else []),
        *_rows(counts or []),
        *(_tokens(data, found) if found else []),
        *templates,
    ]
    return Section("vocabulary", "Vocabulary", "The vocabulary", joined(parts))


def _counts(found: Mapping[str, Any]) -> list[Html]:
    if not found["partial"] and not found["moved"]:
        return [paragraph(f"All models have the same {plural(found['every'], 'token')}, in the same rows.")]
    text = f"Of {plural(found['every'], 'token')} in all, {count(found['shared'])} are in every model"
    text += f" and {count(found['partial'])} in some only." if found["partial"] else "."
    if found["moved"]:
        have = "has" if found["moved"] == 1 else "have"
        text += f" {plural(found['moved'], 'token')} {have} different rows in different models."
    return [paragraph(text)]


def _rows(counts: list[Mapping[str, str]]) -> list[Html]:
    if not counts:
        return []
    rows = [[name(each["name"]), each["rows"]] for each in counts]
    return [table(["tensor", "its rows"], rows, "Rows of the tensors that follow the tokens")]


def _tokens(data: Data, found: Mapping[str, Any]) -> list[Html]:
    if not found["listed"]:
        return []
    labels = list(found["tokens"])
    head = ["token", *(f"row in {labelled(data, label)}" for label in labels)]
    if CHILD in labels:
        head.append("in the merged model")
    rows = [[_token(each["token"]), *_row_cells(each["rows"], labels)] for each in found["listed"]]
    more = found["partial"] - len(found["listed"])
    title = "Tokens that some models lack" + (
        f": the first {len(rows)} of {count(found['partial'])}" if more else ""
    )
    return [tag("h3", title), table(head, rows, title, range(1, len(labels) + 1), "tokens")]


def _row_cells(rows: Mapping[str, int | None], labels: list[str]) -> list[str]:
    cells = [DASH if rows[label] is None else str(rows[label]) for label in labels]
    if CHILD not in labels:
        return cells
    owners = [label for label in labels if label not in (CHILD, "base") and rows[label] is not None]
    if rows[CHILD] is None:
        return [*cells, "left out"]
    return [*cells, f"from {' and '.join(owners)}" if owners else "new"]


def _token(token: str) -> Html:
    return tag("code", printable(token, SHOWN), class_="token")


def _templates(data: Data) -> list[Html]:
    """The chat templates, if the models differ in them."""
    templates = data.get("chat_templates") or {}
    if len(set(templates.values())) < 2:
        return []
    same: dict[str | None, list[str]] = {}
    for label, text in templates.items():
        same.setdefault(text, []).append(labelled(data, label))
    parts = [tag("h3", "Chat templates")]
    for text, models in same.items():
        if text is None:
            parts.append(paragraph(f"None: {', '.join(models)}."))
        else:
            body = tag("pre", verbatim(text), tabindex="0")
            parts.append(tag("details", tag("summary", ", ".join(models)), body))
    return parts
