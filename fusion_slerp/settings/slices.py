"""Slices: the child's layers, stacked from ranges of the parents' layers.

    slices:
      - {a: [0, 16], b: [0, 16]}
      - {a: [8, 24], b: [8, 24], t: 0.3}

Ranges are half-open and count from 0. The child's layers are numbered through; what lies outside the
layers comes along unchanged. Source: `slices` of mergekit 0.1.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fusion_slerp.errors import Problem, SettingsError, nearest
from fusion_slerp.settings.schedule import Schedule, parse_schedule
from fusion_slerp.tensor_names import depth_of

EXAMPLE = "[{a: [0, 16], b: [0, 16]}]"

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Slice:
    """Some of the child's layers.

    Attributes:
        a: First layer of parent a, and the one behind the last.
        b: As many of parent b.
        schedule: t in these layers; None leaves it to the schedule of the whole model. Its gradients,
            like those of the whole model's, run from the first to the last layer of the slice.
    """

    a: Range
    b: Range
    schedule: Schedule | None = None

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return self.a[1] - self.a[0]


@dataclass(frozen=True, slots=True)
class LayerPlace:
    """Where a layer of the child lies.

    Attributes:
        slice: The slice it belongs to.
        depth: 0 in the slice's first layer, 1 in its last.
    """

    slice: Slice
    depth: float


def parse_slices(value: object) -> tuple[Slice, ...]:
    """Returns the slices that a setting describes.

    Raises:
        SettingsError: It is not of the form above.
    """
    if not isinstance(value, (list, tuple)) or not value:
        raise _wrong("slices", f"{value!r} ({type(value).__name__})", "a list of slices")
    return tuple(_slice(each, f"slices[{i}]") for i, each in enumerate(value))


def _slice(given: object, name: str) -> Slice:
    if not isinstance(given, Mapping):
        raise _wrong(name, f"{given!r} ({type(given).__name__})", "a mapping with a, b, and perhaps t")
    unknown = [str(key) for key in given if key not in ("a", "b", "t")]
    if unknown:
        raise _wrong(name, f"the key {unknown[0]!r}{nearest(unknown[0], ('a', 'b', 't'))}", "a, b, t")
    a, b = (_range(given.get(key), f"{name}.{key}") for key in ("a", "b"))
    if a[1] - a[0] != b[1] - b[0]:
        found = f"{a[1] - a[0]} layers of a, {b[1] - b[0]} of b"
        raise _wrong(name, found, "as many layers of both")
    schedule = parse_schedule(given["t"], f"{name}.t") if given.get("t") is not None else None
    return Slice(a, b, schedule)


def _range(value: Any, name: str) -> Range:
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(type(i) is int for i in value)
    if is_pair and 0 <= value[0] <= value[1]:
        return value[0], value[1]
    raise _wrong(name, f"{value!r} ({type(value).__name__})", "[first layer, layer behind the last]")


def _wrong(name: str, found: str, needed: str) -> Exception:
    fields = (("found", found), ("needed", needed))
    return Problem(SettingsError, f"{name} is not usable", fields, f"set slices: {EXAMPLE}").error()


def places(slices: Sequence[Slice]) -> list[LayerPlace]:
    """Returns the place of each layer of the child."""
    return [
        LayerPlace(part, depth_of(index, part.n_layers)) for part in slices for index in range(part.n_layers)
    ]
