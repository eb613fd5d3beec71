"""mergekit's linear: a weighted average of any number of models.

Source: https://github.com/arcee-ai/mergekit, release 0.1.5, merge_methods/linear.py and
parameter_resolver.py: a weight is looked up in the model's parameters, then the slice's, then the whole
recipe's, by the filters of each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field
from typing import Any

from fusion_slerp.methods.linear import LINEAR, LinearOptions
from fusion_slerp.options import declared
from fusion_slerp.recipes.mergekit_models import Part, Source, model_name, parameters_of, slice_of
from fusion_slerp.recipes.recipe import Findings, join
from fusion_slerp.recipes.values import checked, entries_of, is_for_all, joined
from fusion_slerp.settings.labels import labels

WEIGHT: Field[Any] = declared(LinearOptions)["weight"]

WITHOUT_EFFECT = (
    *("t", "embed_slerp", "density", "rescale", "lambda", "int8_mask", "gamma", "epsilon", "filter_wise"),
    *("nuslerp_flatten", "nuslerp_row_wise"),
)
"""Parameters that mergekit's linear ignores; other methods read them, or older versions did."""

_NUMBER = re.compile(r"(?:^|\.)\d+(?:\.|$)")
"""A part of a filter that may be the number of a layer."""


def linear_models(given: Mapping[str, Any], parts: list[Part], findings: Findings) -> tuple[str, ...] | None:
    """Returns models a, b, c, ...: the base comes first; the merged model gets its config and tokenizer."""
    before = len(findings.faults)
    base = model_name(given["base_model"], "base_model", findings) if given.get("base_model") else None
    named = list(dict.fromkeys(model for part in parts for model in part.models))
    for part in parts:
        twice = [model for model in dict.fromkeys(part.models) if part.models.count(model) > 1]
        if twice:
            key = join(part.key, "sources") if part.key else "models"
            findings.fault(f"{key} names one model twice", "name it once, with one weight", found=twice[0])
        if part.base:
            findings.note(f"{join(part.key, 'base_model')}: has no effect in mergekit's linear, nor here")
    if base is not None and base not in named:
        fix = "remove base_model, or list it with a weight among the models"
        needed = "one of the models: mergekit's linear has no weight for any other"
        findings.fault("base_model is not one of the models", fix, found=base, needed=needed)
    if base is None:
        findings.note(
            "linear without base_model: config, types and tokenizer are by default the first model's"
        )
    return tuple(dict.fromkeys([base or named[0], *named])) if len(findings.faults) == before else None


def linear_options(
    given: Mapping[str, Any], parts: list[Part], models: Sequence[str], findings: Findings
) -> dict[str, Any]:
    """Returns `method`, `weight`, and `slices` and `normalize` if the recipe has them."""
    parameters = parameters_of(given, "{weight: 0.5}", findings)
    if parameters is None:
        return {}
    _check_keys(parameters, "parameters", findings)
    everywhere = _read(parameters, "parameters", findings)
    own = [_of_sources(part, everywhere, findings) for part in parts]
    options: dict[str, Any] = {"method": LINEAR.name}
    if parts[0].key:
        options |= {} if everywhere is None else {"weight": everywhere}
        options["slices"] = _slices(parts, models, own)
        _check_names(parts, own, everywhere, findings)
    elif any(weight is not None for weight in own[0].values()):
        label = dict(zip(models, labels(len(models)), strict=True))
        options["weight"] = {
            label[model]: joined([weight, everywhere], WEIGHT) for model, weight in own[0].items()
        }
    else:
        options["weight"] = everywhere
    normalize = _normalize(parameters, parts, findings)
    return options if normalize is None else options | {"normalize": normalize}


Weights = dict[str, Any]
"""A weight by model; None for a model without its own."""


