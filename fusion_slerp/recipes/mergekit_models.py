"""The models, layers and base of a recipe in mergekit's form."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion_slerp.errors import listed
from fusion_slerp.recipes.recipe import Findings, join
from fusion_slerp.settings.labels import labels
from fusion_slerp.sources.conversions import merging


@dataclass(frozen=True, slots=True)
class Source:
    """A model in a part of the merged model.

    Attributes:
        key: Its key in the recipe.
        model: Its path or Hub id, with `@revision` if it has one.
        layers: First layer, and one past the last; None for all.
        parameters: Its own parameters.
    """

    key: str
    model: str
    layers: tuple[int, int] | None
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """Layers of the merged model: a slice, or all of them if the recipe has `models`.

    Attributes:
        key: Of the slice; empty for `models`.
        sources: The models that it is made from.
        base: Its own base_model; None if it has none.
        parameters: Its own parameters.
    """

    key: str
    sources: tuple[Source, ...]
    base: str | None
    parameters: Mapping[str, Any]

    @property
    def models(self) -> list[str]:
        """Its models, in the order of the recipe."""
        return [source.model for source in self.sources]


def parts_of(given: Mapping[str, Any], findings: Findings) -> list[Part]:
    """Returns the parts that `models` or `slices` describe; an empty list if they could not be read."""
    forms = [key for key in ("models", "slices", "modules") if given.get(key)]
    if "modules" in forms:
        fix = "if there is one module, move its models or slices to the top of the recipe"
        findings.fault("modules is not supported", fix, needed="models or slices: the layers of one model")
        return []
    if len(forms) != 1:
        headline = "models and slices exclude each other" if forms else "the recipe names no models"
        fix = "remove one of them" if forms else "list the models: [{model: FOLDER}, {model: FOLDER}]"
        findings.fault(headline, fix, needed="either models or slices")
        return []
    key = forms[0]
    known = ("model", "parameters") if key == "models" else ("sources", "base_model", "parameters")
    entries = [
        (name, each)
        for name, each in _entries(given[key], key, findings)
        if _is_mapping(each, name, findings)
    ]
    for name, each in entries:
        findings.unknown_keys(each, (*known, "residual_weight") if key == "slices" else known, name)
    if key == "slices":
        parts = [_slice(each, name, findings) for name, each in entries]
        return [part for part in parts if part is not None]
    sources = [_source(each, name, findings, has_layers=False) for name, each in entries]
    return (
        [Part("", tuple(source for source in sources if source), None, {})]
        if sources and all(sources)
        else []
    )


def two_models(given: Mapping[str, Any], parts: list[Part], findings: Findings) -> tuple[str, str] | None:
    """Returns models a and b of a recipe: a is the base, or the first model if there is no base."""
    base = model_name(given["base_model"], "base_model", findings) if given.get("base_model") else None
    if given["merge_method"] == "nuslerp":
        if base or any(part.base for part in parts):
            fix = "remove base_model; the models themselves are then merged"
            findings.fault("base_model: nuslerp on differences from a base is not supported", fix)
        first = parts[0].models[0]
    else:
        first = base or _common_base(parts, findings)
    if first is None or ("slices" in given and not _pairs_fit(parts, base, findings)):
        return None
    named = [model for part in parts for model in part.models]
    models = dict.fromkeys([first, *named])
    if len(models) != 2 or ("models" in given and len(named) > len(set(named))):
        models = list(models) if len(models) != 2 else named if first in named else [first, *named]
        found, fix = listed(models), "name two models, each with the same spelling everywhere"
        findings.fault(
            f"a merge has 2 models, not {len(models)}", fix, found=found, needed="a base and one other"
        )
        return None
    a, b = models
    return a, b


def _common_base(parts: list[Part], findings: Findings) -> str | None:
    bases = {part.base for part in parts}
    base = bases.pop() if len(bases) == 1 else None
    if base is None:
        example = parts[0].models[0] if parts[0].models else "NAME"
        findings.fault(
            "base_model is missing", f"set base_model: {example}", needed="the model that is t = 0"
        )
    return base


def _pairs_fit(parts: list[Part], base: str | None, findings: Findings) -> bool:
    """Whether every slice is made from two models, one of which is its base if it has one."""
    before = len(findings.faults)
    for part in parts:
        key = join(part.key, "sources")
        if len(part.sources) != 2:
            found, fix = f"{len(part.sources)} models", "name two models with a layer_range each"
            findings.fault(f"{key} is not a pair", fix, found=found, needed="two models")
        elif part.models[0] == part.models[1]:
            findings.fault(f"{key} names one model twice", "name two models", found=part.models[0])
        elif (part.base or base or part.models[0]) not in part.models:
            fix = f"name {part.base or base} there, or correct base_model: the spelling must be the same"
            findings.fault(f"{key} lacks the base_model", fix, found=listed(part.models))
    return len(findings.faults) == before


def _slice(given: Mapping[str, Any], key: str, findings: Findings) -> Part | None:
    if given.get("residual_weight") is not None:
        findings.note(f"{join(key, 'residual_weight')}: has no effect in mergekit, nor here")
    before = len(findings.faults)
    sources = [
        _source(each, name, findings, has_layers=True)
        for name, each in _entries(given.get("sources"), join(key, "sources"), findings)
    ]
    base = given.get("base_model")
    base = model_name(base, join(key, "base_model"), findings) if base else None
    parameters = _parameters(given, key, findings)
    if len(findings.faults) > before or not all(sources):
        return None
    read = tuple(source for source in sources if source)
    counts = [source.layers[1] - source.layers[0] for source in read if source.layers]
    if len(set(counts)) > 1:
        found = ", ".join(f"{n} of {source.model}" for n, source in zip(counts, read, strict=True))
        headline = f"{join(key, 'sources')} differ in their number of layers"
        findings.fault(headline, "give every layer_range of a slice the same length", found=found)
    return Part(key, read, base, parameters)


def _source(given: Any, key: str, findings: Findings, *, has_layers: bool) -> Source | None:
    if not _is_mapping(given, key, findings):
        return None
    if has_layers:
        findings.unknown_keys(given, ("model", "layer_range", "parameters"), key)
    model = model_name(given.get("model"), join(key, "model"), findings)
    parameters = _parameters(given, key, findings)
    layers = _range(given.get("layer_range"), join(key, "layer_range"), findings) if has_layers else None
    if model is None or (has_layers and layers is None):
        return None
    return Source(key, model, layers, parameters)


def _range(value: Any, key: str, findings: Findings) -> tuple[int, int] | None:
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(type(i) is int for i in value)
    if is_pair and 0 <= value[0] <= value[1]:
        return value[0], value[1]
    needed = "[first layer, one past the last], counted from 0"
    findings.fault(f"{key} is not a range of layers", f"set {key}: [0, 32]", found=repr(value), needed=needed)
    return None


def parameters_of(given: Mapping[str, Any], example: str, findings: Findings) -> Mapping[str, Any] | None:
    """Returns the parameters of the whole recipe; None after a fault."""
    parameters = given.get("parameters") or {}
    if isinstance(parameters, Mapping):
        return parameters
    findings.fault("parameters is not a mapping", f"set parameters: {example}", found=repr(parameters))
    return None


def slice_of(part: Part, models: Sequence[str], own: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an entry of our `slices`.

    Args:
        part: The slice.
        models: Models a, b, c, ...
        own: Its own options of the method; options that are None are left out.
    """
    layers = {source.model: list(source.layers or ()) for source in part.sources}
    ranges = {
        label: layers[model]
        for label, model in zip(labels(len(models)), models, strict=True)
        if model in layers
    }
    return ranges | {name: value for name, value in own.items() if value is not None}


