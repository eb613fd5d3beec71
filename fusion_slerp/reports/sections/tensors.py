"""The table of all tensors: its rows are made in the page, as many as are in view."""

from __future__ import annotations

from fusion_slerp.drawing.markup import Html, count, joined, plural, tag
from fusion_slerp.reports.sections.parts import Data, Section, paragraph


def section(data: Data) -> Section | None:
    """Returns the controls and an empty table; the script fills it from the page's data."""
    tensors = data.get("tensors")
    if not tensors or not tensors.get("name"):
        return None
    n = len(tensors["name"])
    search = tag(
        "label", "Search ", Html('<input type="search" id="search" autocomplete="off" spellcheck="false">')
    )
    choices = sorted({made for made in tensors.get("made by", []) if made})
    made = tag("label", "Made by ", _choice(choices)) if len(choices) > 1 else Html()
    save = tag("button", "Save as CSV", type="button", id="save-tensors", class_="save")
    controls = tag(
        "div",
        search,
        made,
        tag("span", plural(n, "tensor"), id="found", role="status"),
        save,
        class_="controls",
    )
    head = tag("thead", tag("tr", id="columns"))
    body = tag(
        "table",
        tag("caption", "All tensors", class_="vh"),
        head,
        tag("tbody", id="rows"),
        aria_rowcount=str(n + 1),
        class_="plain",
    )
    window = tag("div", body, id="window", tabindex="0", role="region", aria_label="All tensors, scrollable")
    which = (
        f"All {count(n)}."
        if n == data["n_tensors"]
        else f"The first {count(n)} of {count(data['n_tensors'])}."
    )
    lead = f"{which} Several words are all searched for: in names, in how a tensor was made, and why."
    without = tag("noscript", paragraph("The table needs JavaScript; its data is in the page as JSON."))
    return Section("tensors", "Tensors", "All tensors", joined([paragraph(lead), controls, window, without]))


def _choice(choices: list[str]) -> Html:
    options = [tag("option", "anything", value=""), *(tag("option", each, value=each) for each in choices)]
    return tag("select", *options, id="made")
