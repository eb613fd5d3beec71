"""A report's page: one HTML file that needs nothing else, made from the report's data."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from typing import Any

from fusion_slerp.drawing.colours import DARK, LEVELS, LIGHT, Theme, sequential, text_on
from fusion_slerp.drawing.markup import Html, json_block, tag
from fusion_slerp.reports.sections import (
    angles,
    evaluation,
    models,
    norms,
    reproduce,
    samples,
    sweep,
    tensors,
    treatment,
    values,
    vocabulary,
)
from fusion_slerp.reports.sections.parts import Section

SECTIONS = (
    sweep,
    models,
    angles,
    evaluation,
    samples,
    norms,
    values,
    treatment,
    vocabulary,
    tensors,
    reproduce,
)
"""In the order of the page: results first, then what they rest on."""

KINDS = {
    "child": "Report on a merged model",
    "sweep": "Report on a sweep",
    "search": "Report on a search",
    "comparison": "Comparison of models",
}

DATA = "data"
"""The id of the element that holds the data."""

ICON = "data:,"
"""An empty icon: browsers ask a server for one otherwise."""


def page(data: Mapping[str, Any]) -> str:
    """Returns the page of a report.

    Its policy forbids every request, and every script but its own: should markup get past the escaping, no
    browser would run it.

    Args:
        data: See `data.gather`.
    """
    found = [section for module in SECTIONS if (section := module.section(data)) is not None]
    script, style = _asset("page.js"), f"{_asset('page.css')}\n{_theme_css()}"
    title = f"{data['name']} – {KINDS[data['kind']].lower()}"
    head = [
        Html('<meta charset="utf-8">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">'),
        Html('<meta name="color-scheme" content="light dark">'),
        Html(f'<meta name="generator" content="fusion_slerp {data["fusion_slerp"]}">'),
        Html(f'<link rel="icon" href="{ICON}">'),
        tag("title", title),
        Html(f"<style>{style}</style>"),
    ]
    body = [
        tag("a", "Skip to the content", href="#content", class_="skip"),
        _header(data),
        _contents(found),
        tag("main", *(_section(each) for each in found), id="content", tabindex="-1"),
        _footer(data),
        tag("div", "", id="tip", aria_hidden="true"),
        tag("div", "", id="said", class_="vh", role="status"),
        json_block(data, DATA),
        Html(f"<script>{script}</script>"),
    ]
    lines = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        *head,
        "</head>",
        "<body>",
        *body,
        "</body>",
        "</html>",
    ]
    return "\n".join(lines) + "\n"


def _policy(script: str) -> str:
    digest = b64encode(sha256(script.encode()).digest()).decode()
    allowed = f"script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def _asset(name: str) -> str:
    return (files("fusion_slerp.reports") / "assets" / name).read_text(encoding="utf-8")


def _header(data: Mapping[str, Any]) -> Html:
    theme = tag("button", "Theme: system", type="button", id="theme", class_="control")
    save = tag(
        "button",
        "Save the data",
        type="button",
        id="save-data",
        class_="control",
        title="Everything on this page as JSON",
    )
    lead = [
        tag("p", sentence, class_="lead" if i == 0 else None) for i, sentence in enumerate(data["summary"])
    ]
    return tag(
        "header",
        tag(
            "div",
            tag("span", KINDS[data["kind"]], class_="eyebrow"),
            tag("div", save, theme, class_="buttons"),
            class_="bar",
        ),
        tag("h1", data["name"]),
        tag("div", *lead, class_="summary"),
    )


def _contents(found: list[Section]) -> Html:
    links = [tag("li", tag("a", each.short, href=f"#{each.id}")) for each in found]
    return tag("nav", tag("ul", *links), aria_label="Sections", class_="contents")


def _section(each: Section) -> Html:
    heading = tag("h2", each.title, id=f"{each.id}-title")
    return tag("section", heading, each.content, id=each.id, aria_labelledby=f"{each.id}-title")


def _footer(data: Mapping[str, Any]) -> Html:
    made = data.get("made_by")
    how = (
        f"The merge was made with fusion_slerp {made}, this report with {data['fusion_slerp']}."
        if made and data["kind"] == "child"
        else f"Made with fusion_slerp {data['fusion_slerp']}."
    )
    return tag("footer", tag("p", how, " The page needs no network; the data of every picture is in it."))


def _theme_css() -> str:
    """The colours of both themes, by the names that the stylesheet uses."""
    light, dark = _variables(LIGHT, is_dark=False), _variables(DARK, is_dark=True)
    classes = "".join(f".h{i}{{background:var(--h{i});color:var(--t{i})}}" for i in range(LEVELS))
    return (
        f":root{{color-scheme:light;{light}}}\n"
        f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}\n"
        f":root[data-theme=dark]{{color-scheme:dark;{dark}}}\n"
        f"@media print{{:root,:root[data-theme],:root:not([data-theme=light])"
        f"{{color-scheme:light;{light}}}}}\n"
        f"{classes}"
    )


def _variables(theme: Theme, is_dark: bool) -> str:
    own = "".join(f"--{name}:{value};" for name, value in theme.items())
    ramp = sequential(is_dark)
    return own + "".join(f"--h{i}:{colour};--t{i}:{text_on(colour)};" for i, colour in enumerate(ramp))
