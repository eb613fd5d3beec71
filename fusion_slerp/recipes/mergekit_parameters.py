"""The parameters of a recipe in mergekit's form, as options of our methods; the table is `mergekit_methods`.

A value is looked up in the model's own parameters, then the slice's, the module's and the whole recipe's: the
first level with an entry that matches applies. If a model has no value of its own, the slice's is the first.

Source: https://github.com/arcee-ai/mergekit, release 0.1.5, config.py and parameter_resolver.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field
from typing import Any

from fusion_slerp.methods import DEFAULT
from fusion_slerp.options import declaration, declared
from fusion_slerp.recipes.layer_filters import check_layers
from fusion_slerp.recipes.mergekit_body import Body, Level, Part, slice_of
from fusion_slerp.recipes.mergekit_methods import KNOWN_PARAMETERS, Counterpart, Parameter
from fusion_slerp.recipes.mergekit_roles import Roles
from fusion_slerp.recipes.recipe import Findings, join
from fusion_slerp.recipes.shared_values import shared_value
from fusion_slerp.recipes.values import checked, entries_of, is_for_all, joined

Own = Sequence[dict[str, Any]]
"""The options of each part."""


def method_options(body: Body, roles: Roles, how: Counterpart, findings: Findings) -> dict[str, Any]:
    """Returns `method`, the method's options, and `slices` if the recipe has them."""
    check_names(body, roles, how, findings)
    options: dict[str, Any] = {} if how.ours == DEFAULT else {"method": how.ours}
    own: list[dict[str, Any]] = [{} for _ in body.parts]
    fields = declared(how.method.options)
    for parameter in how.parameters:
        each = fields[parameter.option]
        if not declaration(each).is_schedule:
            value = shared_value(parameter, each, body, findings)
        elif declaration(each).is_per_model:
            value = _per_model(parameter, each, body, roles, own, findings)
        else:
            value = _shared_schedule(parameter, each, body, roles, own, findings)
        if value is None and not parameter.is_required and parameter.default != each.default:
            value = parameter.default
        if value is not None:
            options[parameter.option] = value
    if body.has_slices:
        options["slices"] = [
            slice_of(part, roles.label_of, of_part) for part, of_part in zip(body.parts, own, strict=True)
        ]
    return options


def check_names(
    body: Body, roles: Roles, how: Counterpart, findings: Findings, more: Sequence[str] = ()
) -> None:
    """Records parameters that nothing knows, and notes those that mergekit's method ignores.

    Args:
        body: The recipe.
        roles: Its models; the base's parameters were refused.
        how: Its method.
        findings: Gets faults and notes.
        more: Further parameters of the method, which are not a model's.
    """
    for level in body.levels:
        _check_level(level, (*how.names, *more), how, findings)
    for part in body.parts:
        _check_level(part.level, (*how.names, *more), how, findings)
        for source in part.sources:
            if source.model != roles.base:
                _check_model(source.level, part, how, findings)


def _check_level(level: Level, known: Sequence[str], how: Counterpart, findings: Findings) -> None:
    key = join(level.key, "parameters")
    for name in level.parameters:
        if name in how.noted:
            findings.note(f"{level.key_of(name)}: {how.noted[name]}")
    without = [name for name in KNOWN_PARAMETERS if name not in known and name not in how.noted]
    findings.note_without_effect(level.parameters, without, key, how.name)
    rest = [name for name in level.parameters if name not in without and name not in how.noted]
    findings.unknown_keys(dict.fromkeys(rest), known, key, without)


def _check_model(level: Level, part: Part, how: Counterpart, findings: Findings) -> None:
    """Checks a model's own parameters. mergekit ignores those that are not a model's."""
    own = [each.name for each in how.parameters if each.is_per_model]
    required = [each.name for each in how.parameters if each.is_required and not each.is_per_model]
    for name in (name for name in required if name in level.parameters):
        target = f"{part.level.key_of(name)} or parameters.{name}" if part.is_slice else f"parameters.{name}"
        headline = f"{level.key_of(name)} has no effect: {name} does not belong to a single model"
        findings.fault(headline, f"move it to {target}", found=level.parameters[name])
    rest = {name: each for name, each in level.parameters.items() if name not in required}
    _check_level(Level(level.key, rest), own, how, findings)


def read_level(level: Level, parameter: Parameter, each: Field[Any], findings: Findings) -> Any:
    """Returns the schedule of one level in our form; None if it has none, or after a fault."""
    value = level.parameters.get(parameter.name)
    return None if value is None else checked(value, level.key_of(parameter.name), each, findings)


