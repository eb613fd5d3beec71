"""t of a recipe in mergekit's form, as our `t` and `slices`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field
from typing import Any

from fusion_slerp.methods.slerp import SlerpOptions
from fusion_slerp.options import declared
from fusion_slerp.recipes.mergekit_models import Part, parameters_of, slice_of
from fusion_slerp.recipes.recipe import Findings, join
from fusion_slerp.recipes.values import checked, entries_of, is_for_all

T: Field[Any] = declared(SlerpOptions)["t"]

WITHOUT_EFFECT = (
    *("embed_slerp", "weight", "density", "normalize", "rescale", "lambda", "int8_mask", "gamma", "epsilon"),
    *("filter_wise", "nuslerp_flatten", "nuslerp_row_wise"),
)
"""Parameters that mergekit's slerp ignores; other methods read them, or older versions did."""


def options_of_t(
    given: Mapping[str, Any], parts: list[Part], models: Sequence[str], findings: Findings
) -> dict[str, Any]:
    """Returns `t`, and `slices` if the recipe has them."""
    parameters = parameters_of(given, "{t: 0.5}", findings)
    if parameters is None:
        return {}
    everywhere = _read_t(parameters, "parameters", findings)
    for part in parts:
        for source in part.sources:
            _check_source(source.key, source.parameters, part.key, findings)
    own = [
        _read_t(part.parameters, join(part.key, "parameters"), findings) if part.key else None
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
            slice_of(part, models, {"t": _turned(t, everywhere) if _is_turned(part, models) else t})
            for part, t in zip(parts, own, strict=True)
        ]
    return options


def _read_t(parameters: Mapping[str, Any], key: str, findings: Findings) -> Any:
    """Returns the t of one level of the recipe in our form; None if it has none, or after a fault."""
    findings.note_without_effect(parameters, WITHOUT_EFFECT, key, "slerp")
    rest = [name for name in parameters if name not in WITHOUT_EFFECT]
    findings.unknown_keys(dict.fromkeys(rest), ("t", "embed_slerp"), key)
    value = parameters.get("t")
    return None if value is None else checked(value, join(key, "t"), T, findings)


def _check_source(key: str, parameters: Mapping[str, Any], of_part: str, findings: Findings) -> None:
    """Reports a t in a model's parameters, where mergekit ignores it."""
    target = f"{join(of_part, 'parameters.t')} or parameters.t" if of_part else "parameters.t"
    others = {name: value for name, value in parameters.items() if name != "t"}
    if "t" in parameters:
        headline = f"{join(key, 'parameters.t')} has no effect: t does not belong to a single model"
        findings.fault(headline, f"move it to {target}", found=parameters["t"])
    _read_t(others, join(key, "parameters"), findings)


def _note_gaps(everywhere: Any, own: list[Any], findings: Findings) -> None:
    """Notes that some tensors may have no t."""
    levels = own if everywhere is None else [everywhere]
    if not all(is_for_all(t, T) for t in levels):
        findings.note(
            "t: no entry covers every name; a tensor without a match is base_model's, where mergekit stops"
        )


def _is_turned(part: Part, models: Sequence[str]) -> bool:
    """Whether a slice's own base_model is model b."""
    return part.base == models[1]


def _turned(t: Any, everywhere: Any) -> Any:
    """The t of a slice whose base is b: 1 - t, for its own entries and then those of the whole recipe."""
    turned = []
    for entry in (entry for level in (t, everywhere) if level is not None for entry in entries_of(level, T)):
        values = [1 - value for value in entry.values]
        filters = {} if entry.pattern is None else {"filter": entry.pattern}
        turned.append({**filters, "value": values[0] if len(values) == 1 else values})
    return turned
