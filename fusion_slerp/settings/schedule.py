"""A value for each tensor, as t of SLERP: one number, a gradient over depth, or entries that match names.

    t: 0.3
    t: [0, 0.5, 1]                      # from the first layer to the last
    t:
      - filter: self_attn               # a substring of the name; the first matching entry applies
        value: [0, 0.5, 0.3, 0.7, 1]
      - glob: "*.mlp.*_proj.weight"     # or a pattern for the whole name
        value: 0.5
      - regex: 'layers\\.1\\d\\.'         # or a regular expression that matches part of it
        value: 1
      - value: 0.4                      # everything else

Source: the form, the choice of the first entry and the formula of a gradient are those of mergekit
0.1.5 (https://github.com/arcee-ai/mergekit, config.py and plan.py). We differ in supporting globs and
regular expressions, in keeping model a for a tensor that no entry matches, and in rejecting unknown
keys and values out of range.

If each model has its own value, a mapping from labels holds one of these forms for each:

    weight: {a: 0.4, b: [0, 0.6]}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import Field, dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from fusion_slerp.errors import Problem, SettingsError, nearest, setting
from fusion_slerp.options import UNIT_INTERVAL, Check, declaration
from fusion_slerp.settings.labels import is_label

FORM = "a list of them, or entries with filter (or glob, or regex) and value"
EVERYTHING = "*"
KEYS = ("filter", "glob", "regex", "value")

Matching = Literal["filter", "glob", "regex"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A part of a schedule.

    Attributes:
        values: One number, or several that are spread evenly over the depth.
        pattern: The pattern that a name must match; None matches every name.
        matching: How it matches: `"filter"` as a substring, `"glob"` as a pattern for the whole name,
            `"regex"` as a regular expression that matches part of it.
    """

    values: tuple[float, ...]
    pattern: str | None = None
    matching: Matching = "filter"

    def matches(self, name: str) -> bool:
        """Whether it applies to a tensor of that name."""
        if self.pattern is None:
            return True
        if self.matching == "glob":
            return fnmatchcase(name, self.pattern)
        if self.matching == "regex":
            return re.search(self.pattern, name) is not None
        return self.pattern in name

    def value(self, depth: float) -> float:
        """The value at a depth in [0, 1], interpolated linearly between two neighbours."""
        position = depth * (len(self.values) - 1)
        before = int(position)
        after, share = min(before + 1, len(self.values) - 1), position - before
        return (1 - share) * self.values[before] + share * self.values[after]


@dataclass(frozen=True, slots=True)
class Schedule:
    """A value for every tensor.

    Attributes:
        entries: The first one that matches a name applies.
    """

    entries: tuple[Entry, ...]

    def at(self, name: str, depth: float = 0.0) -> float | None:
        """Returns the value for a tensor; None if no entry matches its name.

        Args:
            name: Its name in the merged model.
            depth: Its layer's depth: 0 for the first, 1 for the last, and 0 outside the layers.
        """
        entry = next((entry for entry in self.entries if entry.matches(name)), None)
        return None if entry is None else entry.value(depth)

    @property
    def number(self) -> float | None:
        """The single value of all tensors; None if values differ."""
        values = {entry.values for entry in self.entries}
        (only, *others) = values
        is_one = not others and len(only) == 1 and any(entry.pattern is None for entry in self.entries)
        return only[0] if is_one else None


@dataclass(frozen=True, slots=True)
class PerModel:
    """A schedule for each model.

    Attributes:
        by_label: The given schedules.
        default: The schedule of every other model; None falls back to that of the whole merge.
    """

    by_label: Mapping[str, Schedule]
    default: Schedule | None

    def of(self, label: str) -> Schedule | None:
        """Returns the schedule of a model."""
        return self.by_label.get(label, self.default)