def _per_model(
    parameter: Parameter, each: Field[Any], body: Body, roles: Roles, own: Own, findings: Findings
) -> Any:
    """Returns the option's value for the whole merge, and adds those of the slices to `own`."""
    everywhere = joined([read_level(level, parameter, each, findings) for level in body.levels], each)
    by_part = [_of_models(part, everywhere, parameter, each, roles, findings) for part in body.parts]
    if not body.has_slices:
        (by_model,) = by_part
        if all(value is None for value in by_model.values()):
            return _completed(everywhere, parameter, each)
        values = {
            roles.label_of[model]: joined([value, everywhere], each) for model, value in by_model.items()
        }
        stated = {label: value for label, value in values.items() if value is not None}
        return {label: _completed(value, parameter, each) for label, value in stated.items()}
    for of_part, by_model in zip(own, by_part, strict=True):
        stated = {roles.label_of[model]: value for model, value in by_model.items() if value is not None}
        of_part[parameter.option] = stated or None
    check_layers(body, by_part, everywhere, parameter, each, findings)
    return _completed(everywhere, parameter, each)


def _of_models(
    part: Part, everywhere: Any, parameter: Parameter, each: Field[Any], roles: Roles, findings: Findings
) -> dict[str, Any]:
    """The values of a part's models, without those of the whole recipe; None for a model without its own."""
    of_part = read_level(part.level, parameter, each, findings)
    values: dict[str, Any] = {}
    for source in part.sources:
        if source.model == roles.base:
            continue
        own = read_level(source.level, parameter, each, findings)
        values[source.model] = joined([own, of_part], each)
        if parameter.is_required:
            key = source.level.key_of(parameter.name)
            _check_stated([own, of_part, everywhere], key, parameter, each, findings)
    return values


def _check_stated(
    levels: Sequence[Any], key: str, parameter: Parameter, each: Field[Any], findings: Findings
) -> None:
    """Records that a required parameter is missing, and notes that it may be for some names."""
    stated = [level for level in levels if level is not None]
    if not stated and not findings.faults:
        findings.fault(f"{key} is missing", f"set {key}: {each.default}")
    elif stated and not any(is_for_all(level, each) for level in stated):
        findings.note(
            f"{parameter.name}: no entry covers every name; mergekit stops at a tensor without a match"
        )


def _completed(value: Any, parameter: Parameter, each: Field[Any]) -> Any:
    """The schedule, ending with mergekit's default where no entry covers every name."""
    if value is None or parameter.is_required or is_for_all(value, each):
        return value
    return joined([value, parameter.default], each)


def _shared_schedule(
    parameter: Parameter, each: Field[Any], body: Body, roles: Roles, own: Own, findings: Findings
) -> Any:
    """Returns the value of an option like t, which varies by depth and name but not by model."""
    name = parameter.name
    everywhere = joined([read_level(level, parameter, each, findings) for level in body.levels], each)
    of_parts = [read_level(part.level, parameter, each, findings) for part in body.parts]
    if everywhere is None and any(value is None for value in of_parts):
        if not findings.faults:
            lacking = (part for part, value in zip(body.parts, of_parts, strict=True) if value is None)
            where = next(lacking).level.key_of(name) if body.has_slices else f"parameters.{name}"
            findings.fault(f"{where} is missing", f"set parameters.{name}: 0.5 at the top of the recipe")
        return None
    levels = of_parts if everywhere is None else [everywhere]
    if not all(is_for_all(value, each) for value in levels):
        kept = "a tensor without a match is base_model's, where mergekit stops"
        findings.note(f"{name}: no entry covers every name; {kept}")
    if body.has_slices:
        for part, of_part, value in zip(body.parts, own, of_parts, strict=True):
            is_turned = roles.base is None and part.base == roles.models[1]
            of_part[name] = _turned(value, everywhere, each) if is_turned else value
    return 0.0 if everywhere is None else everywhere


def _turned(t: Any, everywhere: Any, each: Field[Any]) -> Any:
    """The t of a slice whose base is b: 1 - t, for its own entries and then those of the whole recipe."""
    return [_turned_entry(entry) for level in (t, everywhere) for entry in _entries(level, each)]


def _entries(level: Any, each: Field[Any]) -> Iterator[Any]:
    yield from () if level is None else entries_of(level, each)


def _turned_entry(entry: Any) -> Mapping[str, Any]:
    values = [1 - value for value in entry.values]
    filters = {} if entry.pattern is None else {"filter": entry.pattern}
    return {**filters, "value": values[0] if len(values) == 1 else values}
