"""Writes a recipe in mergekit's form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field
from typing import Any

from fusion_slerp.methods.linear import LINEAR
from fusion_slerp.methods.slerp import SLERP
from fusion_slerp.options import declaration
from fusion_slerp.recipes.hydra_form import dumped
from fusion_slerp.recipes.linear import WEIGHT, check_filters
from fusion_slerp.recipes.mergekit_t import T
from fusion_slerp.recipes.nuslerp import FLATTEN, ROW_WISE
from fusion_slerp.recipes.recipe import Findings, Recipe, refuse_base
from fusion_slerp.recipes.values import entries_of, in_one_form, is_by_label, joined
from fusion_slerp.settings.merge_settings import MergeSettings, option_fields

EXPRESSED = ("method", "slices", "dtype", "tokenizer", "chat_template", "tokens", "pad_vocab_to_multiple_of")


def not_about_the_merge() -> list[str]:
    """The options that change how a merge runs, but none of the merged model's values."""
    own = [name for name, each in option_fields().items() if not declaration(each).changes_child]
    return [*own, "max_shard_size"]


def to_mergekit(recipe: Recipe) -> str:
    """Returns the YAML that `mergekit-yaml` runs.

    `dtype` becomes mergekit's `out_dtype`, and inputs are read as float32, so that nothing is rounded
    twice. Options about how a merge runs, such as threads, have no equivalent and are listed in a comment.

    Raises:
        SettingsError: An option has no equivalent in mergekit.
    """
    settings = recipe.settings
    findings = Findings("the recipe")
    refuse_base(recipe, findings)
    form, own = _form(settings)
    known = (*EXPRESSED, *own, *not_about_the_merge())
    declarations = option_fields()
    for name, value in recipe.options.items():
        if name not in known and value != declarations[name].default:
            findings.fault(f"{name} has no equivalent in mergekit", f"remove {name}", found=repr(value))
    content = form(recipe, findings)
    findings.raise_faults()
    template = {"chat_template": settings.chat_template} if settings.chat_template else {}
    base = "base" if "base_model" in content else recipe.models[0]
    written = {**content, **_dtype(settings.dtype), **_tokenizer(recipe, settings, base), **template}
    return _left_out(recipe.options) + dumped(written)


def _form(settings: MergeSettings) -> tuple[Any, tuple[str, ...]]:
    """The function that writes the method's part, and the options that it covers."""
    if settings.how is LINEAR:
        return _linear, ("weight", "normalize")
    assert settings.how is SLERP, settings.method
    return (_nuslerp, ("t", "DOT_THRESHOLD", "granularity")) if _is_nuslerp(settings) else (_slerp, ("t",))


def _is_nuslerp(settings: MergeSettings) -> bool:
    """Whether there is no threshold, which is another method in mergekit."""
    return settings.parameters.DOT_THRESHOLD == 1


def _slerp(recipe: Recipe, findings: Findings) -> dict[str, Any]:
    t = _t(recipe, findings)
    slices = []
    for i, each in enumerate(recipe.options.get("slices") or []):
        part: dict[str, Any] = {"sources": list(_sources(recipe, each).values())}
        if each.get("t") is not None:
            part["parameters"] = {"t": _schedule(each["t"], f"slices[{i}].t", T, findings)}
        slices.append(part)
    form = {"slices": slices} if slices else {"models": list(_sources(recipe).values())}
    return {"merge_method": "slerp", "base_model": recipe.models[0], **form, "parameters": {"t": t}}


def _nuslerp(recipe: Recipe, findings: Findings) -> dict[str, Any]:
    """SLERP without DOT_THRESHOLD: mergekit's nuslerp, with weights."""
    t = _t(recipe, findings)
    slices = []
    for i, each in enumerate(recipe.options.get("slices") or []):
        own = _schedule(each.get("t", t), f"slices[{i}].t", T, findings)
        slices.append({"sources": _with_weights(_sources(recipe, each), {"a": _rest(own), "b": own})})
    form = {"slices": slices}
    if not slices:
        form = {"models": _with_weights(_sources(recipe), {"a": _rest(t), "b": t})}
    content = {"merge_method": "nuslerp", **form}
    granularity = recipe.options.get("granularity", "tensor")
    if granularity == "tensor":
        return content
    return {**content, "parameters": {FLATTEN: False, ROW_WISE: granularity == "column"}}


