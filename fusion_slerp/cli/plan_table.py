"""A plan as tables: one line for tensors that are treated alike, then bytes, memory, disk and time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from fusion_slerp.cli import heat_map
from fusion_slerp.cli.amounts import nbytes_text, path_text
from fusion_slerp.cli.forecast import Forecast
from fusion_slerp.cli.tables import longest_word, ruled
from fusion_slerp.errors import listed
from fusion_slerp.settings.labels import BASE
from fusion_slerp.settings.schedule import PerModel
from fusion_slerp.tensor_names import layer_of, module_of

if TYPE_CHECKING:
    from rich.console import Console

    from fusion_slerp.planning.plan import MergePlan, TensorPlan

_NUMBER = re.compile(r"(?:^|(?<=[.\[]))\d+(?=[.\]])")
"""Of a layer, or of an expert: `layers.3.`, `experts.7.`, `gate_up_proj[7]`."""


def tables(shown: Forecast, screen: Console, every: bool = False) -> list[Table | Text]:
    """Returns the tables of a forecast, and the map of the first schedule that varies between layers.

    Args:
        shown: The forecast.
        screen: The console that they are for.
        every: Give each tensor its own line, instead of one for all that are treated alike.
    """
    varying = varying_schedule(shown.plan)
    mapped: list[Table | Text] = []
    if varying is not None:
        name, values = varying
        mapped = [Text(f"\n{name} by layer\n"), *heat_map.parts(heat_map.HeatMap(values, ".4g"), screen)]
    return [Text(), tensor_table(shown.plan, every), *mapped, Text(), summary(shown)]


def varying_schedule(plan: MergePlan) -> tuple[str, dict[str, heat_map.ByLayer]] | None:
    """Returns the first schedule whose values differ between layers or modules; None if there is none.

    Returns:
        Its name; and by model (`""` if all share one) the values by layer and module, means weighted by
        elements. Tensors outside the layers and those without a value are left out.
    """
    for name in plan.settings.schedules:
        values = _by_layer(plan, name)
        if any(_varies(layers) for layers in values.values()):
            return name, values
    return None


def _varies(layers: heat_map.ByLayer) -> bool:
    return len({value for cells in layers.values() for value in cells.values()}) > 1


def _by_layer(plan: MergePlan, name: str) -> dict[str, heat_map.ByLayer]:
    """A schedule's values by model, layer and module."""
    sums: dict[str, dict[int, dict[str, tuple[float, int]]]] = {}
    for tensor in plan.tensors:
        layer, value = layer_of(tensor.out.name), tensor.values.get(name)
        by_model = value if isinstance(value, Mapping) else {"": value}
        for label, own in by_model.items():
            if layer is None or own is None:
                continue
            cells, module = sums.setdefault(label, {}).setdefault(layer[1], {}), module_of(tensor.out.name)
            total, n = cells.get(module, (0.0, 0))
            cells[module] = total + own * tensor.out.n_elements, n + tensor.out.n_elements
    return {
        label: {
            layer: {module: round(total / n, 12) for module, (total, n) in cells.items() if n}
            for layer, cells in layers.items()
        }
        for label, layers in sums.items()
    }


def tensor_table(plan: MergePlan, every: bool = False) -> Table:
    """Returns each tensor's action, the values of the method's schedules, shape, type and size."""
    tensors, schedules = plan.tensors, plan.settings.schedules
    models = [label for label in plan.parents if label != BASE]
    table = ruled()
    table.add_column("tensor", no_wrap=True)
    table.add_column("action", no_wrap=True)
    for name, schedule in schedules.items():
        labels = ", ".join(models) if isinstance(schedule, PerModel) else ""
        table.add_column(f"{name}\nof {labels}" if labels else name, justify="right", no_wrap=True)
    table.add_column("shape", justify="right", no_wrap=True)
    table.add_column("type", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    for group in [[tensor] for tensor in tensors] if every else _groups(tensors):
        first = group[0]
        cells = [_name(group), _action(first)]
        cells += [_values([tensor.values.get(name) for tensor in group], models) for name in schedules]
        shape = "×".join(map(str, first.out.shape)) or "scalar"
        size = nbytes_text(sum(tensor.out.nbytes for tensor in group))
        table.add_row(*map(Text, (*cells, shape, _type(first), size)))
    return table


def summary(shown: Forecast) -> Table:
    """Returns what the merge will need: bytes, memory, disk space and time."""
    plan = shown.plan
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    n_files = len(plan.shards)
    written = f"{nbytes_text(shown.nbytes_written)}, {n_files} file{'s' * (n_files > 1)} of weights"
    lines = {
        "reads": _reads(shown),
        "writes": written,
        "memory": f"peak about {nbytes_text(plan.peak_nbytes)}",
        "disk": _disk(shown),
        "time": shown.time_text,
        "tokenizer": _tokenizer(shown),
    }
    table.add_column(min_width=longest_word(value for value in lines.values() if value is not None))
    for name, value in lines.items():
        if value is not None:
            table.add_row(name, Text(value))
    return table


def _reads(shown: Forecast) -> str:
    least, most = map(nbytes_text, shown.nbytes_read)
    return least if least == most else f"{least} to {most}, as the values require"


def _disk(shown: Forecast) -> str | None:
    if shown.out is None or shown.free_nbytes is None:
        return None
    return f"{nbytes_text(shown.free_nbytes)} free for {path_text(shown.out)}"


def _tokenizer(shown: Forecast) -> str:
    tokenizer = shown.plan.tokenizer
    united = ", with tokens added" if tokenizer.written else ""
    if tokenizer.rows is None:
        return f"files of {tokenizer.folder}"
    return f"{len(tokenizer.rows)} tokens, from {tokenizer.folder}{united}"


def _groups(tensors: Sequence[TensorPlan]) -> list[list[TensorPlan]]:
    groups: dict[object, list[TensorPlan]] = {}
    for tensor in tensors:
        models = [tuple(value) for value in tensor.values.values() if isinstance(value, Mapping)]
        key = (_pattern(tensor.out.name), _action(tensor), tensor.out.shape, _type(tensor), *models)
        groups.setdefault(key, []).append(tensor)
    return list(groups.values())


def _pattern(name: str) -> str:
    """The name with a star for every number."""
    return _NUMBER.sub("*", name)


def _name(group: Sequence[TensorPlan]) -> str:
    """One name for all, such as `model.layers.{0-4}.mlp.up_proj.weight`."""
    numbers = [_NUMBER.findall(tensor.out.name) for tensor in group]
    runs = iter([_run({int(number) for number in column}) for column in zip(*numbers, strict=True)])
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


def _values(values: Sequence[Any], models: Sequence[str]) -> str:
    """The range of a value over several tensors, or of each model's value if each has its own."""
    if isinstance(values[0], Mapping):
        return ", ".join(_range([value.get(label) for value in values]) for label in models)
    return _range(values)


def _range(values: Sequence[float | None]) -> str:
    """The range of the values; a dash if no entry of the schedule matches, or the model is not used."""
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low}-{high}"


def _type(tensor: TensorPlan) -> str:
    before = dict.fromkeys(source.dtype.name for source in tensor.sources.values())
    after = tensor.out.dtype.name
    return after if list(before) in ([], [after]) else f"{', '.join(before)} -> {after}"