def model_name(value: Any, key: str, findings: Findings) -> str | None:
    """Returns the path or Hub id that a recipe names, with `@revision`; None after a fault."""
    if isinstance(value, Mapping):
        findings.unknown_keys(value, ("model", "lora", "override_architecture"), key)
        if value.get("lora"):
            _lora(join(key, "lora"), value.get("model"), value["lora"], value["lora"], findings)
            return None
        if value.get("override_architecture"):
            headline = f"{join(key, 'override_architecture')} is not supported"
            fix = "remove it: tensors are matched by name, whatever the architecture"
            findings.fault(headline, fix, found=value["override_architecture"])
            return None
        value = value.get("model")
    if isinstance(value, Mapping):
        findings.unknown_keys(value, ("path", "revision"), key)
        path, revision = value.get("path"), value.get("revision")
        value = f"{path}@{revision}" if path and revision else path
    if not isinstance(value, str) or not value.strip():
        findings.fault(f"{key} is not a model", f"set {key}: FOLDER, or a Hub id", found=repr(value))
        return None
    if "+" in value:
        base, _, lora = value.partition("+")
        _lora(f"{key}: a LoRA, which mergekit reads after the +,", base, lora, value, findings)
        return None
    if value.count("@") > 1:
        findings.fault(f"{key} has more than one @", "write path@revision", found=value)
        return None
    return value


def _lora(what: str, base: object, lora: object, value: object, findings: Findings) -> None:
    """Reports a model with an adapter, and how to merge the two."""
    base, lora = (each.get("path") if isinstance(each, Mapping) else each for each in (base, lora))
    folders = [Path(str(each)) if os.path.isdir(str(each)) else str(each) for each in (lora, base)]
    command = merging(*folders)
    fix = f"merge the adapter into its model first, and name the result (needs `pip install peft`): {command}"
    findings.fault(f"{what} is not supported", fix, found=value)


def _parameters(given: Mapping[str, Any], key: str, findings: Findings) -> Mapping[str, Any]:
    value = given.get("parameters") or {}
    return value if _is_mapping(value, join(key, "parameters"), findings) else {}


def _entries(value: Any, key: str, findings: Findings) -> list[tuple[str, Any]]:
    if isinstance(value, (list, tuple)) and value:
        return [(f"{key}[{i}]", each) for i, each in enumerate(value)]
    findings.fault(f"{key} is not a list", f"list the entries of {key}, each after a dash", found=repr(value))
    return []


def _is_mapping(value: Any, key: str, findings: Findings) -> bool:
    if isinstance(value, Mapping):
        return True
    findings.fault(f"{key} is not a mapping", "write it as NAME: VALUE", found=repr(value))
    return False
