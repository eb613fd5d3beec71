"""Slices: the models as if they had the layers of some ranges alone, and the values of options by tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fusion_slerp.errors import MismatchError, Problem
from fusion_slerp.planning.view import View, whole
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.settings.schedule import PerModel, ScheduleOf
from fusion_slerp.settings.slices import EXAMPLE, LayerPosition, Range, Slice, positions
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.header import TensorEntry
from fusion_slerp.tensor_names import depths, is_before_layers, layer_of, renamed

LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""What configs call the number of layers."""


def views_of(
    parents: Mapping[str, Checkpoint], slices: Sequence[Slice] | None
) -> tuple[dict[str, View], list[Problem]]:
    """Returns the models with the layers that the merged model is made from, and what is wrong with the
    slices.
    """
    views = {label: whole(label, parent) for label, parent in parents.items()}
    if slices is None:
        return views, []
    problems = [problem for i, part in enumerate(slices) for problem in _labels_differ(i, part, parents)]
    if problems:
        return views, problems
    found = {label: _sliced(view, [part.ranges[label] for part in slices]) for label, view in views.items()}
    problems = [problem for _, problem in found.values() if problem is not None]
    return {label: view for label, (view, _) in found.items()}, problems


def _labels_differ(i: int, part: Slice, parents: Mapping[str, Checkpoint]) -> list[Problem]:
    if part.ranges.keys() == parents.keys():
        return []
    fields = (("found", ", ".join(part.ranges)), ("needed", f"a range of every model: {', '.join(parents)}"))
    return [Problem(MismatchError, f"slices[{i}] does not fit the models", fields, f"set slices: {EXAMPLE}")]


def _sliced(view: View, ranges: Sequence[Range]) -> tuple[View, Problem | None]:
    tensors = view.checkpoint.tensors
    layers = [layer for name in tensors if (layer := layer_of(name))]
    stacks, n_layers = {layer[0] for layer in layers}, 1 + max((layer[1] for layer in layers), default=-1)
    if len(stacks) != 1:
        return view, _problem(view, f"{len(stacks)} stacks of layers", "one stack")
    if any(end > n_layers for _, end in ranges):
        found = f"{view.label}: {list(max(ranges, key=lambda each: each[1]))}"
        return view, _problem(view, found, f"layers below {n_layers}, as many as the model has")
    config = {**view.config, **config_changes(view.config, ranges)}
    return View(view.label, view.checkpoint, dict(_renumbered(tensors, ranges)), config), None


def _renumbered(
    tensors: Mapping[str, TensorEntry], ranges: Sequence[Range]
) -> Iterator[tuple[str, TensorEntry]]:
    """Every tensor under the name or names that it has in the merged model."""
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
    """Returns what the config of a model says otherwise if it has the layers of some ranges alone."""
    order = [layer for start, end in ranges for layer in range(start, end)]
    changes: dict[str, Any] = {key: len(order) for key in LAYER_COUNTS if key in config}
    types = config.get("layer_types")
    if isinstance(types, list) and order and max(order) < len(types):
        changes["layer_types"] = [types[layer] for layer in order]
    return changes


def _problem(view: View, found: str, needed: str) -> Problem:
    fields = (("model", view.source), ("found", found), ("needed", needed))
    return Problem(MismatchError, "the slices do not fit the model", fields, f"set slices: {EXAMPLE}")


Values = dict[str, Any]
"""By option of the method: its value for one tensor; of an option per model, by label. None: no entry
matches.
"""


def values_by_name(names: Iterable[str], settings: MergeSettings, labels: Sequence[str]) -> dict[str, Values]:
    """Returns the values of the method's options with a schedule, for every tensor of the merged model.

    A gradient runs over the layers of the model, or of each slice. Outside the layers its first value
    counts; embeddings belong to the first slice, and what comes after the layers to the last.
    """
    names, schedules = list(names), settings.schedules
    if settings.layer_slices is None:
        where = {name: LayerPosition(None, depth) for name, depth in depths(names).items()}
    else:
        where = _in_slices(names, settings.layer_slices)
    known: dict[Any, Values] = {}
    found = {}
    is_plain = all(_is_one_number(schedule) for schedule in schedules.values())
    for name in names:
        position = where[name]
        key = id(position.slice) if is_plain and position.slice is None else name
        if key not in known:
            known[key] = {
                option: _value(schedule, option, name, position, labels)
                for option, schedule in schedules.items()
            }
        found[name] = known[key]
    return found


def _is_one_number(schedule: ScheduleOf) -> bool:
    if isinstance(schedule, PerModel):
        others = [schedule.default] if schedule.default else []
        return all(each.number is not None for each in (*schedule.by_label.values(), *others))
    return schedule.number is not None


def _in_slices(names: Iterable[str], slices: Sequence[Slice]) -> dict[str, LayerPosition]:
    of_layer = positions(slices)
    outside = LayerPosition(slices[0], 0.0), LayerPosition(slices[-1], 0.0)
    found = {}
    for name in names:
        layer = layer_of(name)
        found[name] = outside[not is_before_layers(name)] if layer is None else of_layer[layer[1]]
    return found


def _value(
    schedule: ScheduleOf, option: str, name: str, position: LayerPosition, labels: Sequence[str]
) -> Any:
    own = position.slice.schedules.get(option) if position.slice else None
    if isinstance(schedule, PerModel):
        levels = [each for each in (own, schedule) if isinstance(each, PerModel)]
        return {label: _first(levels, label, name, position.depth) for label in labels}
    found = own.at(name, position.depth) if own is not None and not isinstance(own, PerModel) else None
    return schedule.at(name, position.depth) if found is None else found


def _first(levels: Sequence[PerModel], label: str, name: str, depth: float) -> float | None:
    for level in levels:
        schedule = level.of(label)
        value = None if schedule is None else schedule.at(name, depth)
        if value is not None:
            return value
    return None