def _linear(recipe: Recipe, findings: Findings) -> dict[str, Any]:
    """Each model's weight in its own parameters, or one weight in those of the whole recipe."""
    weight = recipe.options.get("weight", WEIGHT.default)
    is_own = is_by_label(weight, WEIGHT)
    whole = {label: _of(weight, label) if is_own else None for label in recipe.named}
    parameters: dict[str, Any] = {} if is_own else {"weight": _schedule(weight, "weight", WEIGHT, findings)}
    if "normalize" in recipe.options:
        parameters["normalize"] = recipe.options["normalize"]
    slices, first = [], 0
    for i, each in enumerate(recipe.options.get("slices") or []):
        key, sources, weights = f"slices[{i}].weight", _sources(recipe, each), {}
        for label, source in sources.items():
            own = _of(each["weight"], label, None) if each.get("weight") is not None else None
            levels = [_schedule(level, key, WEIGHT, findings) for level in (own, whole[label])]
            weights[label] = joined(levels, WEIGHT)
            if source["layer_range"][0] != first:
                check_filters([*levels, None if is_own else weight], key, findings)
        slices.append({"sources": _with_weights(sources, weights)})
        start, end = next(iter(sources.values()))["layer_range"]
        first += end - start
    form = {"slices": slices}
    if not slices:
        weights = {label: _schedule(own, "weight", WEIGHT, findings) for label, own in whole.items()}
        form = {"models": _with_weights(_sources(recipe), weights)}
    content = {"merge_method": "linear", "base_model": recipe.models[0], **form}
    return {**content, "parameters": parameters} if parameters else content


def _of(weight: Any, label: str, default: Any = WEIGHT.default) -> Any:
    """The weight of one model."""
    return weight.get(label, default) if is_by_label(weight, WEIGHT) else weight


def _sources(recipe: Recipe, part: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """The models' entries by label, with their layers in a slice."""
    if part is None:
        return {label: {"model": model} for label, model in recipe.named.items()}
    return {
        label: {"model": model, "layer_range": list(part[label])}
        for label, model in recipe.named.items()
        if label in part
    }


def _with_weights(sources: Mapping[str, dict[str, Any]], weights: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The entries with their own weights."""
    return [
        source if weights[label] is None else source | {"parameters": {"weight": weights[label]}}
        for label, source in sources.items()
    ]


def _rest(t: Any) -> Any:
    """1 - t: both add up to 1 in floating point as well."""
    if isinstance(t, Mapping):
        return {**t, "value": _rest(t["value"])}
    return [_rest(each) for each in t] if isinstance(t, (list, tuple)) else 1 - t


def _left_out(options: Mapping[str, Any]) -> str:
    left_out = [f"{name}={options[name]!r}" for name in not_about_the_merge() if name in options]
    return f"# Without an equivalent in mergekit: {', '.join(left_out)}\n" if left_out else ""


def _t(recipe: Recipe, findings: Findings) -> Any:
    return _schedule(recipe.options.get("t", T.default), "t", T, findings)


def _schedule(value: Any, key: str, each: Field[Any], findings: Findings) -> Any:
    """A schedule in mergekit's form; None for None."""
    if value is None:
        return None
    for i, entry in enumerate(entries_of(value, each)):
        if entry.matching != "filter":
            fix = "write it as a filter, which is a part of the name"
            headline = f"{key}[{i}]: a {entry.matching} has no equivalent in mergekit"
            findings.fault(headline, fix, found=entry.pattern)
    return in_one_form(value)


def _dtype(dtype: str | None) -> dict[str, str]:
    if dtype is None:
        return {}
    wide = "float64" if dtype == "float64" else "float32"
    return {"dtype": wide} if dtype == wide else {"dtype": wide, "out_dtype": dtype}


def _tokenizer(recipe: Recipe, settings: MergeSettings, base: str) -> dict[str, Any]:
    tokens, multiple = settings.tokens, settings.pad_vocab_to_multiple_of
    whose = recipe.options.get("tokenizer", "union")
    whose = {**recipe.named, "a": base}.get(whose, whose)
    if not tokens and multiple is None:
        return {"tokenizer_source": whose}
    section: dict[str, Any] = {"source": whose}
    if tokens:
        section["tokens"] = {token: _token(entry, recipe) for token, entry in tokens.items()}
    if multiple is not None:
        section["pad_to_multiple_of"] = multiple
    return {"tokenizer": section}


def _token(entry: Any, recipe: Recipe) -> dict[str, Any]:
    """A token's entry with the models' names in place of their labels."""
    names = recipe.named
    entry = dict(entry) if isinstance(entry, Mapping) and "source" in entry else {"source": entry}
    source = entry["source"]
    if isinstance(source, Mapping) and "model" in source:
        entry["source"] = {**source, "model": names.get(source["model"], source["model"])}
    elif isinstance(source, str):
        entry["source"] = names.get(source, source)
    return entry
