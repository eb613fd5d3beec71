"""What a search chooses from: a range or a list of values for everything that it varies.

0:1            any number from 0 to 1, both included
0:1:0.05       0, 0.05, ..., 1
tensor,row     one of these values
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from typing import Any

from fusion_slerp.errors import Problem, SettingsError, raise_all, setting
from fusion_slerp.sweeps.points import point_name
from fusion_slerp.sweeps.values import NUMBER, RANGE, parse_values

DIGITS = 3
"""Numbers of a range without steps are rounded to at least a thousandth of it: finer ones make no difference
to a merged model, and nobody wants to type them.
"""

UNIFORM = (0.5, 0.0, 1.0, 0.25, 0.75)
"""Where in all ranges at once the first trials lie, as fractions of them. Of SLERP of two models with t from
0 to 1, the second and the third are the source models. The middle comes first: it is a good merge as a rule,
so that worse ones are recognised early.
"""


@dataclass(frozen=True, slots=True)
class Range:
    """Any number between two.

    Attributes:
        name: What is varied, as the user wrote it.
        low: The lowest number.
        high: The highest, above `low`.
    """

    name: str
    low: float
    high: float

    def at(self, fraction: float) -> float:
        """Returns the number at a fraction of the range, 0 being its low end."""
        return self.nearest(self.low + fraction * (self.high - self.low))

    def nearest(self, value: float) -> float:
        """Returns the number that is tried in the place of another one: within the range, and rounded."""
        digits = DIGITS - math.floor(math.log10(self.high - self.low))
        return min(max(round(float(value), digits), self.low), self.high)

    def as_fields(self) -> dict[str, Any]:
        """Returns the range as JSON's values."""
        return {"low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Choices:
    """One of several values.

    Attributes:
        name: What is varied, as the user wrote it.
        values: The values, at least two.
        is_ordered: Whether they are the steps of a range, so that near ones are alike.
    """

    name: str
    values: tuple[Any, ...]
    is_ordered: bool

    def at(self, fraction: float) -> Any:
        """Returns the value at a fraction of the list, 0 being its start."""
        return self.values[int(fraction * (len(self.values) - 1) + 0.5)]

    def as_fields(self) -> dict[str, Any]:
        """Returns the values as JSON's values."""
        return {"steps" if self.is_ordered else "choices": list(self.values)}


Dimension = Range | Choices
Space = tuple[Dimension, ...]


def parse_space(vary: Mapping[str, Any]) -> Space:
    """Returns what a search chooses from.

    Args:
        vary: By name of what is varied, a string of one of the forms above or a sequence of values.

    Raises:
        SettingsError: Nothing is varied, or something has no range or a single value; all at once.
    """
    if not vary:
        fix = f"use {setting('vary', {'t': '0:1'})}"
        raise Problem(SettingsError, "a search needs an option to vary", (), fix).error()
    dimensions, problems = [], []
    for name, given in vary.items():
        try:
            dimensions.append(_dimension(str(name), given))
        except SettingsError as error:
            problems.append(error)
    raise_all(problems)
    return tuple(dimensions)


def _dimension(name: str, given: Any) -> Dimension:
    parts = [part.strip() for part in given.split(":")] if isinstance(given, str) else []
    if len(parts) == 2 and all(NUMBER.fullmatch(part) for part in parts):
        return _range(name, given, parts)
    values = parse_values(given, name)
    if len(values) == 1:
        fields = (("found", f"{given}"), ("needed", "a range, low:high or low:high:step, or several values"))
        fix = f"use {setting('vary', {name: '0:1'})}, or set it for all trials without --vary"
        raise Problem(SettingsError, f"{name} has a single value", fields, fix).error()
    return Choices(name, values, isinstance(given, str) and RANGE.fullmatch(given) is not None)


def _range(name: str, given: str, parts: Sequence[str]) -> Range:
    low, high = map(Decimal, parts)
    if low < high:
        return Range(name, float(low), float(high))
    fields = (("found", given), ("needed", "a low end below the high end"))
    fix = f"use {setting('vary', {name: f'{parts[1]}:{parts[0]}' if high < low else '0:1'})}"
    raise Problem(SettingsError, f"the range of {name} is empty", fields, fix).error()


def point_at(space: Space, fraction: float) -> dict[str, Any]:
    """Returns the point at the same fraction of every range and list."""
    return {dimension.name: dimension.at(fraction) for dimension in space}


def first_points(space: Space) -> tuple[dict[str, Any], ...]:
    """Returns the points that every search tries first, each once; they treat all dimensions alike."""
    points = [point_at(space, fraction) for fraction in UNIFORM]
    return tuple({point_name(point): point for point in points}.values())


def probes(space: Space) -> tuple[dict[str, Any], ...]:
    """Returns points to check before a search: the first ones, and every end and choice with the others at
    their middle.
    """
    middle = point_at(space, 0.5)
    points = list(first_points(space))
    for dimension in space:
        values: tuple[Any, ...] = (dimension.at(0.0), dimension.at(1.0))
        if isinstance(dimension, Choices) and not dimension.is_ordered:
            values = dimension.values
        points += [middle | {dimension.name: value} for value in values]
    return tuple({point_name(point): point for point in points}.values())


def size(space: Space) -> float:
    """Returns how many points there are; infinity with a range that has no steps."""
    return math.prod(len(each.values) if isinstance(each, Choices) else math.inf for each in space)


def all_points(space: Space) -> Iterator[dict[str, Any]]:
    """Yields every point of a space of lists: the first ones, then the others in order."""
    names = [dimension.name for dimension in space]
    first = first_points(space)
    yield from first
    for values in product(*(each.values for each in space if isinstance(each, Choices))):
        point = dict(zip(names, values, strict=True))
        if point not in first:
            yield point
