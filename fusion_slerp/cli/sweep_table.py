"""The table of a sweep: its parents and points, and how their scores differ from those of the best parent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

from rich.table import Table
from rich.text import Text

from fusion_slerp.cli.tables import ruled
from fusion_slerp.sweeps.best import best_parent
from fusion_slerp.sweeps.record import SweepPoint, SweepRecord
from fusion_slerp.sweeps.scores import (
    AVERAGE_SCORE,
    difference_key,
    score_at,
    short,
    stderr_at,
    tasks_of,
    text_of,
)
from fusion_slerp.sweeps.values import value_text

MOST_TASKS = 4
"""With more tasks than this, only the score that decides is shown."""

LOSS_WIDTH, NAME_WIDTH = 15, 6
"""Characters of a score with its error, and at least those of a value."""


def columns(record: SweepRecord, scores: Mapping[str, Any]) -> list[str]:
    """Returns the headings: what is varied, each text, each task's main score, the score that decides, and
    the difference.
    """
    texts = [text for text in scores if isinstance(scores[text], Mapping) and "loss" in scores[text]]
    tasks = [f"{task}.{next(iter(each['metrics']))}" for task, each in tasks_of(scores).items()]
    shown = [*texts, *(tasks if len(tasks) <= MOST_TASKS else [])]
    decides = short(record.metric["name"])
    is_shown = decides in tasks or text_of(record.metric) in texts
    is_alone = decides == AVERAGE_SCORE and len(tasks) == 1  # the mean of one
    more = [] if is_shown or is_alone else [decides]
    return [*record.vary, *shown, *more, *(["from best parent"] if texts or tasks else [])]


def cells(record: SweepRecord, name: str, headings: Sequence[str]) -> list[str]:
    """Returns the row of a parent, by label, or of a point, by name."""
    point = next((point for point in record.points if point.name == name), None)
    scores = point.scores if point is not None else record.parents[name]
    return [_cell(record, name, point, scores, heading) for heading in headings]


def _cell(
    record: SweepRecord, name: str, point: SweepPoint | None, scores: Mapping[str, Any], heading: str
) -> str:
    if heading in record.vary:
        is_first = heading == next(iter(record.vary))
        return value_text(point.values[heading]) if point is not None else name * is_first
    if heading == "from best parent":
        return "" if point is None else _difference(record, point)
    loss, value = score_at(scores, f"{heading}.loss"), score_at(scores, heading)
    if loss is not None:
        return _with_error(loss, stderr_at(scores, f"{heading}.loss"))
    stderr = stderr_at(scores, heading)
    return "" if value is None else f"{value:.4f}" if stderr is None else _with_error(value, stderr)


def _difference(record: SweepRecord, point: SweepPoint) -> str:
    own = point.differences.get(best_parent(record) or "", {})
    difference = own.get(difference_key(record.metric), own.get("average"))
    return "" if difference is None else _with_error(difference["value"], difference["stderr"], "+")


def _with_error(value: float, stderr: float | None, sign: str = "") -> str:
    error = f" ± {stderr:.3f}" if stderr is not None and isfinite(stderr) else ""
    return f"{value:{sign}.3f}{error}"


def rich_table(record: SweepRecord) -> Table:
    """Returns the whole table, with the best point so far marked."""
    names = [*record.parents, *(point.name for point in record.points)]
    first = record.points[0].scores if record.points else next(iter(record.parents.values()), {})
    headings = columns(record, first)
    table = ruled()
    for heading in headings:
        table.add_column(Text(heading), justify="left" if heading in record.vary else "right", no_wrap=True)
    best = record.best_point
    for name in names:
        is_best = best is not None and name == best.name
        row = cells(record, name, headings)
        style = "bold green" if is_best else "dim" if name in record.parents else ""
        table.add_row(*(Text(cell) for cell in row), style=style)
    return table


def plain_lines(record: SweepRecord, name: str, is_first: bool) -> Iterator[str]:
    """Yields the line of a result, and before the first the headings: columns of fixed widths."""
    found = next((point.scores for point in record.points if point.name == name), None)
    headings = columns(record, found if found is not None else record.parents[name])
    widths = [_width(record, heading) for heading in headings]
    if is_first:
        yield _line(headings, widths, len(record.vary))
    yield _line(cells(record, name, headings), widths, len(record.vary))


def _width(record: SweepRecord, heading: str) -> int:
    if heading not in record.vary:
        return max(LOSS_WIDTH, len(heading))
    return max(NAME_WIDTH, len(heading), *(len(value_text(value)) for value in record.vary[heading]))


def _line(row: Sequence[str], widths: Sequence[int], n_left: int) -> str:
    parts = [
        cell.ljust(width) if i < n_left else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(parts).rstrip()
