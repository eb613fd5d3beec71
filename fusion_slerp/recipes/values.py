"""Values of recipes: numbers that YAML reads as strings, and schedules in one form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field
from typing import Any

from fusion_slerp.errors import Problem, SettingsError, nearest
from fusion_slerp.options import declaration
from fusion_slerp.recipes.recipe import Findings
from fusion_slerp.settings.schedule import KEYS, Entry, parse_schedule, read_schedule


def as_numbers(value: Any) -> Any:
    """The value with numbers in place of strings: YAML reads 1e-3 as a string, mergekit as a number."""
    if isinstance(value, Mapping):
        return {key: as_numbers(each) if key == "value" else each for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_numbers(each) for each in value]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def in_one_form(value: Any) -> Any:
    """The schedule with numbers in place of strings, and a list of entries in place of a single one."""
    return [as_numbers(value)] if isinstance(value, Mapping) else as_numbers(value)


def is_by_label(value: Any, each: Field[Any]) -> bool:
    """Whether the value of an option holds one schedule for each of several models."""
    is_mapping = isinstance(value, Mapping) and not set(value) & set(KEYS)
    return declaration(each).is_per_model and is_mapping


def map_schedules(value: Any, each: Field[Any], change: Callable[[Any], Any]) -> Any:
    """The option's value with its schedule changed, or every model's schedule if each has its own."""
    if is_by_label(value, each):
        return {label: change(own) for label, own in value.items()}
    return change(value)


def checked(value: Any, key: str, each: Field[Any], findings: Findings) -> Any:
    """Returns a schedule in mergekit's form with numbers in place of strings; None after a fault.

    Args:
        value: The value.
        key: Its key.
        each: The option that it is for.
        findings: Gets the fault.
    """
    entries = value if isinstance(value, (list, tuple)) else [value]
    for i, entry in enumerate(entries):
        given = entry if isinstance(entry, Mapping) else {}
        unknown = [str(name) for name in given if name not in ("filter", "value")]
        if unknown:
            hint = nearest(unknown[0], ("filter", "value"))
            headline = f"{key}[{i}].{unknown[0]} is not a key of mergekit{hint}"
            findings.fault(headline, "correct it or remove it", needed="filter, value")
            return None
    schedule = in_one_form(value)
    try:
        read_schedule(schedule, key, each)
    except SettingsError as error:
        (problem,) = error.problems
        assert isinstance(problem, Problem)
        about = {name: str(field) for name, field in problem.fields}
        findings.fault(problem.headline, f"set {key}: 0.5", found=about["found"], needed=about["needed"])
        return None
    return schedule


def entries_of(value: Any, each: Field[Any]) -> tuple[Entry, ...]:
    """The entries of a valid schedule."""
    about = declaration(each)
    return parse_schedule(value, number=about.check, example=about.example).entries


def is_for_all(value: Any, each: Field[Any]) -> bool:
    """Whether a schedule has a value for every name."""
    return any(entry.pattern is None for entry in entries_of(value, each))


def joined(levels: Sequence[Any], each: Field[Any]) -> Any:
    """Returns one schedule for several: each applies to the names that no earlier entry matches.

    Args:
        levels: Schedules; None for a level without one.
        each: The option that they are for.

    Returns:
        The schedule; None if no level has one.
    """
    stated = [level for level in levels if level is not None]
    if not stated or len(stated) == 1 or is_for_all(stated[0], each):
        return stated[0] if stated else None
    entries: list[Any] = []
    for level in stated:
        is_entries = isinstance(level, list) and any(isinstance(entry, Mapping) for entry in level)
        entries += level if is_entries else [{"value": level}]
        if is_for_all(level, each):
            break
    return entries
