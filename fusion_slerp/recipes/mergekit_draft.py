"""A recipe in mergekit's form while it is written: its models, and the parameters of each level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field
from typing import Any

from fusion_slerp.options import declaration, declared
from fusion_slerp.recipes.layer_filters import check_filters
from fusion_slerp.recipes.mergekit_methods import FLATTEN, ROW_WISE, Counterpart, Parameter
from fusion_slerp.recipes.recipe import Findings, Recipe
from fusion_slerp.recipes.values import entries_of, in_one_form, is_by_label, joined
from fusion_slerp.settings.labels import BASE

Entries = dict[str, dict[str, Any]]
"""The models' entries by label."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A recipe that is being written.

    Attributes:
        recipe: The recipe.
        entries: The models' entries of each slice, or of the whole recipe.
        of_slices: The parameters of each slice.
        parameters: Those of the whole recipe.
        findings: Gets what mergekit cannot express.
    """

    recipe: Recipe
    entries: list[Entries]
    of_slices: list[dict[str, Any]]
    findings: Findings
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def slices(self) -> list[Mapping[str, Any]]:
        """The recipe's slices."""
        return list(self.recipe.options.get("slices") or [])

    def content(self) -> dict[str, Any]:
        """Returns the part of the recipe that holds models and parameters."""
        if self.of_slices:
            more = [{"parameters": each} if each else {} for each in self.of_slices]
            pairs = zip(self.entries, more, strict=True)
            slices = [{"sources": list(entries.values()), **own} for entries, own in pairs]
            form: dict[str, Any] = {"slices": slices}
        else:
            form = {"models": [each for label, each in self.entries[0].items() if label != BASE]}
        return {**form, **({"parameters": self.parameters} if self.parameters else {})}


def new_draft(recipe: Recipe, findings: Findings) -> Draft:
    """Returns a draft with the models and without parameters."""
    slices = recipe.options.get("slices") or []
    if not slices:
        entries = {label: {"model": model} for label, model in recipe.named.items()}
        return Draft(recipe, [entries], [], findings)
    entries_of_slices = [
        {
            label: {"model": model, "layer_range": list(part[label])}
            for label, model in recipe.named.items()
            if label in part
        }
        for part in slices
    ]
    return Draft(recipe, entries_of_slices, [{} for _ in slices], findings)


def write_parameters(draft: Draft, how: Counterpart) -> None:
    """Writes the method's options."""
    fields = declared(how.method.options)
    for parameter in how.parameters:
        each = fields[parameter.option]
        if not declaration(each).is_schedule:
            _write_shared(draft, parameter, each)
        elif declaration(each).is_per_model:
            _write_per_model(draft, parameter, each)
        else:
            _write_schedule(draft, parameter, each)


def _write_shared(draft: Draft, parameter: Parameter, each: Field[Any]) -> None:
    """Writes an option without a schedule where it is stated, or mergekit has another default."""
    options = draft.recipe.options
    value = options.get(parameter.option, each.default)
    if parameter.option in options or value != parameter.default:
        theirs = {ours: given for given, ours in parameter.values.items()}
        draft.parameters[parameter.name] = theirs.get(value, value)


def _write_schedule(draft: Draft, parameter: Parameter, each: Field[Any]) -> None:
    """Writes an option like t: of the whole recipe, and of the slices that have their own."""
    option = parameter.option
    for i, part in enumerate(draft.slices):
        if part.get(option) is not None:
            own = schedule(part[option], f"slices[{i}].{option}", each, draft.findings)
            draft.of_slices[i][parameter.name] = own
    value = draft.recipe.options.get(option, each.default)
    draft.parameters[parameter.name] = schedule(value, option, each, draft.findings)


def _write_per_model(draft: Draft, parameter: Parameter, each: Field[Any]) -> None:
    """Writes an option that each model may have for itself: under the models, or one value for all."""
    option, options = parameter.option, draft.recipe.options
    is_stated = option in options or any(part.get(option) is not None for part in draft.slices)
    if not is_stated and each.default == parameter.default:
        return
    value = options.get(option, each.default)
    is_own = is_by_label(value, each)
    if not is_own:
        draft.parameters[parameter.name] = schedule(value, option, each, draft.findings)
    if draft.slices:
        _write_in_slices(draft, parameter, each)
    elif is_own:
        for label, entry in draft.entries[0].items():
            own = schedule(value.get(label, each.default), option, each, draft.findings)
            write_own(entry, parameter, own if label != BASE else None)


def _write_in_slices(draft: Draft, parameter: Parameter, each: Field[Any]) -> None:
    """In mergekit a model has parameters with its slices: those of the whole merge go with each."""
    option, first = parameter.option, 0
    value = draft.recipe.options.get(option, each.default)
    is_own = is_by_label(value, each)
    for i, (part, entries) in enumerate(zip(draft.slices, draft.entries, strict=True)):
        given, key = part.get(option), f"slices[{i}].{option}"
        for label, entry in entries.items():
            if label == BASE:
                continue
            own = given.get(label) if given is not None and is_by_label(given, each) else given
            whole = value.get(label, each.default) if is_own else None
            levels = [schedule(level, key, each, draft.findings) for level in (own, whole)]
            write_own(entry, parameter, joined(levels, each))
            if entry["layer_range"][0] != first:
                check_filters([*levels, None if is_own else value], key, each, draft.findings)
        start, end = next(iter(entries.values()))["layer_range"]
        first += end - start


def write_nuslerp(draft: Draft, how: Counterpart) -> None:
    """Writes t as two weights that add up to 1, and the granularity as nuslerp's switches."""
    (parameter,) = how.parameters
    option, options = parameter.option, draft.recipe.options
    each = declared(how.method.options)[option]
    whole = schedule(options.get(option, each.default), option, each, draft.findings)
    for i, entries in enumerate(draft.entries):
        own = draft.slices[i].get(option) if draft.slices else None
        t = whole if own is None else schedule(own, f"slices[{i}].{option}", each, draft.findings)
        for label, weight in (("a", _rest(t)), ("b", t)):
            write_own(entries[label], parameter, weight)
    granularity = options.get("granularity", "tensor")
    if granularity != "tensor":
        draft.parameters.update({FLATTEN: False, ROW_WISE: granularity == "column"})


def _rest(t: Any) -> Any:
    """1 - t: both add up to 1 in floating point as well."""
    if isinstance(t, Mapping):
        return {**t, "value": _rest(t["value"])}
    return [_rest(each) for each in t] if isinstance(t, (list, tuple)) else 1 - t


def write_own(entry: dict[str, Any], parameter: Parameter, value: Any) -> None:
    """Writes a model's own parameter; None leaves it out."""
    if value is not None:
        entry.setdefault("parameters", {})[parameter.name] = value


def schedule(value: Any, key: str, each: Field[Any], findings: Findings) -> Any:
    """Returns a schedule in mergekit's form; None for None."""
    if value is None:
        return None
    for i, entry in enumerate(entries_of(value, each)):
        if entry.matching != "filter":
            fix = "write it as a filter, which is a part of the name"
            headline = f"{key}[{i}]: a {entry.matching} has no equivalent in mergekit"
            findings.fault(headline, fix, found=entry.pattern)
    return in_one_form(value)
