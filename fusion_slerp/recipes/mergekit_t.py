"""t of a recipe in mergekit's form, as our `t` and `slices`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusion_slerp.errors import SettingsError, nearest
from fusion_slerp.recipes.mergekit_models import Part
from fusion_slerp.recipes.recipe import Findings, join
from fusion_slerp.settings.schedule import parse_schedule

WITHOUT_EFFECT = (
    *("embed_slerp", "weight", "density", "normalize", "rescale", "lambda", "int8_mask", "gamma", "epsilon"),
    *("filter_wise", "nuslerp_flatten", "nuslerp_row_wise"),
)
"""Parameters that mergekit's slerp does not read; other methods do, or older versions did."""


def options_of_t(
    given: Mapping[str, Any], parts: list[Part], parents: tuple[str, str], findings: Findings
) -> dict[str, Any]:
    """Returns `t`, and `slices` where the recipe has them."""
    parameters = parameters_of(given, "{t: 0.5}", findings)
    if parameters is None:
        return {}
    everywhere = read_t(parameters, "parameters", findings)
    for part in parts:
        for source in part.sources:
            _check_source(source.key, source.parameters, part.key, findings)
    own = [
        read_t(part.parameters, join(part.key, "parameters"), findings) if part.key else None
        for part in parts
    ]
    if everywhere is None and any(t is None for t in own):
        if not findings.faults:
            where = next(
                join(part.key, "parameters.t") for part, t in zip(parts, own, strict=True) if t is None
            )
            findings.fault(f"{where} is missing", "set parameters.t: 0.5 at the top of the recipe")
        return {}
    _note_gaps(everywhere, own, findings)
    options: dict[str, Any] = {"t": 0.0 if everywhere is None else everywhere}
    if parts[0].key:
        options["slices"] = [
            slice_of(part, parents, _turned(t, everywhere) if _is_turned(part, parents) else t)
            for part, t in zip(parts, own, strict=True)
        ]
    return options


def parameters_of(given: Mapping[str, Any], example: str, findings: Findings) -> Mapping[str, Any] | None:
    """Returns the parameters of the whole recipe; None after a fault."""
    parameters = given.get("parameters") or {}
    if isinstance(parameters, Mapping):
        return parameters
    findings.fault("parameters is not a mapping", f"set parameters: {example}", found=repr(parameters))
    return None


def slice_of(part: Part, parents: tuple[str, str], t: Any) -> dict[str, Any]:
    """Returns an entry of our `slices`; its t is left out where it is None."""
    layers = {source.model: source.layers for source in part.sources}
    ranges: dict[str, Any] = {
        which: list(layers[model] or ()) for which, model in zip(("a", "b"), parents, strict=True)
    }
    return ranges if t is None else ranges | {"t": t}


def read_t(parameters: Mapping[str, Any], key: str, findings: Findings) -> Any:
    """Returns t of a level of the recipe in our form; None if it has none, or after a fault."""
    for name in parameters:
        if name in WITHOUT_EFFECT:
            findings.note(f"{join(key, name)}: has no effect in mergekit's slerp, nor here")
    findings.unknown_keys(
        {name: None for name in parameters if name not in WITHOUT_EFFECT}, ("t", "embed_slerp"), key
    )
    value = parameters.get("t")
    return None if value is None else checked_t(value, join(key, "t"), findings)


def checked_t(value: Any, key: str, findings: Findings) -> Any:
    """Returns a schedule with numbers for texts like "1e-3"; None after a fault."""
    entries = value if isinstance(value, (list, tuple)) else [value]
    for i, entry in enumerate(entries):
        unknown = (
            [name for name in entry if name not in ("filter", "value")] if isinstance(entry, Mapping) else []
        )
        if unknown:
            place = f"{key}[{i}].{unknown[0]}"
            hint = nearest(str(unknown[0]), ("filter", "value"))
            findings.fault(
                f"{place} is not a key of mergekit{hint}", "correct it or remove it", needed="filter, value"
            )
            return None
    found = in_one_form(value)
    try:
        parse_schedule(found, key)
    except SettingsError as error:
        findings.faults.append(error)
        return None
    return found


def in_one_form(value: Any) -> Any:
    """The same t with numbers for texts, and a list of entries for an only one."""
    return [as_numbers(value)] if isinstance(value, Mapping) else as_numbers(value)


def as_numbers(value: Any) -> Any:
    """The same with numbers for texts: YAML reads 1e-3 as a text, which mergekit turns into a number."""
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


def _check_source(key: str, parameters: Mapping[str, Any], of_part: str, findings: Findings) -> None:
    """t belongs to the merge, not to a model: mergekit does not see it there."""
    places = f"{join(of_part, 'parameters.t')} or parameters.t" if of_part else "parameters.t"
    others = {name: value for name, value in parameters.items() if name != "t"}
    if "t" in parameters:
        headline = f"{join(key, 'parameters.t')} has no effect: t belongs to no single model"
        findings.fault(headline, f"move it to {places}", found=parameters["t"])
    read_t(others, join(key, "parameters"), findings)


def _note_gaps(everywhere: Any, own: list[Any], findings: Findings) -> None:
    """Says so where it is not certain that some t holds for every tensor."""
    levels = own if everywhere is None else [everywhere]
    if not all(_is_for_all(t) for t in levels):
        findings.note(
            "t: no entry is for every name; a tensor that none matches keeps base_model, where mergekit stops"
        )


def _is_for_all(t: Any) -> bool:
    return any(entry.pattern is None for entry in parse_schedule(t).entries)


def _is_turned(part: Part, parents: tuple[str, str]) -> bool:
    """Whether a slice's own base_model is parent b."""
    return part.base == parents[1]


def _turned(t: Any, everywhere: Any) -> Any:
    """The t of a slice that counts from b: 1 - t, of its own entries and then of the whole recipe's."""
    entries = [
        entry for level in (t, everywhere) if level is not None for entry in parse_schedule(level).entries
    ]
    turned = []
    for entry in entries:
        values = [1 - value for value in entry.values]
        filters = {} if entry.pattern is None else {"filter": entry.pattern}
        turned.append({**filters, "value": values[0] if len(values) == 1 else values})
    return turned
