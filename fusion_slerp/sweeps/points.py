"""The points of a sweep: all combinations of the values of its axes, and a name for each."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

from fusion_slerp.errors import Problem, SettingsError, setting
from fusion_slerp.hashes import digest_of
from fusion_slerp.sweeps.axes import Axis
from fusion_slerp.sweeps.values import value_text

MAX_POINTS = 200
"""More combinations than this are refused unless `max_points` says otherwise: usually nobody meant them."""

LONGEST_NAME = 80
"""Characters of a point's name, which is that of a folder."""

Values = Mapping[str, Any]
"""A point: a value by the name of each axis."""


def grid(axes: Sequence[Axis], max_points: int = MAX_POINTS) -> tuple[dict[str, Any], ...]:
    """Returns all combinations of the axes' values; those of the last axis vary fastest.

    Raises:
        SettingsError: There are more than `max_points`, or no axes.
    """
    if not axes:
        fix = f"use {setting('vary', {'t': '0:1:0.1'})}"
        raise Problem(SettingsError, "a sweep needs an option to vary", (), fix).error()
    n_points = prod(len(axis.values) for axis in axes)
    if n_points > max_points:
        sizes = " × ".join(f"{len(axis.values)} of {axis.name}" for axis in axes)
        fields = (("found", f"{n_points} points: {sizes}"), ("limit", max_points))
        fix = f"use larger steps, or {setting('max_points', n_points)}"
        raise Problem(SettingsError, f"the sweep has {n_points} points", fields, fix).error()
    names = [axis.name for axis in axes]
    return tuple(dict(zip(names, values, strict=True)) for values in product(*(a.values for a in axes)))


def point_text(values: Values) -> str:
    """Returns a point for people: `t = 0.3, weight.b = 1`."""
    return ", ".join(f"{name} = {value_text(value)}" for name, value in values.items())


def point_name(values: Values) -> str:
    """Returns a point's name, which serves as the name of a file or folder: `t=0.3`, `t=0.3,weight.b=1`.

    A value that a file name cannot hold, or a long one, is shortened, and the name ends with a digest.
    """
    whole = ",".join(f"{name}={value_text(value)}" for name, value in values.items())
    name = re.sub(r"[^A-Za-z0-9=.,_+-]", "_", whole)
    if name == whole and len(name) <= LONGEST_NAME:
        return name
    digest = digest_of(json.dumps(dict(values), sort_keys=True).encode(), "blake3")[:8]
    return f"{name[:LONGEST_NAME]}-{digest}"
