"""Slices: the models restricted to the layers of given ranges, and the values of options by tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fusion_slerp.errors import MismatchError, Problem, setting
from fusion_slerp.planning.view import View, whole
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.settings.schedule import PerModel, ScheduleOf
from fusion_slerp.settings.slices import LayerPosition, Range, Slice, positions
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.header import TensorEntry
from fusion_slerp.tensor_names import depths, is_before_layers, layer_of, renamed

LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""Names of the number of layers in configs."""


def views_of(
    parents: Mapping[str, Checkpoint], slices: Sequence[Slice] | None
) -> tuple[dict[str, View], list[Problem]]:
    """Returns the models restricted to the layers that are merged, and problems with the slices."""
    views = {label: whole(label, parent) for label, parent in parents.items()}
    if slices is None:
        return views, []
    stacks = {label: _stacks(view.tensors) for label, view in views.items()}
    problems = [_not_one_stack(views[label], len(each)) for label, each in stacks.items() if len(each) != 1]
    if problems:
        return views, problems
    n_layers = {label: max(each.values()) for label, each in stacks.items()}
    problems = [*_labels_differ(slices, n_layers), *_out_of_range(slices, views, n_layers)]
    if problems:
        return views, problems
    return {
        label: _sliced(view, [part.ranges[label] for part in slices]) for label, view in views.items()
    }, []


def _stacks(names: Iterable[str]) -> dict[str, int]:
    """The number of layers of each stack, by the beginning of its tensors' names."""
    stacks: dict[str, int] = {}
    for layer in filter(None, map(layer_of, names)):
        stacks[layer[0]] = max(stacks.get(layer[0], 0), layer[1] + 1)
    return stacks


def _not_one_stack(view: View, n_stacks: int) -> Problem:
    fields = (("model", view.source), ("found", f"{n_stacks} stacks of layers"), ("needed", "one stack"))
    return Problem(MismatchError, "the slices do not fit the model", fields, "leave out slices")


def _labels_differ(slices: Sequence[Slice], n_layers: Mapping[str, int]) -> Iterator[Problem]:
    for i, part in enumerate(slices):
        if part.ranges.keys() != n_layers.keys():
            needed = f"a range of every model: {', '.join(n_layers)}"
            fields = (("found", ", ".join(part.ranges)), ("needed", needed))
            headline = f"slices[{i}] does not fit the models"
            yield Problem(MismatchError, headline, fields, _all_layers(n_layers))


def _out_of_range(
    slices: Sequence[Slice], views: Mapping[str, View], n_layers: Mapping[str, int]
) -> Iterator[Problem]:
    for label, n in n_layers.items():
        ranges = [part.ranges[label] for part in slices if label in part.ranges]
        longest = max(ranges, key=lambda each: each[1], default=(0, 0))
        if longest[1] > n:
            needed = f"at most {n}: the model has layers 0 to {n - 1}"
            fields = (
                ("model", views[label].source),
                ("found", f"{label}: {list(longest)}"),
                ("needed", needed),
            )
            yield Problem(MismatchError, "the slices do not fit the model", fields, _all_layers(n_layers))


def _all_layers(n_layers: Mapping[str, int]) -> str:
    """A fix: one slice of as many layers as all models have."""
    example = [{label: [0, min(n_layers.values())] for label in n_layers}]
    return f"use layers that every model has, such as {setting('slices', example)}"


def _sliced(view: View, ranges: Sequence[Range]) -> View:
    config = {**view.config, **config_changes(view.config, ranges)}
    return View(view.label, view.checkpoint, dict(_renumbered(view.checkpoint.tensors, ranges)), config)


def _renumbered(
    tensors: Mapping[str, TensorEntry], ranges: Sequence[Range]
) -> Iterator[tuple[str, TensorEntry]]:
    """Yields every tensor under each of its names in the merged model."""
    order = [layer for start, end in ranges for layer in range(start, end)]
    new: dict[int, list[int]] = {}
    for i, layer in enumerate(order):
        new.setdefault(layer, []).append(i)
    for name, entry in tensors.items():
        layer = layer_of(name)
        if layer is None:
            yield name, entry
            continue
        for i in new.get(layer[1], []):
            yield renamed(name, i), entry


def config_changes(config: Mapping[str, Any], ranges: Sequence[Range]) -> dict[str, Any]:
    """Returns the config keys that change if a model is restricted to the layers of given ranges."""
    order = [layer for start, end in ranges for layer in range(start, end)]
    changes: dict[str, Any] = {key: len(order) for key in LAYER_COUNTS if key in config}
    types = config.get("layer_types")
    if isinstance(types, list) and order and max(order) < len(types):
        changes["layer_types"] = [types[layer] for layer in order]
    return changes


Values = dict[str, Any]
"""One tensor's value of each option of the method, by label if each model has its own; None if no entry
matches.
"""


def values_by_name(names: Iterable[str], settings: MergeSettings, labels: Sequence[str]) -> dict[str, Values]:
    """Returns the values of the method's options with a schedule, for every tensor of the merged model.

    A gradient runs over the layers of the model, or of each slice. Outside the layers its first value
    applies; embeddings belong to the first slice, and tensors after the layers to the last.
    """
    names, schedules = list(names), settings.schedules
    if settings.layer_slices is None:
        by_name = {name: LayerPosition(None, depth) for name, depth in depths(names).items()}
    else:
        by_name = _in_slices(names, settings.layer_slices)
    known: dict[Any, Values] = {}
    values = {}
    is_plain = all(_is_one_number(schedule) for schedule in schedules.values())
    for name in names:
        position = by_name[name]
        key = id(position.slice) if is_plain and position.slice is None else name
        if key not in known:
            known[key] = {
                option: _value(schedule, option, name, position, labels)
                for option, schedule in schedules.items()
            }
        values[name] = known[key]
    return values


def _is_one_number(schedule: ScheduleOf) -> bool:
    if isinstance(schedule, PerModel):
        others = [schedule.default] if schedule.default else []
        return all(each.number is not None for each in (*schedule.by_label.values(), *others))
    return schedule.number is not None


def _in_slices(names: Iterable[str], slices: Sequence[Slice]) -> dict[str, LayerPosition]:
    of_layer = positions(slices)
    outside = LayerPosition(slices[0], 0.0), LayerPosition(slices[-1], 0.0)
    by_name = {}
    for name in names:
        layer = layer_of(name)
        by_name[name] = outside[not is_before_layers(name)] if layer is None else of_layer[layer[1]]
    return by_name


def _value(
    schedule: ScheduleOf, option: str, name: str, position: LayerPosition, labels: Sequence[str]
) -> Any:
    own = position.slice.schedules.get(option) if position.slice else None
    if isinstance(schedule, PerModel):
        levels = [each for each in (own, schedule) if isinstance(each, PerModel)]
        return {label: _first(levels, label, name, position.depth) for label in labels}
    value = own.at(name, position.depth) if own is not None and not isinstance(own, PerModel) else None
    return schedule.at(name, position.depth) if value is None else value


def _first(levels: Sequence[PerModel], label: str, name: str, depth: float) -> float | None:
    for level in levels:
        schedule = level.of(label)
        value = None if schedule is None else schedule.at(name, depth)
        if value is not None:
            return value
    return None
