"""HTML and SVG from values: everything that comes from a model, a file or a user is escaped here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any

from fusion_slerp.errors import SHOWN_NAME, printable

DASH = "–"

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})
"""As those of `html.escape`: importing it would take as long as drawing a picture."""


class Html(str):
    """A text that is markup already; `html` leaves it unchanged."""

    __slots__ = ()


def html(value: object) -> Html:
    """Returns a value as markup: escaped unless it is `Html`, on one line and of bounded length."""
    return value if isinstance(value, Html) else Html(printable(value).translate(_ESCAPES))


def name(value: object, limit: int = SHOWN_NAME) -> Html:
    """Returns a name from a file as code, which may break at dots and underscores."""
    text = printable(value, limit).translate(_ESCAPES)
    return Html(f"<code>{text.replace('.', '.<wbr>').replace('_', '_<wbr>')}</code>")


def joined(parts: Iterable[object], between: str = "") -> Html:
    """Returns several values as one piece of markup."""
    return Html(between.join(html(part) for part in parts))


def tag(element: str, *content: object, **attributes: object) -> Html:
    """Returns an element; in names of attributes `_` stands for `-`, and those of None or False are left out.

    A trailing underscore avoids words of Python: `class_`, `for_`.
    """
    given = "".join(_attribute(key, value) for key, value in attributes.items())
    return Html(f"<{element}{given}>{joined(content)}</{element}>")


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    key = key.rstrip("_").replace("_", "-")
    return f" {key}" if value is True else f' {key}="{str(value).translate(_ESCAPES)}"'


def table(
    head: Sequence[object],
    rows: Iterable[Sequence[object]],
    caption: str,
    numbers: Sequence[int] = (),
    class_: str = "",
) -> Html:
    """Returns a table whose first column heads its rows, in a box that scrolls on narrow screens.

    Args:
        head: The columns' headings.
        rows: Their values, as many in each row.
        caption: For readers of screens; pages show headings instead.
        numbers: Indexes of the columns that are right-aligned.
        class_: More classes of the table.
    """
    kinds = ["num" if i in numbers else None for i in range(len(head))]
    first = joined(tag("th", cell, scope="col", class_=kind) for cell, kind in zip(head, kinds, strict=True))
    body = joined(
        tag("tr", *(tag("td" if i else "th", each, **_of_cell(i, kinds[i])) for i, each in enumerate(row)))
        for row in rows
    )
    inner = joined([tag("caption", caption, class_="vh"), tag("thead", tag("tr", first)), tag("tbody", body)])
    box = tag("table", inner, class_=f"plain {class_}".strip())
    return tag("div", box, class_="scroll", tabindex=0, role="group", aria_label=caption)


def _of_cell(i: int, kind: str | None) -> dict[str, object]:
    return {"class_": kind, "scope": None if i else "row"}


def number(value: float | None, digits: int = 3) -> str:
    """Returns a number with a fixed count of digits after the point; a dash for None."""
    if value is None or not isfinite(value):
        return DASH
    return f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    """Returns a number with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def count(value: int) -> str:
    """Returns a count with commas between thousands."""
    return f"{value:,}"


def plural(n: int, noun: str) -> str:
    """Returns a count with its noun."""
    return f"{count(n)} {noun}{'' if n == 1 else 's'}"


def percent(share: float) -> str:
    """Returns a share as a percentage that is 0 or 100 only if it is exactly that."""
    value = 100 * share
    if 0 < value < 0.1:
        return "under 0.1 %"
    return f"{min(value, 99.9) if share < 1 else value:.{0 if value in (0, 100) else 1}f} %"


def json_block(value: Any, id_: str) -> Html:
    """Returns a value as a script element of JSON, which no string in it can end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(f'<script type="application/json" id="{id_}">{text}</script>')


def verbatim(content: str) -> Html:
    """Returns a text of several lines as markup, in full length, with everything but line breaks escaped."""
    lines = content.split("\n")
    return Html("\n".join(printable(line, len(line) + 1).translate(_ESCAPES) for line in lines))
