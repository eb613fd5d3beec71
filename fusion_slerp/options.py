"""How an option is declared: once, with its check and everything the command and the records need to know.

An option is a dataclass field made by `option`; the docstring of that class describes it. The checks, the
command's options, the identity of a merge and the recipes are derived from these fields; tests compare the
plugin's arguments, the YAML files and the documentation with them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from functools import cache
from math import isfinite
from numbers import Real
from typing import Any, Literal, get_args

Panel = Literal["Merging", "Vocabulary", "Output", "Machine", "Safety"]
"""How the command's help groups options."""


@dataclass(frozen=True, slots=True)
class Check:
    """The values that an option accepts.

    Attributes:
        is_fine: Whether it accepts a value.
        needed: The accepted values, in words.
        choices: The accepted names, if it accepts names.
        is_switch: Whether it accepts true and false; the names, if any, are further choices.
    """

    is_fine: Callable[[Any], bool]
    needed: str
    choices: tuple[str, ...] = ()
    is_switch: bool = False


@dataclass(frozen=True, slots=True)
class Declaration:
    """An option's properties besides its name, type, default and meaning.

    Attributes:
        check: The values it accepts; for an option with a schedule, each of the schedule's numbers.
        example: A value that works, of plain Python types.
        panel: Its group in the command's help.
        is_schedule: Whether it may vary over depth and names.
        is_per_model: Whether each model may have its own value.
        changes_child: Whether the merged model depends on it.
        records_default: Whether records state it where it has its default: not for an option that came after
            the records' format, so that those of older versions compare equal.
        is_text: Whether the command takes its value as typed rather than as YAML.
        flag: Its spelling in the command; None derives it from the name.
    """

    check: Check
    example: Any
    panel: Panel
    is_schedule: bool = False
    is_per_model: bool = False
    changes_child: bool = True
    records_default: bool = True
    is_text: bool = False
    flag: str | None = None


def option(default: Any, check: Check, example: Any, *, panel: Panel, **more: Any) -> Any:
    """Declares an option; the other arguments are those of `Declaration`."""
    return field(default=default, metadata={"option": Declaration(check, example, panel, **more)})


def declared(of: type) -> dict[str, Field[Any]]:
    """Returns the options that a class declares, by name, without its other fields."""
    return {each.name: each for each in fields(of) if "option" in each.metadata}


def declaration(each: Field[Any]) -> Declaration:
    """Returns the declaration of an option."""
    return each.metadata["option"]


@cache
def meanings(of: type) -> Mapping[str, str]:
    """Returns each option's description from the docstring of a class, on one line."""
    import inspect  # slow to import, and rarely needed

    found: dict[str, str] = {}
    for each in reversed(of.__mro__[:-1]):  # options that several methods share are inherited
        text = inspect.cleandoc(each.__doc__ or "").partition("Attributes:\n")[2]
        entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
        found |= {name: " ".join(body.split()).removesuffix(".") + "." for name, body in entries}
    return found


def is_number(value: object) -> bool:
    """Whether a value is a finite number, numpy's included, and not a boolean."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


def one_of(choices: object) -> Check:
    """Accepts the names of a `Literal`."""
    names = get_args(choices)
    return Check(lambda value: value in names, f"one of {', '.join(names)}", names)


def switch_or(*names: str) -> Check:
    """Accepts true, false and some names."""
    needed = f"true, false or {' or '.join(names)}"
    return Check(lambda v: isinstance(v, bool) or (isinstance(v, str) and v in names), needed, names, True)


def or_null(check: Check) -> Check:
    """Accepts the same values, and null."""
    return Check(lambda v: v is None or check.is_fine(v), f"{check.needed}, or null", check.choices)


FINITE = Check(is_number, "a finite number")
UNIT_INTERVAL = Check(lambda v: is_number(v) and 0 <= v <= 1, "a number in [0, 1]")
NON_NEGATIVE = Check(lambda v: is_number(v) and v >= 0, "a number, at least 0")
COUNT = Check(lambda v: is_number(v) and v == int(v) >= 1, "a whole number, at least 1")
BOOLEAN = Check(lambda v: isinstance(v, bool), "true or false", is_switch=True)
TEXT = Check(lambda v: isinstance(v, str) and bool(v), "a string")
ANYTHING = Check(lambda v: True, "")
