"""Parameters of mergekit that are one number, name or switch for the whole merge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field
from typing import Any

from fusion_slerp.options import Declaration, declaration
from fusion_slerp.recipes.mergekit_body import Body, Level
from fusion_slerp.recipes.mergekit_methods import Parameter
from fusion_slerp.recipes.recipe import Findings
from fusion_slerp.recipes.values import as_numbers


def shared_value(parameter: Parameter, each: Field[Any], body: Body, findings: Findings) -> Any:
    """Returns the value of an option without a schedule; None if the recipe leaves it open."""
    values = [_value(level, parameter, each, findings) for level in body.levels]
    whole = next((value for value in values if value is not None), None)
    for part in body.parts:
        own = _value(part.level, parameter, each, findings)
        if own is not None and own != (parameter.default if whole is None else whole):
            key, given = part.level.key_of(parameter.name), part.level.parameters[parameter.name]
            stated = str(given).lower() if isinstance(given, bool) else given
            fix = f"set parameters.{parameter.name}: {stated} for the whole recipe"
            findings.fault(f"{key}: a value for a single slice is not supported", fix, found=given)
    return whole


def _value(level: Level, parameter: Parameter, each: Field[Any], findings: Findings) -> Any:
    """The value at one level; None if there is none, or after a fault."""
    given, key = level.parameters.get(parameter.name), level.key_of(parameter.name)
    if given is None:
        return None
    if isinstance(given, (list, Mapping)):
        example = _example(parameter, declaration(each))
        headline = f"{key}: a value that varies is not supported"
        findings.fault(
            headline, f"set {key}: {example}", found=repr(given), needed="one value for all tensors"
        )
        return None
    value = _converted(given, parameter, declaration(each))
    if value is not None:
        return value
    about = declaration(each)
    needed = "true or false" if _is_switch(parameter, about) else about.check.needed
    findings.fault(
        f"invalid {key}", f"set {key}: {_example(parameter, about)}", found=repr(given), needed=needed
    )
    return None


def _converted(given: Any, parameter: Parameter, about: Declaration) -> Any:
    """Our value; None if mergekit's is invalid. As there, a switch may be a number, and a number a string."""
    if _is_switch(parameter, about):
        if not isinstance(given, (bool, int, float)):
            return None
        return parameter.values.get(bool(given), bool(given))
    value = as_numbers(given)
    return value if about.check.is_fine(value) else None


def _is_switch(parameter: Parameter, about: Declaration) -> bool:
    return about.check.is_switch or bool(parameter.values)


def _example(parameter: Parameter, about: Declaration) -> Any:
    return "true" if _is_switch(parameter, about) else parameter.default
