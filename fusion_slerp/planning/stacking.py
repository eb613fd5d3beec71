"""Slices: the models restricted to the layers of given ranges, and the values of options by tensor."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from reprlib import repr as shortened
from typing import Any

from fusion_slerp.errors import SHOWN_NAME, MismatchError, Problem, printable, setting
from fusion_slerp.planning.config_paths import Path
from fusion_slerp.planning.layer_values import Layers
from fusion_slerp.planning.sliced_config import Unfit, sliced_config
from fusion_slerp.planning.stacks import n_mtp_layers, other_count, stacks_of, stacks_of_view
from fusion_slerp.planning.unlike_layers import other_tensors
from fusion_slerp.planning.view import View, whole
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.settings.schedule import PerModel, ScheduleOf
from fusion_slerp.settings.slices import LayerPosition, Range, Slice, positions
from fusion_slerp.sources.folder import CONFIG, Checkpoint
from fusion_slerp.sources.header import TensorEntry
from fusion_slerp.tensor_names import depths, layer_of, renamed
from fusion_slerp.tensor_names.vocabulary import is_before_layers


def views_of(
    parents: Mapping[str, Checkpoint], slices: Sequence[Slice] | None, overridden: Container[Path] = ()
) -> tuple[dict[str, View], list[Problem]]:
    """Returns the models restricted to the layers that are merged, and problems with layers and slices.

    Args:
        parents: The models by label.
        slices: The slices, if not all layers are merged in their order.
        overridden: Paths in the config whose values the merged model gets from a setting.
    """
    views = {label: whole(label, parent) for label, parent in parents.items()}
    stacks = {label: stacks_of_view(view) for label, view in views.items()}
    problems = [each for label, view in views.items() for each in other_count(view, stacks[label])]
    if slices is None or problems:
        return views, problems
    problems = [_not_one_stack(views[label], len(each)) for label, each in stacks.items() if len(each) != 1]
    if problems:
        return views, problems
    n_more = {label: n_mtp_layers(views[label], *each.items()) for label, each in stacks.items()}
    n_layers = {label: max(each.values()) - n_more[label] for label, each in stacks.items()}
    problems = [_missing_layers(view) for label, view in views.items() if n_layers[label] > len(view.tensors)]
    problems = problems or [*_labels_differ(slices, n_layers), *_out_of_range(slices, views, n_layers)]
    if problems:
        return views, problems
    sliced = {}
    for label, view in views.items():
        order = _order([part.ranges[label] for part in slices])
        layers = Layers(order, n_layers[label], n_more[label])
        sliced[label], unfit = _sliced(view, next(iter(stacks[label])), layers, overridden)
        problems += [_unfit(view, each, layers) for each in unfit]
        problems += [*other_tensors(view, next(iter(stacks[label])), layers)]
    return sliced, problems


def _order(ranges: Sequence[Range]) -> tuple[int, ...]:
    return tuple(layer for start, end in ranges for layer in range(start, end))


def _not_one_stack(view: View, n_stacks: int) -> Problem:
    fields = (("model", view.source), ("found", f"{n_stacks} stacks of layers"), ("needed", "one stack"))
    return Problem(MismatchError, "the slices do not fit the model", fields, "leave out slices")


def _missing_layers(view: View) -> Problem:
    fields = (("model", view.source), ("found", "more layers by their numbers than tensors"))
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


def _sliced(view: View, stack: str, layers: Layers, overridden: Container[Path]) -> tuple[View, list[Unfit]]:
    config, unfit = sliced_config(view.config, layers, overridden)
    tensors = dict(_renumbered(view.checkpoint.tensors, stack, layers))
    return View(view.label, view.checkpoint, tensors, config), unfit


def _renumbered(
    tensors: Mapping[str, TensorEntry], stack: str, layers: Layers
) -> Iterator[tuple[str, TensorEntry]]:
    """Yields every tensor under each of its names in the merged model."""
    new: dict[int, list[int]] = {}
    for i, layer in enumerate(layers.order):
        new.setdefault(layer, []).append(i)
    for i in range(layers.n_more):
        new[layers.n + i] = [len(layers.order) + i]
    for name, entry in tensors.items():
        layer = layer_of(name)
        if layer is None or layer[0] != stack:
            yield name, entry
            continue
        for i in new.get(layer[1], []):
            yield renamed(name, i), entry


def _unfit(view: View, each: Unfit, layers: Layers) -> Problem:
    """The problem with a key that cannot say of the merged model's layers what it says of the model's."""
    name = ".".join(each.path)
    value = "its default" if each.value is None else printable(repr(each.value), SHOWN_NAME)
    fields = (
        ("model", view.source),
        ("key", f"{printable(name, SHOWN_NAME)}: {value} in {view.folder / CONFIG}"),
        ("found", f"layers {shortened(list(layers.order))} of {layers.n}"),
        ("needed", "slices that leave each layer the kind that this key gives it"),
    )
    fix = "leave out slices, or move their ends; if you know the value that fits the merged model's layers, "
    fix += f"give it in config_overrides, under the key {printable(name, SHOWN_NAME)}"
    return Problem(MismatchError, f"{printable(name, SHOWN_NAME)} cannot follow the slices", fields, fix)


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
    names = list(names)
    of_layer = positions(slices)
    stacks = stacks_of(names, len(of_layer))
    outside = LayerPosition(slices[0], 0.0), LayerPosition(slices[-1], 0.0)
    by_name = {}
    for name in names:
        layer = layer_of(name)
        if layer is None or layer[0] not in stacks:
            by_name[name] = outside[layer is None and not is_before_layers(name)]
        else:  # layers for multi-token prediction come after the last
            by_name[name] = of_layer[min(layer[1], len(of_layer) - 1)]
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
