"""The values of an option that a sweep tries: a range, a list, or a single one.

0:1:0.1        0, 0.1, ..., 1: start, stop and step, ends included
0.3,0.5        two values
tensor,row     names, for an option that takes names
[0, 1],[1, 0]  two gradients over the layers
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from fusion_slerp.errors import Problem, SettingsError, setting
from fusion_slerp.settings.mappings import plain

RANGE = re.compile(r"\s*([^:,\s]+)\s*:\s*([^:,\s]+)\s*:\s*([^:,\s]+)\s*")
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d{1,2})?")

MOST_VALUES = 10_000
"""Values of a range: more is a mistake in the step."""


def parse_values(given: Any, name: str) -> tuple[Any, ...]:
    """Returns the values that an option takes in a sweep.

    Args:
        given: A string of one of the forms above, a single value, or a sequence with a value in each item.
        name: What is varied, for messages.

    Raises:
        SettingsError: It is a malformed range or no YAML, has no value, or one of them twice.
    """
    values = _of_text(given, name) if isinstance(given, str) else _of_python(given)
    if not values:
        raise _wrong(name, repr(given), "at least one value")
    _refuse_twice(values, name)
    is_real = any(isinstance(value, float) for value in values)
    return tuple(float(value) if is_real and _is_whole(value) else value for value in values)


def is_several(text: str) -> bool:
    """Whether a string is a range or a list of values, rather than one value, which may be YAML."""
    if RANGE.fullmatch(text):
        return True
    return "," in re.sub(r"\[[^\]]*\]|\{[^}]*\}", "", text)


def value_text(value: Any) -> str:
    """Returns a value as a table shows it: `0.3`, and `1` for 1.0."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return value if isinstance(value, str) else repr(value)


def _of_python(given: Any) -> tuple[Any, ...]:
    given = given.tolist() if hasattr(given, "tolist") else given  # numpy's arrays
    is_several = isinstance(given, Sequence)
    return tuple(plain(list(given))) if is_several else (plain(given),)


def _of_text(text: str, name: str) -> tuple[Any, ...]:
    if found := RANGE.fullmatch(text):
        return tuple(_range(found.groups(), name))
    import yaml

    from fusion_slerp.recipes.yaml_loading import Loader

    try:
        return tuple(yaml.load(f"[{text}]", Loader))  # a safe loader
    except yaml.YAMLError as error:
        found_text = f"{text!r}: {getattr(error, 'problem', None) or 'not YAML'}"
        raise _wrong(name, found_text, "a range, 0:1:0.1, or values with commas, 0.3,0.5") from None


def _range(parts: Sequence[str], name: str) -> Iterator[float]:
    """Yields the numbers of a range, each the float nearest to the decimal number."""
    text = ":".join(parts)
    if not all(NUMBER.fullmatch(part) for part in parts):
        raise _wrong(name, text, "three numbers: start:stop:step")
    start, stop, step = map(Decimal, parts)
    if not step or (stop - start) / step < 0:
        raise _wrong(name, text, "a step that leads from start to stop", f"{parts[0]}:{parts[1]}:0.1")
    if (stop - start) / step >= MOST_VALUES:
        raise _wrong(name, text, f"at most {MOST_VALUES} values, not {int((stop - start) / step) + 1}")
    n_steps, rest = divmod(stop - start, step)
    if rest:
        last = start + n_steps * step
        needed = f"a stop that the steps reach: the last is {last}"
        raise _wrong(name, text, needed, f"{parts[0]}:{last}:{parts[2]}")
    is_whole = all(part.lstrip("+-").isdigit() for part in parts)
    for index in range(int(n_steps) + 1):
        value = start + index * step
        yield int(value) if is_whole else float(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _refuse_twice(values: Sequence[Any], name: str) -> None:
    seen: list[Any] = []
    for value in values:
        if any(value == other and type(value) is not bool for other in seen):
            raise _wrong(name, f"{value_text(value)} twice", "every value once")
        seen.append(value)


def _wrong(name: str, found: str, needed: str, example: str = "0:1:0.1") -> Exception:
    fix = f"use {setting('vary', {name: example})}"
    fields = (("found", found), ("needed", needed))
    return Problem(SettingsError, f"invalid values of {name}", fields, fix).error()
