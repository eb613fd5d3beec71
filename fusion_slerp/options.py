"""How an option is declared: once, with its check, and with what the command and the records need to know.

An option is a field of a dataclass, made by `option`; its meaning stands in the docstring of that class. The
checks, the command's options, the identity of a merge and the recipes are derived from these fields; the
plugin's arguments, the YAML files and the documentation are compared with them in the tests.
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
    """What values an option takes.

    Attributes:
        is_fine: Whether a value is one of them.
        needed: Which they are, in words.
        choices: Their names, where they are names.
    """

    is_fine: Callable[[Any], bool]
    needed: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Declaration:
    """What is declared of an option beside its name, type, default and meaning.

    Attributes:
        check: What it takes; of an option with a schedule, what each of its numbers is.
        example: A value that works, as YAML.
        panel: Where the command's help lists it.
        is_schedule: Whether it may vary over depth and names.
        is_per_model: Whether each model may have a value of its own.
        changes_child: Whether the merged model depends on it.
        is_text: Whether the command takes its value as it is typed, not as YAML.
        flag: How the command spells it; None derives that from the name.
    """

    check: Check
    example: str
    panel: Panel
    is_schedule: bool = False
    is_per_model: bool = False
    changes_child: bool = True
    is_text: bool = False
    flag: str | None = None


def option(default: Any, check: Check, example: str, *, panel: Panel, **more: Any) -> Any:
    """Declares an option; the other arguments are those of `Declaration`."""
    return field(default=default, metadata={"option": Declaration(check, example, panel, **more)})


def declared(of: type) -> dict[str, Field[Any]]:
    """Returns the options that a class declares, by name; other fields are left out."""
    return {each.name: each for each in fields(of) if "option" in each.metadata}


def declaration(each: Field[Any]) -> Declaration:
    """Returns what is declared of an option."""
    return each.metadata["option"]


@cache
def meanings(of: type) -> Mapping[str, str]:
    """Returns what the docstring of a class says of each option, in one line."""
    import inspect  # costs more than everything else here

    text = inspect.cleandoc(of.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
    return {name: " ".join(body.split()).removesuffix(".") + "." for name, body in entries}


def is_number(value: object) -> bool:
    """Whether a value is a finite number, numpy's included, and no boolean."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def one_of(choices: object) -> Check:
    """One of the names of a `Literal`."""
    names = get_args(choices)
    return Check(lambda value: value in names, f"one of {', '.join(names)}", names)


def or_null(check: Check) -> Check:
    """That, or null."""
    return Check(lambda v: v is None or check.is_fine(v), f"{check.needed}, or null", check.choices)


FINITE = Check(is_number, "a finite number")
UNIT_INTERVAL = Check(lambda v: is_number(v) and 0 <= v <= 1, "a number in [0, 1]")
NON_NEGATIVE = Check(lambda v: is_number(v) and v >= 0, "a number, at least 0")
COUNT = Check(lambda v: is_number(v) and v == int(v) >= 1, "a whole number, at least 1")
BOOLEAN = Check(lambda v: isinstance(v, bool), "true or false")
TEXT = Check(lambda v: isinstance(v, str) and bool(v), "a string")
ANYTHING = Check(lambda v: True, "")
