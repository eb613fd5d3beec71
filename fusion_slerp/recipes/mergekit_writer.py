"""Writes a recipe in mergekit's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusion_slerp.recipes.hydra_form import dumped
from fusion_slerp.recipes.mergekit_t import in_one_form
from fusion_slerp.recipes.recipe import Findings, Recipe
from fusion_slerp.schedule import parse_schedule
from fusion_slerp.settings import settings_from

EXPRESSED = ("t", "slices", "dtype", "tokenizer", "tokens", "pad_vocab_to_multiple_of")
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
    default = settings_from({})
    for name, value in recipe.options.items():
        if name not in (*EXPRESSED, *NOT_ABOUT_THE_MERGE) and value != getattr(default, name):
            findings.fault(f"{name} has no form in mergekit", f"remove {name}", found=repr(value))
    slices = settings.slices or []
    parameters = {"t": _t(settings.t, "t", findings)}
    parts = [_slice(each, recipe, f"slices[{i}]", findings) for i, each in enumerate(slices)]
    findings.raise_faults()
    models = {"models": [{"model": recipe.a}, {"model": recipe.b}]}
    content = {
        "merge_method": "slerp",
        "base_model": recipe.a,
        **({"slices": parts} if parts else models),
        "parameters": parameters,
        **_dtype(settings.dtype),
        **_tokenizer(recipe, settings.tokens, settings.pad_vocab_to_multiple_of),
    }
    return _left_out(recipe.options) + dumped(content)


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


def _slice(given: Mapping[str, Any], recipe: Recipe, key: str, findings: Findings) -> dict[str, Any]:
    sources = [
        {"model": model, "layer_range": list(given[which])}
        for which, model in (("a", recipe.a), ("b", recipe.b))
    ]
    if given.get("t") is None:
        return {"sources": sources}
    return {"sources": sources, "parameters": {"t": _t(given["t"], f"{key}.t", findings)}}


def _dtype(dtype: str | None) -> dict[str, str]:
    if dtype is None:
        return {}
    wide = "float64" if dtype == "float64" else "float32"
    return {"dtype": wide} if dtype == wide else {"dtype": wide, "out_dtype": dtype}


def _tokenizer(recipe: Recipe, tokens: Any, multiple: int | None) -> dict[str, Any]:
    names = {"a": "base", "b": recipe.b}
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