def parse_schedule(
    value: Any, name: str = "t", number: Check = UNIT_INTERVAL, example: Any = 0.5
) -> Schedule:
    """Returns the schedule that a setting describes.

    Args:
        value: A number, a list, a mapping or a list of mappings; see above.
        name: The setting, for messages.
        number: The check for each number.
        example: A value that works.

    Raises:
        SettingsError: It has none of the forms above; the message names the entry.
    """
    form = _Form(name, number, example)
    if number.is_fine(value):
        return Schedule((Entry((float(value),)),))
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, (list, tuple)) and value:
        if all(map(number.is_fine, value)):
            return Schedule((Entry(tuple(map(float, value))),))
        if all(isinstance(each, Mapping) for each in value):
            return Schedule(tuple(form.entry(each, f"{name}[{i}]") for i, each in enumerate(value)))
    raise form.wrong(name, f"{value!r} ({type(value).__name__})", f"{number.needed}, {FORM}")


def _parse_per_model(value: Any, default: Any, name: str, number: Check, example: Any) -> PerModel:
    """The schedules of all models: from a mapping by label, or one schedule for all."""
    if not isinstance(value, Mapping) or set(value) & set(KEYS):
        return PerModel({}, parse_schedule(value, name, number, example))
    wrong = [key for key in value if not is_label(key)]
    if wrong:
        found = f"the key {wrong[0]!r}"
        raise _Form(name, number, example).wrong(name, found, "labels of models: a, b, c, ...")
    given = {key: parse_schedule(each, f"{name}.{key}", number, example) for key, each in value.items()}
    return PerModel(given, None if default is None else parse_schedule(default, name, number, example))


@dataclass(frozen=True, slots=True)
class _Form:
    """Parses one setting: its name, the check for its numbers, and a value that works."""

    name: str
    number: Check
    example: Any

    def entry(self, given: Mapping[str, Any], name: str) -> Entry:
        unknown = [str(key) for key in given if key not in KEYS]
        if unknown:
            raise self.wrong(name, f"the key {unknown[0]!r}{nearest(unknown[0], KEYS)}", ", ".join(KEYS))
        value = given.get("value")
        values: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
        if not values or not all(map(self.number.is_fine, values)):
            found = f"{value!r} ({type(value).__name__})"
            raise self.wrong(f"{name}.value", found, f"{self.number.needed}, or a list")
        numbers = tuple(float(each) for each in values)
        patterns = [(key, given[key]) for key in KEYS[:3] if given.get(key) is not None]
        if len(patterns) > 1:
            raise self.wrong(name, " and ".join(key for key, _ in patterns), "one of filter, glob and regex")
        if not patterns or patterns[0] == ("filter", EVERYTHING):
            return Entry(numbers)
        key, pattern = patterns[0]
        if not isinstance(pattern, str) or not pattern:
            raise self.wrong(f"{name}.{key}", f"{pattern!r} ({type(pattern).__name__})", "a string")
        if key == "regex":
            try:
                re.compile(pattern)
            except re.error as error:
                raise self.wrong(f"{name}.regex", f"{pattern!r}: {error}", "a regular expression") from None
        return Entry(numbers, pattern, key)  # type: ignore[arg-type]

    def wrong(self, name: str, found: str, needed: str) -> Exception:
        fields = (("found", found), ("needed", needed))
        option = re.split(r"[.[]", re.sub(r"^slices\[\d+\]\.", "", self.name))[0]
        fix = f"use {setting(option, self.example)}"
        if self.name.startswith("slices"):
            fix += ", and leave it out of the slice"
        return Problem(SettingsError, f"invalid {name}", fields, fix).error()


ScheduleOf = Schedule | PerModel
"""The schedule of an option: for all models, or one per model."""


def read_schedule(value: Any, name: str, each: Field[Any], is_whole: bool = True) -> ScheduleOf:
    """Returns the schedule that the value of an option describes.

    Args:
        value: The value.
        name: Its name for the user.
        each: The option.
        is_whole: Whether it applies to the whole merge; a slice's schedule falls back to that one.

    Raises:
        SettingsError: It is not a schedule.
    """
    about = declaration(each)
    if about.is_per_model:
        default = each.default if is_whole else None
        return _parse_per_model(value, default, name, about.check, about.example)
    return parse_schedule(value, name, about.check, about.example)