def _of_sources(part: Part, everywhere: Any, findings: Findings) -> Weights:
    """The weights of a part's models, without those of the whole recipe."""
    key = join(part.key, "parameters")
    _check_keys(part.parameters, key, findings)
    of_part = _read(part.parameters, key, findings)
    weights: Weights = {}
    for source in part.sources:
        own = _of_source(source, findings)
        levels = [own, of_part, everywhere]
        weights[source.model] = joined(levels[:2], WEIGHT)
        if all(level is None for level in levels):
            if not findings.faults:
                where = join(source.key, "parameters.weight")
                findings.fault(f"{where} is missing", f"set {where}: 1.0")
        elif not any(level is not None and is_for_all(level, WEIGHT) for level in levels):
            findings.note("weight: no entry covers every name; mergekit stops at a tensor without a match")
    return weights


def _of_source(source: Source, findings: Findings) -> Any:
    key = join(source.key, "parameters")
    findings.note_without_effect(source.parameters, (*WITHOUT_EFFECT, "normalize"), key, "linear")
    rest = [name for name in source.parameters if name not in (*WITHOUT_EFFECT, "normalize")]
    findings.unknown_keys(dict.fromkeys(rest), ("weight",), key)
    return _read(source.parameters, key, findings)


def _check_keys(parameters: Mapping[str, Any], key: str, findings: Findings) -> None:
    findings.note_without_effect(parameters, WITHOUT_EFFECT, key, "linear")
    rest = [name for name in parameters if name not in WITHOUT_EFFECT]
    findings.unknown_keys(dict.fromkeys(rest), ("weight", "normalize"), key)


def _read(parameters: Mapping[str, Any], key: str, findings: Findings) -> Any:
    value = parameters.get("weight")
    return None if value is None else checked(value, join(key, "weight"), WEIGHT, findings)


def _slices(parts: Sequence[Part], models: Sequence[str], own: Sequence[Weights]) -> list[dict[str, Any]]:
    label = dict(zip(models, labels(len(models)), strict=True))
    slices = []
    for part, weights in zip(parts, own, strict=True):
        stated = {label[model]: weight for model, weight in weights.items() if weight is not None}
        slices.append(slice_of(part, models, {"weight": stated or None}))
    return slices


def _check_names(parts: Sequence[Part], own: Sequence[Weights], everywhere: Any, findings: Findings) -> None:
    """Refuses filters that select other layers in mergekit, which uses the names in each model."""
    first = 0
    for part, weights in zip(parts, own, strict=True):
        for source in part.sources:
            if source.layers and source.layers[0] != first:
                key = join(source.key, "parameters.weight")
                check_filters([weights[source.model], everywhere], key, findings)
        start, end = part.sources[0].layers or (0, 0)
        first += end - start


def check_filters(levels: Sequence[Any], key: str, findings: Findings) -> None:
    """Refuses weights with a filter that may contain a layer's number, where layers are renumbered."""
    for pattern in _patterns(levels):
        if _NUMBER.search(pattern):
            fix = "leave the layer's number out of the filter, or give the slice a weight of its own"
            needed = "filters without numbers: mergekit matches each model's names, here the merged model's"
            headline = f"{key}: a filter that selects other layers in mergekit"
            findings.fault(headline, fix, found=pattern, needed=needed)
            return


def _patterns(levels: Sequence[Any]) -> Iterator[str]:
    for level in levels:
        for entry in () if level is None else entries_of(level, WEIGHT):
            if entry.pattern is not None:
                yield entry.pattern


def _normalize(parameters: Mapping[str, Any], parts: Sequence[Part], findings: Findings) -> bool | None:
    """Whether the weights are divided by their sum; None if the recipe leaves that open."""
    whole = _switch(parameters.get("normalize"), "parameters.normalize", findings)
    for part in parts:
        key = join(part.key, "parameters.normalize")
        own = _switch(part.parameters.get("normalize"), key, findings)
        if own is not None and own != (True if whole is None else whole):
            fix = f"set parameters.normalize: {str(own).lower()} for the whole recipe"
            findings.fault(f"{key}: a value for a single slice is not supported", fix, found=own)
    return whole


def _switch(value: Any, key: str, findings: Findings) -> bool | None:
    if value is None or isinstance(value, (bool, int, float)):
        return None if value is None else bool(value)
    findings.fault(f"invalid {key}", f"set {key}: true", found=repr(value), needed="true or false")
    return None
