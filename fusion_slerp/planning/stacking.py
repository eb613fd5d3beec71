"""Slices: the models restricted to the layers of given ranges; by tensor, the models it is made from, and the
values of options.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from fusion_slerp.errors import Problem
from fusion_slerp.methods import Method
from fusion_slerp.planning.config_paths import Path
from fusion_slerp.planning.stacks import is_of_other_part, other_count, stacks_of, stacks_of_view
from fusion_slerp.planning.view import View, whole
from fusion_slerp.settings.labels import BASE
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.settings.schedule import PerModel, ScheduleOf
from fusion_slerp.settings.slices import LayerPosition, Slice, are_alike, positions
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.tensor_names import depths, layer_of
from fusion_slerp.tensor_names.vocabulary import is_before_layers
from fusion_slerp.vocabulary.rows import Owners


def views_of(
    parents: Mapping[str, Checkpoint],
    slices: Sequence[Slice] | None,
    method: Method,
    overridden: Container[Path] = (),
) -> tuple[dict[str, View], list[Problem]]:
    """Returns the models restricted to the layers that are merged, and problems with layers and slices.

    Where a slice does not name a model, the model has another of its layers there, of the same kind. So all
    models have the merged model's tensors and can be compared; `makers_by_name` says which are used.

    Args:
        parents: The models by label.
        slices: The slices, if not all layers are merged in their order.
        method: Says how many models a slice may name.
        overridden: Paths in the config whose values the merged model gets from a setting.
    """
    views = {label: whole(label, parent) for label, parent in parents.items()}
    stacks = {label: stacks_of_view(view) for label, view in views.items()}
    problems = [each for label, view in views.items() for each in other_count(view, stacks[label])]
    if slices is None or problems:
        return views, problems
    from fusion_slerp.planning.slicing import sliced_views  # rarely needed, and slow to import

    return sliced_views(views, stacks, slices, method, overridden)


def makers_by_name(
    names: Iterable[str], slices: Sequence[Slice] | None, labels: Sequence[str]
) -> dict[str, Owners]:
    """Returns the labels of the models that each tensor of the merged model is made from.

    Args:
        names: The tensors' names.
        slices: The slices, if there are any.
        labels: Those of all models, in their order.

    Returns:
        Only tensors that are not made from all models.
    """
    if slices is None or are_alike(slices):
        return {}
    makers: dict[str, Owners] = {}
    for name, position in _in_slices(names, slices).items():
        assert position.slice is not None, name
        own = tuple(label for label in labels if label in position.slice.ranges)
        if len(own) < len(labels):
            makers[name] = own
    return makers


def ends_differ(slices: Sequence[Slice] | None) -> bool:
    """Whether the embedding is made from other models than the head."""
    return slices is not None and slices[0].ranges.keys() != slices[-1].ranges.keys()


_PREDICTION = "mtp"
"""The module for multi-token prediction, which reads the last layer, in models that do not number it with
their layers (Qwen3-Next).
"""

Values = dict[str, Any]
"""One tensor's value of each option of the method, by label if each model has its own; None if no entry
matches.
"""


def values_by_name(names: Iterable[str], settings: MergeSettings, labels: Sequence[str]) -> dict[str, Values]:
    """Returns the values of the method's options with a schedule, for every tensor of the merged model.

    A gradient runs over the layers of the model, or of each slice. Outside the layers its first value
    applies; embeddings belong to the first slice, and tensors after the layers to the last. A model has a
    value where a slice names it; the base has none.
    """
    names, schedules = list(names), settings.schedules
    labels = [label for label in labels if label != BASE]
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
    alike = are_alike(slices)
    last = of_layer[-1] if alike and of_layer else LayerPosition(slices[-1], 1.0)
    by_name = {}
    for name in names:
        layer = layer_of(name)
        if layer is None or layer[0] not in stacks:
            is_last = layer is None and not is_before_layers(name)
            by_name[name] = outside[is_last if alike else _is_at_the_end(name, is_last)]
        else:  # layers for multi-token prediction come after the last
            by_name[name] = of_layer[layer[1]] if layer[1] < len(of_layer) else last
    return by_name


def _is_at_the_end(name: str, is_last: bool) -> bool:
    """Whether a tensor outside the layers is made from the last slice's models, not the first's.

    Parts for pictures or sound stay together, next to the embedding.
    """
    return _PREDICTION in name.split(".") or (is_last and not is_of_other_part(name))


def _value(
    schedule: ScheduleOf, option: str, name: str, position: LayerPosition, labels: Sequence[str]
) -> Any:
    own = position.slice.schedules.get(option) if position.slice else None
    if isinstance(schedule, PerModel):
        levels = [each for each in (own, schedule) if isinstance(each, PerModel)]
        used = labels if position.slice is None else [n for n in labels if n in position.slice.ranges]
        return {label: _first(levels, label, name, position.depth) for label in used}
    value = own.at(name, position.depth) if own is not None and not isinstance(own, PerModel) else None
    return schedule.at(name, position.depth) if value is None else value


def _first(levels: Sequence[PerModel], label: str, name: str, depth: float) -> float | None:
    for level in levels:
        schedule = level.of(label)
        value = None if schedule is None else schedule.at(name, depth)
        if value is not None:
            return value
    return None
