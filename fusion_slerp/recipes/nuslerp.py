"""mergekit's nuslerp of two models without a base: SLERP whose t comes from two weights.

Source: https://github.com/arcee-ai/mergekit, release 0.1.5, merge_methods/nuslerp.py: t is the second
weight's share of both. Only weights whose sum is the same all over have a t of our form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from types import NoneType
from typing import Any

from fusion_slerp.recipes.mergekit_models import Part, parameters_of, slice_of
from fusion_slerp.recipes.recipe import Findings, join
from fusion_slerp.recipes.values import as_numbers
from fusion_slerp.settings.schedule import EVERYTHING

FLATTEN, ROW_WISE = "nuslerp_flatten", "nuslerp_row_wise"
LEAST_SUM = 1e-6
"""Weights that sum up to less count as equal."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A part of a weight: as an entry of t, but not only in [0, 1]."""

    pattern: str | None
    values: tuple[float, ...]


def nuslerp_options(
    given: Mapping[str, Any], parts: list[Part], models: Sequence[str], findings: Findings
) -> dict[str, Any]:
    """Returns `t`, `DOT_THRESHOLD`, and `slices` and `granularity` where the recipe asks for them."""
    parameters = parameters_of(given, "{weight: 0.5}", findings)
    if parameters is None:
        return {}
    findings.unknown_keys(parameters, ("weight", FLATTEN, ROW_WISE), "parameters")
    found = [_t(part, models, parameters, findings) for part in parts]
    options: dict[str, Any] = {"t": found[0], "DOT_THRESHOLD": 1.0}
    if parts[0].key:
        options["slices"] = [slice_of(part, models, {"t": t}) for part, t in zip(parts, found, strict=True)]
    findings.note("nuslerp has no base_model: type and tokenizer are by default those of the first model")
    granularity = _granularity(parameters, findings)
    return options | ({"granularity": granularity} if granularity else {})


def _granularity(parameters: Mapping[str, Any], findings: Findings) -> str | None:
    """What has an angle of its own, where it is not the whole tensor."""
    switches = parameters.get(FLATTEN, True), parameters.get(ROW_WISE, False)
    if not all(isinstance(switch, bool) for switch in switches):
        fix = f"set {FLATTEN}: true and {ROW_WISE}: false"
        findings.fault(f"parameters: {FLATTEN} and {ROW_WISE} are not switches", fix, found=switches)
        return None
    is_flat, is_row_wise = switches
    if is_flat:
        if is_row_wise:
            findings.note(
                f"parameters.{ROW_WISE}: has no effect in mergekit, nor here, unless {FLATTEN} is false"
            )
        return None
    # In mergekit the switch `row_wise` moves dimension 0 to the end, so that the vectors are the columns.
    return "column" if is_row_wise else "row"


def _t(part: Part, models: Sequence[str], everywhere: Mapping[str, Any], findings: Findings) -> Any:
    """b's share of the weights."""
    weights = {}
    for source in part.sources:
        findings.unknown_keys(source.parameters, ("weight",), join(source.key, "parameters"))
        levels = (
            (join(source.key, "parameters.weight"), source.parameters),
            (join(part.key, "parameters.weight"), part.parameters),
            ("parameters.weight", everywhere),
        )
        stated = [(key, level["weight"]) for key, level in levels if level.get("weight") is not None]
        if not stated:
            findings.fault(f"{levels[0][0]} is missing", f"set {levels[0][0]}: 0.5")
            return None
        key, value = stated[0]
        weights[source.model] = _weight(value, key, findings)
    a, b = (weights[model] for model in models)
    return None if a is None or b is None else _share(a, b, part.key, findings)


def _weight(value: Any, key: str, findings: Findings) -> list[_Entry] | None:
    """A weight's entries; None after a fault."""
    entries = value if isinstance(value, list) and any(isinstance(e, Mapping) for e in value) else [value]
    found = []
    for entry in entries:
        entry = entry if isinstance(entry, Mapping) else {"value": entry}
        numbers = as_numbers(entry.get("value"))
        numbers = numbers if isinstance(numbers, list) else [numbers]
        pattern = entry.get("filter")
        is_usable = numbers and all(type(n) in (int, float) and 0 <= n < inf for n in numbers)
        if not is_usable or not isinstance(pattern, (str, NoneType)) or entry.keys() - {"filter", "value"}:
            needed = "a number that is not negative, a list of them, or entries with filter and value"
            findings.fault(f"{key} is not usable", f"set {key}: 0.5", found=repr(value), needed=needed)
            return None
        found.append(_Entry(None if pattern == EVERYTHING else pattern, tuple(numbers)))
    return found


def _share(a: list[_Entry], b: list[_Entry], key: str, findings: Findings) -> Any:
    """b / (a + b), entry by entry."""
    forms = [[(entry.pattern, len(entry.values)) for entry in weight] for weight in (a, b)]
    pairs = [list(zip(x.values, y.values, strict=False)) for x, y in zip(a, b, strict=False)]
    if forms[0] != forms[1] or any(_spread([sum(pair) for pair in row]) > LEAST_SUM for row in pairs):
        needed = "the same filters and as many numbers for both, with one sum"
        fix = "run this recipe with mergekit, or state t with merge_method: slerp"
        headline = f"{join(key, 'weight')}: no t of our form follows from these weights"
        findings.fault(headline, fix, needed=needed)
        return None
    entries = []
    for (pattern, _), row in zip(forms[0], pairs, strict=True):
        values = [0.5 if u + v < LEAST_SUM else v / (u + v) for u, v in row]
        value = values[0] if len(values) == 1 else values
        entries.append({"value": value} if pattern is None else {"filter": pattern, "value": value})
    is_one = len(entries) == 1 and "filter" not in entries[0]
    return entries[0]["value"] if is_one else entries


def _spread(numbers: list[float]) -> float:
    return max(numbers) - min(numbers)
