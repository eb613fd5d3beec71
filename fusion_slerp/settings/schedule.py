"""t for each tensor: one number, a gradient over depth, or entries that match names.

    t: 0.3
    t: [0, 0.5, 1]                      # from the first layer to the last
    t:
      - filter: self_attn               # a part of the name; the first entry that matches counts
        value: [0, 0.5, 0.3, 0.7, 1]
      - glob: "*.mlp.*_proj.weight"     # or a pattern for the whole name
        value: 0.5
      - regex: 'layers\\.1\\d\\.'         # or a regular expression found in it
        value: 1
      - value: 0.4                      # everything else

Source: the form, the choice of the first entry and the formula of a gradient are those of mergekit
0.1.5 (https://github.com/arcee-ai/mergekit, config.py and plan.py). We differ in that globs and
regular expressions can be asked for, that a tensor no entry matches keeps parent a, and that unknown
keys and values outside [0, 1] are errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import isfinite
from numbers import Real
from typing import Any, Literal

from fusion_slerp.errors import Problem, SettingsError, nearest

FORM = "a number in [0, 1], a list of them, or entries with filter (or glob, or regex) and value"
EVERYTHING = "*"

Matching = Literal["filter", "glob", "regex"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A part of a schedule.

    Attributes:
        values: One number, or several that are spread evenly over the depth.
        pattern: What the name must match; None matches every name.
        matching: How: `"filter"` is a part of the name, `"glob"` a pattern for the whole name,
            `"regex"` a regular expression found in it.
    """

    values: tuple[float, ...]
    pattern: str | None = None
    matching: Matching = "filter"

    def matches(self, name: str) -> bool:
        """Whether it holds for a tensor of that name."""
        if self.pattern is None:
            return True
        if self.matching == "glob":
            return fnmatchcase(name, self.pattern)
        if self.matching == "regex":
            return re.search(self.pattern, name) is not None
        return self.pattern in name

    def at(self, depth: float) -> float:
        """The value at a depth in [0, 1], linear between two neighbours."""
        place = depth * (len(self.values) - 1)
        before = int(place)
        after, share = min(before + 1, len(self.values) - 1), place - before
        return (1 - share) * self.values[before] + share * self.values[after]


@dataclass(frozen=True, slots=True)
class Schedule:
    """t for every tensor.

    Attributes:
        entries: The first one that matches a name counts.
    """

    entries: tuple[Entry, ...]

    def t(self, name: str, depth: float = 0.0) -> float | None:
        """Returns t for a tensor; None if no entry matches its name.

        Args:
            name: Its name in the child.
            depth: Of its layer: 0 for the first, 1 for the last, and 0 outside the layers.
        """
        found = next((entry for entry in self.entries if entry.matches(name)), None)
        return None if found is None else found.at(depth)

    @property
    def number(self) -> float | None:
        """The one t of all tensors; None if they have several."""
        values = {entry.values for entry in self.entries}
        (only, *others) = values
        is_one = not others and len(only) == 1 and any(entry.pattern is None for entry in self.entries)
        return only[0] if is_one else None


def parse_schedule(value: Any, name: str = "t") -> Schedule:
    """Returns the schedule that a setting describes.

    Raises:
        SettingsError: It is not of the forms above; names the entry.
    """
    if is_t(value):
        return Schedule((Entry((float(value),)),))
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, (list, tuple)) and value:
        if all(is_t(each) for each in value):
            return Schedule((Entry(tuple(map(float, value))),))
        if all(isinstance(each, Mapping) for each in value):
            return Schedule(tuple(_entry(each, f"{name}[{i}]") for i, each in enumerate(value)))
    raise _wrong(name, f"{value!r} ({type(value).__name__})", FORM)


def _entry(given: Mapping[str, Any], name: str) -> Entry:
    known = ("filter", "glob", "regex", "value")
    unknown = [str(key) for key in given if key not in known]
    if unknown:
        raise _wrong(name, f"the key {unknown[0]!r}{nearest(unknown[0], known)}", ", ".join(known))
    value = given.get("value")
    values: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
    if not values or not all(is_t(each) for each in values):
        raise _wrong(f"{name}.value", f"{value!r} ({type(value).__name__})", "a number in [0, 1], or a list")
    numbers = tuple(float(each) for each in values)
    patterns = [(key, given[key]) for key in known[:3] if given.get(key) is not None]
    if len(patterns) > 1:
        raise _wrong(name, " and ".join(key for key, _ in patterns), "one of filter, glob and regex")
    if not patterns or patterns[0] == ("filter", EVERYTHING):
        return Entry(numbers)
    key, pattern = patterns[0]
    if not isinstance(pattern, str) or not pattern:
        raise _wrong(f"{name}.{key}", f"{pattern!r} ({type(pattern).__name__})", "a text")
    if key == "regex":
        try:
            re.compile(pattern)
        except re.error as error:
            raise _wrong(f"{name}.regex", f"{pattern!r}: {error}", "a regular expression") from None
    return Entry(numbers, pattern, key)  # type: ignore[arg-type]


def is_t(value: Any) -> bool:
    """Whether a value is a number in [0, 1]."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return isfinite(value) and 0 <= float(value) <= 1
    except OverflowError:  # an integer beyond every float
        return False


def _wrong(name: str, found: str, needed: str) -> Exception:
    fields = (("found", found), ("needed", needed))
    return Problem(SettingsError, f"{name} is not usable", fields, "set t: 0.5").error()
