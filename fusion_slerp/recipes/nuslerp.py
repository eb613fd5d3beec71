"""mergekit's nuslerp of two models: SLERP with a t that comes from two weights.

Source: https://github.com/arcee-ai/mergekit, release 0.1.5, merge_methods/nuslerp.py: t is the second
weight's share of their sum. Only weights with the same sum everywhere have a t of our form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from types import NoneType
from typing import Any

from fusion_slerp.recipes.mergekit_body import Body, Level, Part, slice_of
from fusion_slerp.recipes.mergekit_methods import FLATTEN, ROW_WISE, Counterpart
from fusion_slerp.recipes.mergekit_parameters import check_names
from fusion_slerp.recipes.mergekit_roles import Roles
from fusion_slerp.recipes.recipe import Findings, join
from fusion_slerp.recipes.values import as_numbers
from fusion_slerp.settings.schedule import EVERYTHING

LEAST_SUM = 1e-6
"""Weights with a smaller sum count as equal."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of a weight: like an entry of t, but not limited to [0, 1]."""

    pattern: str | None
    values: tuple[float, ...]


def nuslerp_options(body: Body, roles: Roles, how: Counterpart, findings: Findings) -> dict[str, Any]:
    """Returns `t`, `DOT_THRESHOLD`, and `slices` and `granularity` if the recipe has them."""
    check_names(body, roles, how, findings, more=(FLATTEN, ROW_WISE))
    own = [_t(part, roles, body, findings) for part in body.parts]
    options: dict[str, Any] = {"t": own[0], "DOT_THRESHOLD": 1.0}
    if body.has_slices:
        options["slices"] = [
            slice_of(part, roles.label_of, {"t": t}) for part, t in zip(body.parts, own, strict=True)
        ]
    granularity = _granularity(body, findings)
    return options | ({"granularity": granularity} if granularity else {})


def _granularity(body: Body, findings: Findings) -> str | None:
    """The vectors with an angle of their own; None for the whole tensor."""
    for part in body.parts:
        for name in (name for name in (FLATTEN, ROW_WISE) if name in part.level.parameters):
            fix = f"move it to parameters.{name}"
            headline = f"{part.level.key_of(name)}: a value for a single slice is not supported"
            findings.fault(headline, fix, found=part.level.parameters[name])
    level = Level(
        "", {name: value for level in reversed(body.levels) for name, value in level.parameters.items()}
    )
    switches = level.parameters.get(FLATTEN, True), level.parameters.get(ROW_WISE, False)
    if not all(isinstance(switch, bool) for switch in switches):
        fix = f"set {FLATTEN}: true and {ROW_WISE}: false"
        needed = "true or false"
        findings.fault(f"invalid parameters.{FLATTEN} or {ROW_WISE}", fix, found=switches, needed=needed)
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


def _t(part: Part, roles: Roles, body: Body, findings: Findings) -> Any:
    """b's share of the sum of the weights."""
    weights = {}
    for source in (source for source in part.sources if source.model != roles.base):
        levels = [source.level, *([part.level] if part.is_slice else []), *body.levels]
        stated = [level for level in levels if level.parameters.get("weight") is not None]
        if not stated:
            key = source.level.key_of("weight")
            findings.fault(f"{key} is missing", f"set {key}: 0.5")
            return None
        weights[source.model] = _weight(stated[0], findings)
    a, b = (weights[model] for model in roles.models)
    return None if a is None or b is None else _share(a, b, part, findings)


def _weight(level: Level, findings: Findings) -> list[_Entry] | None:
    """A weight's entries; None after a fault."""
    value, key = level.parameters["weight"], level.key_of("weight")
    entries = value if isinstance(value, list) and any(isinstance(e, Mapping) for e in value) else [value]
    read = []
    for entry in entries:
        entry = entry if isinstance(entry, Mapping) else {"value": entry}
        numbers = as_numbers(entry.get("value"))
        numbers = numbers if isinstance(numbers, list) else [numbers]
        pattern = entry.get("filter")
        is_usable = numbers and all(type(n) in (int, float) and 0 <= n < inf for n in numbers)
        if not is_usable or not isinstance(pattern, (str, NoneType)) or entry.keys() - {"filter", "value"}:
            needed = "a number that is not negative, a list of them, or entries with filter and value"
            findings.fault(f"invalid {key}", f"set {key}: 0.5", found=repr(value), needed=needed)
            return None
        read.append(_Entry(None if pattern == EVERYTHING else pattern, tuple(numbers)))
    return read


def _share(a: list[_Entry], b: list[_Entry], part: Part, findings: Findings) -> Any:
    """b / (a + b), entry by entry."""
    forms = [[(entry.pattern, len(entry.values)) for entry in weight] for weight in (a, b)]
    pairs = [list(zip(x.values, y.values, strict=False)) for x, y in zip(a, b, strict=False)]
    if forms[0] != forms[1] or any(_spread([sum(pair) for pair in row]) > LEAST_SUM for row in pairs):
        needed = "the same filters and equally many numbers for both models, with one sum everywhere"
        fix = "run this recipe with mergekit, or use t with merge_method: slerp"
        key = join(part.key if part.is_slice else "", "weight")
        headline = f"{key}: no t corresponds to these weights"
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
