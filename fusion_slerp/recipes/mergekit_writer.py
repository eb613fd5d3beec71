"""Writes a recipe in mergekit's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusion_slerp.recipes.hydra_form import dumped
from fusion_slerp.recipes.mergekit_t import in_one_form
from fusion_slerp.recipes.nuslerp import FLATTEN, ROW_WISE
from fusion_slerp.recipes.recipe import Findings, Recipe
from fusion_slerp.settings.merge_settings import MergeSettings, settings_from
from fusion_slerp.settings.schedule import parse_schedule

EXPRESSED = ("t", "slices", "dtype", "tokenizer", "chat_template", "tokens", "pad_vocab_to_multiple_of")
OF_NUSLERP = ("DOT_THRESHOLD", "granularity")
NOT_ABOUT_THE_MERGE = (
    *("strict", "overwrite", "threads", "memory_budget", "direct_io", "show_pbar", "max_shard_size"),
)
"""Options that change how a merge is run, and not one of the child's values."""


def to_mergekit(recipe: Recipe) -> str:
    """Returns the YAML that `mergekit-yaml` runs.

    `dtype` becomes mergekit's `out_dtype`, and inputs are read as float32, so that nothing is rounded
    twice. How a merge is run (threads and the like) has no place in it and is listed in a comment.

    Raises:
        SettingsError: An option has no form in mergekit.
    """
    settings = settings_from(dict(recipe.options))
    findings = Findings("the recipe")
    is_nuslerp = settings.DOT_THRESHOLD == 1
    known = (*EXPRESSED, *NOT_ABOUT_THE_MERGE, *(OF_NUSLERP if is_nuslerp else ()))
    default = settings_from({})
    for name, value in recipe.options.items():
        if name not in known and value != getattr(default, name):
            findings.fault(f"{name} has no form in mergekit", f"remove {name}", found=repr(value))
    content = (_nuslerp if is_nuslerp else _slerp)(recipe, findings)
    findings.raise_faults()
    tokenizer = _tokenizer(recipe, settings, base=recipe.a if is_nuslerp else "base")
    template = {"chat_template": settings.chat_template} if settings.chat_template else {}
    written = {**content, **_dtype(settings.dtype), **tokenizer, **template}
    return _left_out(recipe.options) + dumped(written)


def _slerp(recipe: Recipe, findings: Findings) -> dict[str, Any]:
    t = _t(recipe.options.get("t", MergeSettings().t), "t", findings)
    slices = []
    for i, each in enumerate(recipe.options.get("slices") or []):
        part: dict[str, Any] = {"sources": _sources(recipe, each)}
        if each.get("t") is not None:
            part["parameters"] = {"t": _t(each["t"], f"slices[{i}].t", findings)}
        slices.append(part)
    form = {"slices": slices} if slices else {"models": _sources(recipe)}
    return {"merge_method": "slerp", "base_model": recipe.a, **form, "parameters": {"t": t}}


def _nuslerp(recipe: Recipe, findings: Findings) -> dict[str, Any]:
    """SLERP without DOT_THRESHOLD: in mergekit another method, with weights."""
    t = _t(recipe.options.get("t", MergeSettings().t), "t", findings)
    slices = [
        {"sources": _weighted(_sources(recipe, each), _t(each.get("t", t), f"slices[{i}].t", findings))}
        for i, each in enumerate(recipe.options.get("slices") or [])
    ]
    form = {"slices": slices} if slices else {"models": _weighted(_sources(recipe), t)}
    content = {"merge_method": "nuslerp", **form}
    granularity = recipe.options.get("granularity", "tensor")
    if granularity == "tensor":
        return content
    return {**content, "parameters": {FLATTEN: False, ROW_WISE: granularity == "column"}}


def _sources(recipe: Recipe, part: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The entries of both models, with their layers in a slice."""
    models = {"a": recipe.a, "b": recipe.b}
    if part is None:
        return [{"model": model} for model in models.values()]
    return [{"model": model, "layer_range": list(part[which])} for which, model in models.items()]


def _weighted(sources: list[dict[str, Any]], t: Any) -> list[dict[str, Any]]:
    """The entries with the weights 1 - t and t: their sum is 1 in floating point, too."""
    return [
        source | {"parameters": {"weight": weight}}
        for source, weight in zip(sources, (_rest(t), t), strict=True)
    ]


def _rest(t: Any) -> Any:
    if isinstance(t, Mapping):
        return {**t, "value": _rest(t["value"])}
    return [_rest(each) for each in t] if isinstance(t, (list, tuple)) else 1 - t


def _left_out(options: Mapping[str, Any]) -> str:
    found = [f"{name}={options[name]!r}" for name in NOT_ABOUT_THE_MERGE if name in options]
    return f"# Without a form in mergekit: {', '.join(found)}\n" if found else ""


def _t(value: Any, key: str, findings: Findings) -> Any:
    for i, entry in enumerate(parse_schedule(value).entries):
        if entry.matching != "filter":
            fix = "write it as a filter: a part of the name"
            headline = f"{key}[{i}]: a {entry.matching} has no form in mergekit"
            findings.fault(headline, fix, found=entry.pattern)
    return in_one_form(value)


def _dtype(dtype: str | None) -> dict[str, str]:
    if dtype is None:
        return {}
    wide = "float64" if dtype == "float64" else "float32"
    return {"dtype": wide} if dtype == wide else {"dtype": wide, "out_dtype": dtype}


def _tokenizer(recipe: Recipe, settings: MergeSettings, base: str) -> dict[str, Any]:
    tokens, multiple = settings.tokens, settings.pad_vocab_to_multiple_of
    names = {"a": base, "b": recipe.b}
    whose = recipe.options.get("tokenizer", "union")
    whose = names.get(whose, whose)
    if not tokens and multiple is None:
        return {"tokenizer_source": whose}
    section: dict[str, Any] = {"source": whose}
    if tokens:
        section["tokens"] = {token: _token(entry, recipe) for token, entry in tokens.items()}
    if multiple is not None:
        section["pad_to_multiple_of"] = multiple
    return {"tokenizer": section}


def _token(entry: Any, recipe: Recipe) -> dict[str, Any]:
    """The entry of a token with the models' names for a and b."""
    names = {"a": recipe.a, "b": recipe.b}
    entry = dict(entry) if isinstance(entry, Mapping) and "source" in entry else {"source": entry}
    source = entry["source"]
    if isinstance(source, Mapping) and "model" in source:
        entry["source"] = {**source, "model": names.get(source["model"], source["model"])}
    elif isinstance(source, str):
        entry["source"] = names.get(source, source)
    return entry
