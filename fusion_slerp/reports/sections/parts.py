"""What sections are made of: paragraphs, plots that can be read by keyboard, tables, keys of colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fusion_slerp.drawing.marks import colour_name, mark
from fusion_slerp.drawing.markup import Html, table, tag

Data = Mapping[str, Any]


class Section(NamedTuple):
    """A section of the page: the anchor, its name in the contents, the heading, and its content."""

    id: str
    short: str
    title: str
    content: Html


def paragraph(*content: object, class_: str | None = None) -> Html:
    """Returns a paragraph."""
    return tag("p", *content, class_=class_)


def plot(chart: Html, title: str = "", narrow: Html | None = None) -> Html:
    """Returns a chart in a box that takes the focus; arrow keys read its values out.

    Args:
        chart: The drawing.
        title: Above it.
        narrow: The same for narrow screens; None uses one for all.
    """
    drawings = [tag("div", chart, class_="wide" if narrow else None)]
    drawings += [tag("div", narrow, class_="narrow")] if narrow else []
    heading = tag("figcaption", title) if title else ""
    box = tag(
        "div",
        *drawings,
        class_="plot",
        tabindex="0",
        role="group",
        aria_label=f"{title or 'Chart'}: arrow keys read the values",
    )
    return tag("figure", heading, box)


def panels(charts: Iterable[Html]) -> Html:
    """Returns small charts next to each other, as many as fit."""
    return tag("div", *charts, class_="panels")


def numbers(
    summary: str, head: Sequence[object], rows: Iterable[Sequence[object]], name: str, right: Sequence[int]
) -> Html:
    """Returns a table behind a disclosure, which can be saved as CSV.

    Args:
        summary: Its heading.
        head: The columns' headings.
        rows: The rows.
        name: The saved file's, without its ending.
        right: Indexes of the columns that are right-aligned.
    """
    save = tag("button", "Save as CSV", type="button", class_="save", data_csv=name)
    return tag("details", tag("summary", summary), save, table(head, rows, summary, right), class_="numbers")


def key(series: Mapping[str, str]) -> Html:
    """Returns the marks and colours of series with their names.

    Args:
        series: Names by label.
    """
    return tag(
        "ul", *(tag("li", swatch(label), tag("span", name)) for label, name in series.items()), class_="key"
    )


def swatch(label: str) -> Html:
    """Returns a model's mark in its colour."""
    kind = f"series s-{colour_name(label)}"
    drawing = f'<g class="{kind}" transform="translate(8 8)"><g class="dots">{mark(label)}</g></g>'
    return Html(
        f'<svg class="swatch" width="18" height="18" viewBox="1 1 14 14" aria-hidden="true">{drawing}</svg>'
    )


def names(data: Data) -> dict[str, str]:
    """Returns the models' names by label, in order."""
    return {each["label"]: str(each["name"]) for each in data["models"]}


def labelled(data: Data, label: str) -> str:
    """Returns a model's name with its label: `plays (a)`; the label alone if it has no other name."""
    known = names(data)
    if label in ("child", "best") or known.get(label, label) == label:
        return known.get(label, label) if label != "best" else "best point"
    return f"{known[label]} ({label})"


def listed(lines: Iterable[object], class_: str | None = None) -> Html:
    """Returns lines as a list; empty without any."""
    items = [tag("li", line) for line in lines]
    return tag("ul", *items, class_=class_) if items else Html()


def stack_title(stack: str, n: int) -> str:
    """Returns a heading for a stack of layers; empty if there is only one."""
    return stack.rstrip(".") if n > 1 else ""
