"""Slices: the merged model's layers, stacked from ranges of the source models' layers.

    slices:
      - {a: [0, 16], b: [0, 16]}
      - {a: [8, 24], b: [8, 24], t: 0.3}

Ranges are half-open and count from 0. The merged model's layers are numbered consecutively. Each slice names
as many models as the method merges; they may differ from slice to slice. The tensors before the layers (the
embedding) are made from the models of the first slice, those after them (the last norm, the head) from the
models of the last slice, which may be empty: `{a: [24, 24]}`. A slice may have its own value for every option
of the method that varies over depth, such as t. Source: `slices` of mergekit 0.1.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field
from typing import Any, NamedTuple

from fusion_slerp.errors import Problem, SettingsError, nearest, setting
from fusion_slerp.methods import Method
from fusion_slerp.options import declaration, declared
from fusion_slerp.settings.labels import BASE, is_label
from fusion_slerp.settings.schedule import ScheduleOf, read_schedule
from fusion_slerp.tensor_names import depth_of

EXAMPLE = [{"a": [0, 2], "b": [0, 2]}]
"""Of a method that merges two models."""

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Slice:
    """Some of the merged model's layers.

    Attributes:
        ranges: The first layer and one past the last, by label; equally many layers of each model.
        schedules: The slice's own schedules, by option of the method. Their gradients, like those of the
            whole model's, run from the slice's first layer to its last.
    """

    ranges: Mapping[str, Range]
    schedules: Mapping[str, ScheduleOf] = field(default_factory=dict)

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        first, end = next(iter(self.ranges.values()))
        return end - first


class LayerPosition(NamedTuple):
    """The position of one of the merged model's layers.

    Attributes:
        slice: The slice it belongs to; None without slices.
        depth: 0 in the first layer of the slice, or of the model; 1 in its last.
    """

    slice: Slice | None
    depth: float


def are_alike(slices: Sequence[Slice]) -> bool:
    """Whether all slices name the same models."""
    return all(each.ranges.keys() == slices[0].ranges.keys() for each in slices)


def example(method: Method, n_layers: Mapping[str, int]) -> list[dict[str, list[int]]]:
    """Returns slices that a method takes: one of all models, or one for each few of them.

    Args:
        method: The method.
        n_layers: The models' numbers of layers, by label; the base's among them if the method gets one.
    """
    models = [label for label in n_layers if label != BASE]
    base = [label for label in n_layers if label == BASE]
    if method.takes(len(models)) or len(models) < method.n_models[0]:
        n = min(n_layers.values())
        return [{label: [0, n] for label in n_layers}]
    n_common = (method.n_models[1] or 1) - 1
    slices = []
    for label in models[n_common:]:
        group = [*models[:n_common], label, *base]
        n = min(n_layers[each] for each in group)
        part = [n // 4, n] if slices else [0, max(1, 3 * n // 4)]
        slices.append(dict.fromkeys(group, part))
    return slices


def parse_slices(value: object, method: Method) -> tuple[Slice, ...]:
    """Returns the slices that a setting describes.

    Args:
        value: The setting.
        method: A slice may set its options with a schedule.

    Raises:
        SettingsError: It does not have the form above.
    """
    if not isinstance(value, (list, tuple)) or not value:
        raise _wrong(method, "slices", f"{value!r} ({type(value).__name__})", "a list of slices")
    own = {name: each for name, each in declared(method.options).items() if declaration(each).is_schedule}
    return tuple(_slice(each, f"slices[{i}]", own, method) for i, each in enumerate(value))


def _slice(given: object, name: str, own: Mapping[str, Field[Any]], method: Method) -> Slice:
    needed = ", ".join(["a", "b", "...", *own])
    if not isinstance(given, Mapping):
        raise _wrong(method, name, f"{given!r} ({type(given).__name__})", f"a mapping with {needed}")
    unknown = [str(key) for key in given if key not in own and not is_label(key)]
    if unknown:
        raise _wrong(method, name, f"the key {unknown[0]!r}{nearest(unknown[0], ('a', 'b', *own))}", needed)
    ranges = {key: _range(each, f"{name}.{key}", method) for key, each in given.items() if key not in own}
    if not ranges:
        raise _wrong(method, name, f"{given!r}", f"a mapping with {needed}")
    counts = {label: end - first for label, (first, end) in ranges.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(
            f"{n}{' layers' * (i == 0)} of {label}" for i, (label, n) in enumerate(counts.items())
        )
        raise _wrong(method, name, found, "equally many layers of each")
    schedules = {
        key: read_schedule(given[key], f"{name}.{key}", own[key], is_whole=False)
        for key in own
        if given.get(key) is not None
    }
    return Slice(ranges, schedules)


def _range(value: Any, name: str, method: Method) -> Range:
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(type(i) is int for i in value)
    if is_pair and 0 <= value[0] <= value[1]:
        return value[0], value[1]
    raise _wrong(method, name, f"{value!r} ({type(value).__name__})", "[first layer, one past the last]")


def _wrong(method: Method, name: str, found: str, needed: str) -> Exception:
    fields = (("found", found), ("needed", needed))
    ranges = setting("slices", example(method, {"a": 2, "b": 2}))
    fix = f"use ranges such as {ranges}, up to the models' number of layers"
    return Problem(SettingsError, f"invalid {name}", fields, fix).error()


def positions(slices: Sequence[Slice]) -> list[LayerPosition]:
    """Returns the position of each layer of the merged model."""
    return [
        LayerPosition(part, depth_of(index, part.n_layers))
        for part in slices
        for index in range(part.n_layers)
    ]
