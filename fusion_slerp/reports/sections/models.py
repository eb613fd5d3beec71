"""Who the models are, and how they relate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

from fusion_slerp.drawing.markup import DASH, Html, count, joined, name, number, plural, table, tag, verbatim
from fusion_slerp.reports.models import CHILD
from fusion_slerp.reports.sections.parts import Data, Section, labelled, listed, paragraph, swatch
from fusion_slerp.settings.sizes import nbytes_text, scaled

Model = Mapping[str, Any]

OWN = {"name", "role", "revision", "licence", "itself a merge of"}
"""Facts that every model's column has."""


def section(data: Data) -> Section | None:
    """Returns the table of models, the mean angles if there are several pairs, and all remarks."""
    if not data["models"]:
        return None
    unknown = _unknown(data["models"]) if data["kind"] == "child" else []
    parts = [_table(data["models"]), *unknown, *_matrix(data), *_remarks(data)]
    return Section("models", "Models", "The models", joined(parts))


def _table(models: list[Model]) -> Html:
    """A column for each model, of facts in which they differ; the others in one list below."""
    labels = [m["label"] for m in models]
    head = [
        tag("span", "property", class_="vh"),
        *(joined([swatch(each), f" {'merged model' if each == CHILD else each}"]) for each in labels),
    ]
    rows, same = [], []
    for fact, value in FACTS.items():
        values = [value(model) for model in models]
        if not any(values):
            continue
        known = dict.fromkeys(str(v) for v, m in zip(values, models, strict=True) if v or m.get("tensors"))
        if fact not in OWN and len(known) == 1 and len(models) > 1:
            same += [tag("div", tag("dt", fact), tag("dd", next(v for v in values if v)))]
            continue
        rows.append([fact, *(each or DASH for each in values)])
    shown = table(head, rows, "The models and their properties", class_="facts")
    if not same:
        return shown
    alike = joined(
        [tag("h3", "Alike in all of them" if _are_known(models) else "Alike in those that were opened")]
    )
    return joined([shown, alike, tag("dl", *same, class_="alike")])


def _are_known(models: list[Model]) -> bool:
    return all("tensors" in model for model in models)


def _types(model: Model) -> str:
    found = model.get("types") or {}
    if len(found) == 1:
        return next(iter(found))
    return ", ".join(f"{kind} ({_amount(n)})" for kind, n in found.items())


def _amount(n: float | None) -> str:
    return "" if n is None else scaled(n, ("", "thousand", "million", "billion", "trillion")).rstrip()


def _yes(value: object) -> str:
    return "" if value is None else "yes" if value else "no"


def _vocabulary(model: Model) -> str:
    rows, tokens = model.get("rows"), model.get("tokens")
    if rows is None:
        return ""
    return f"{count(rows)} rows" + ("" if tokens is None else f", {plural(tokens, 'token')}")


def _configured(model: Model) -> str:
    return ", ".join(f"{key} {value}" for key, value in (model.get("config") or {}).items())


FACTS: Mapping[str, Callable[[Model], Any]] = {
    "name": lambda m: tag("strong", str(m["name"])),
    "revision": lambda m: name(m["revision"][:12]) if m.get("revision") else "",
    "licence": lambda m: str(m.get("licence") or ""),
    "itself a merge of": lambda m: "" if m["label"] == "child" else str(m.get("merge_of") or ""),
    "architecture": lambda m: m.get("architecture") or "",
    "parameters": lambda m: _amount(m.get("parameters")),
    "tensors": lambda m: count(m["tensors"]) if m.get("tensors") else "",
    "layers": lambda m: str(m["layers"]) if m.get("layers") else "",
    "config": _configured,
    "types": _types,
    "on disk": lambda m: nbytes_text(m["nbytes"]) if m.get("nbytes") else "",
    "vocabulary": _vocabulary,
    "tokenizer": lambda m: m.get("tokenizer") or "",
    "special tokens": lambda m: ", ".join(
        f"{kind} {token}" for kind, token in (m.get("special") or {}).items()
    ),
    "chat template": lambda m: _yes(m.get("has_chat_template")),
    "quantised": lambda m: m.get("quantised") or "",
}
"""What the table says of a model, by the heading of the row."""


def _unknown(models: list[Model]) -> list[Html]:
    missing = [m["name"] for m in models if "parameters" not in m and m["label"] != "child"]
    if not missing:
        return []
    verb = "was" if len(missing) == 1 else "were"
    return [
        paragraph(
            f"{', '.join(missing)} {verb} not opened for this report; the manifest knows no more.",
            class_="note",
        )
    ]


def _matrix(data: Data) -> list[Html]:
    """The mean angles of all pairs as a triangle, if there are several."""
    pairs = (data.get("angles") or {}).get("pairs", {})
    if len(pairs) < 2:
        return []
    labels = list(dict.fromkeys(chain.from_iterable(pair.split("-") for pair in pairs)))
    rows = [[labelled(data, one), *(_angle(pairs, one, other) for other in labels)] for one in labels]
    what = "task vectors, the differences from the base" if data["has_base"] else "weights"
    note = f"Mean angle between the models' {what}, weighted by parameters. Small angles: close relatives."
    return [
        tag("h3", "How far apart they are"),
        paragraph(note),
        table(["model", *labels], rows, "Mean angles of all pairs", range(1, len(labels) + 1), "matrix"),
    ]


def _angle(pairs: Mapping[str, Any], one: str, other: str) -> str:
    found = pairs.get(f"{one}-{other}") or pairs.get(f"{other}-{one}")
    return f"{number(found['mean'], 1)}°" if found else ""


def _remarks(data: Data) -> list[Html]:
    """What prevents a merge, and what is doubtful, pair by pair."""
    parts: list[Html] = []
    relations = data.get("relations", {})
    for pair, relation in relations.items():
        lines = [
            *relation["notes"],
            *(tag("span", tag("strong", "Warning: "), each) for each in relation["warnings"]),
        ]
        problems = relation["problems"]
        if not (lines or problems):
            continue
        if len(relations) > 1:
            parts.append(tag("h3", pair.replace("-", " and ")))
        if problems:
            parts.append(paragraph(tag("strong", "A merge with the default options is not possible:")))
            parts.append(tag("pre", verbatim("\n".join(problems)), class_="problems", tabindex="0"))
        parts.append(listed(lines))
    return parts
