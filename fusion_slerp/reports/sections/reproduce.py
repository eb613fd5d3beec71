"""The exact configuration, and the lines that repeat the merge."""

from __future__ import annotations

from fusion_slerp.drawing.markup import Html, joined, tag, verbatim
from fusion_slerp.reports.sections.parts import Data, Section, paragraph


def section(data: Data) -> Section | None:
    """Returns commands and YAML, each with a button that copies it."""
    found = data.get("reproduction")
    if not found:
        return None
    blocks = [
        ("In a shell", found.get("command"), "command"),
        ("In Python", found.get("python"), "python"),
        ("Check that the result is the same, bit for bit", found.get("verify"), "verify"),
    ]
    parts = [_block(title, text, id_) for title, text, id_ in blocks if text]
    parts += _yaml("As a config file", found.get("recipe"), "recipe", is_open=True)
    parts += _yaml("Every setting, the defaults included", found.get("settings"), "settings", is_open=False)
    lead = (
        "The best point as a merge."
        if data["kind"] in ("sweep", "search")
        else "The same source models and settings make the same bytes."
    )
    return Section("reproduce", "Repeat it", "How to repeat it", joined([paragraph(lead), *parts]))


def _block(title: str, text: str, id_: str) -> Html:
    return joined([tag("h3", title), _code(text, id_)])


def _yaml(title: str, text: str | None, id_: str, is_open: bool) -> list[Html]:
    if not text:
        return []
    return [tag("details", tag("summary", title), _code(text, id_), open=is_open)]


def _code(text: str, id_: str) -> Html:
    lines = verbatim(text.rstrip("\n"))
    copy = tag("button", "Copy", type="button", class_="copy", data_copy=id_)
    return tag("div", tag("pre", tag("code", lines, id=id_), tabindex="0"), copy, class_="code")
