"""A plan as tables: tensors that are treated alike in one line, then what the merge will take."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from fusion_slerp.cli.amounts import nbytes_text, path_text
from fusion_slerp.cli.forecast import Forecast
from fusion_slerp.cli.tables import ruled
from fusion_slerp.errors import listed
from fusion_slerp.settings.schedule import PerModel

if TYPE_CHECKING:
    from fusion_slerp.planning.plan import MergePlan, TensorPlan

_NUMBER = re.compile(r"(?:^|(?<=\.))\d+(?=\.)")


def tables(found: Forecast, every: bool = False) -> list[Table | Text]:
    """Returns what is printed of a forecast.

    Args:
        found: What to show.
        every: A line for each tensor, in place of one for those that are alike.
    """
    return [Text(), tensor_table(found.plan, every), Text(), summary(found)]


def tensor_table(plan: MergePlan, every: bool = False) -> Table:
    """Returns tensor -> action, the values of the method's schedules, shape, type, size."""
    tensors, schedules = plan.tensors, plan.settings.schedules
    table = ruled()
    table.add_column("tensor", overflow="fold")
    table.add_column("action")
    for name, schedule in schedules.items():
        labels = ", ".join(plan.parents) if isinstance(schedule, PerModel) else ""
        table.add_column(f"{name}\nof {labels}" if labels else name, justify="right")
    table.add_column("shape", justify="right")
    table.add_column("type")
    table.add_column("size", justify="right")
    for group in [[tensor] for tensor in tensors] if every else _groups(tensors):
        first = group[0]
        cells = [_name(group), _action(first)]
        cells += [_values([tensor.values.get(name) for tensor in group]) for name in schedules]
        shape = "×".join(map(str, first.out.shape)) or "scalar"
        size = nbytes_text(sum(tensor.out.nbytes for tensor in group))
        table.add_row(*map(Text, (*cells, shape, _type(first), size)))
    return table


def summary(found: Forecast) -> Table:
    """Returns what the merge will take."""
    plan = found.plan
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    n_files = len(plan.shards)
    written = f"{nbytes_text(found.nbytes_written)}, {n_files} file{'s' * (n_files > 1)} of weights"
    lines = {
        "reads": nbytes_text(plan.nbytes_read),
        "writes": written,
        "memory": f"peak about {nbytes_text(plan.peak_nbytes)}",
        "disk": _disk(found),
        "time": found.time_text,
        "tokenizer": _tokenizer(found),
    }
    for name, value in lines.items():
        if value is not None:
            table.add_row(name, Text(value))
    return table


def _disk(found: Forecast) -> str | None:
    if found.out is None or found.free_nbytes is None:
        return None
    return f"{nbytes_text(found.free_nbytes)} free for {path_text(found.out)}"


def _tokenizer(found: Forecast) -> str:
    tokenizer = found.plan.tokenizer
    united = ", with tokens added" if tokenizer.written else ""
    if tokenizer.rows is None:
        return f"files of {tokenizer.folder}"
    return f"{len(tokenizer.rows)} tokens, from {tokenizer.folder}{united}"


def _groups(tensors: Sequence[TensorPlan]) -> list[list[TensorPlan]]:
    found: dict[object, list[TensorPlan]] = {}
    for tensor in tensors:
        key = (_pattern(tensor.out.name), _action(tensor), tensor.out.shape, _type(tensor))
        found.setdefault(key, []).append(tensor)
    return list(found.values())


def _pattern(name: str) -> str:
    """The name with every number in it as a star."""
    return _NUMBER.sub("*", name)


def _name(group: Sequence[TensorPlan]) -> str:
    """One name for all: `model.layers.{0-4}.mlp.up_proj.weight`."""
    numbers = [_NUMBER.findall(tensor.out.name) for tensor in group]
    runs = iter([_run({int(number) for number in place}) for place in zip(*numbers, strict=True)])
    return _NUMBER.sub(lambda _: next(runs), group[0].out.name)


def _run(numbers: set[int]) -> str:
    low, high = min(numbers), max(numbers)
    if low == high:
        return str(low)
    if len(numbers) == high - low + 1:
        return f"{{{low}-{high}}}"
    return f"{{{listed([str(number) for number in sorted(numbers)], 4)}}}".replace(" ", "")


def _action(tensor: TensorPlan) -> str:
    return str(tensor.work if tensor.rows is None else tensor.rows.counts)


def _values(values: Sequence[Any]) -> str:
    """A value of several tensors: its range, or that of each model's where each has its own."""
    first = values[0]
    if isinstance(first, Mapping):
        return ", ".join(_range([value[label] for value in values]) for label in first)
    return _range(values)


def _range(values: Sequence[float | None]) -> str:
    """From the least to the largest; a dash where no entry of the schedule has one."""
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low}-{high}"


def _type(tensor: TensorPlan) -> str:
    before = dict.fromkeys(source.dtype.name for source in tensor.sources.values())
    after = tensor.out.dtype.name
    return after if list(before) in ([], [after]) else f"{', '.join(before)} -> {after}"
