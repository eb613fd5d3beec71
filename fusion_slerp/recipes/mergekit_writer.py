"""Writes a recipe in mergekit's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusion_slerp.options import declaration, declared
from fusion_slerp.recipes.hydra_form import dumped
from fusion_slerp.recipes.mergekit_draft import new_draft, write_nuslerp, write_parameters
from fusion_slerp.recipes.mergekit_methods import COUNTERPARTS, Counterpart, of_our_method
from fusion_slerp.recipes.recipe import Findings, Recipe, check_base
from fusion_slerp.settings.labels import BASE
from fusion_slerp.settings.merge_settings import MergeSettings, option_fields

EXPRESSED = ("method", "slices", "dtype", "tokenizer", "chat_template", "tokens", "pad_vocab_to_multiple_of")

NUSLERP = "nuslerp"
"""The method whose weights are our t."""


def not_about_the_merge() -> list[str]:
    """The options that change how a merge runs, but none of the merged model's values."""
    own = [name for name, each in option_fields().items() if not declaration(each).changes_child]
    return [*own, "max_shard_size"]


def to_mergekit(recipe: Recipe) -> str:
    """Returns the YAML that `mergekit-yaml` runs.

    `dtype` becomes mergekit's `out_dtype`, and inputs are read as float32, so that nothing is rounded
    twice. Options about how a merge runs, such as threads, have no equivalent and are listed in a comment.

    Raises:
        SettingsError: The method or an option has no equivalent in mergekit, or the recipe has a base that
            its method does not take, or lacks one that it needs.
    """
    settings = recipe.settings
    findings = Findings("the recipe")
    check_base(recipe, findings)
    how = _counterpart(recipe, settings)
    if how is None:
        fix = f"run it with fusion_slerp, or use a method that mergekit has: {', '.join(COUNTERPARTS)}"
        findings.fault(f"the method {recipe.method} has no equivalent in mergekit", fix)
    findings.raise_faults()
    assert how is not None
    _check_options(recipe, settings, how, findings)
    draft = new_draft(recipe, findings)
    (write_nuslerp if how.name == NUSLERP else write_parameters)(draft, how)
    findings.raise_faults()
    content = {**_head(recipe, how), **draft.content()}
    template = {"chat_template": settings.chat_template} if settings.chat_template else {}
    written = {**content, **_dtype(settings.dtype), **_tokenizer(recipe, settings, content), **template}
    return _left_out(recipe.options) + dumped(written)


def _counterpart(recipe: Recipe, settings: MergeSettings) -> Counterpart | None:
    """mergekit's method. SLERP with a base, and SLERP without a threshold, is another one there."""
    first = of_our_method(recipe.method)
    if first is None or not first.has_base_as_a:
        return first
    is_other = recipe.base is not None or settings.parameters.DOT_THRESHOLD == 1
    return COUNTERPARTS[NUSLERP] if is_other else first


def _check_options(recipe: Recipe, settings: MergeSettings, how: Counterpart, findings: Findings) -> None:
    """Records the options that differ from their defaults and that mergekit does not have."""
    known = [*EXPRESSED, *(each.option for each in how.parameters), *not_about_the_merge()]
    if how.name == NUSLERP:
        known += ["granularity", "DOT_THRESHOLD"]
        if settings.parameters.DOT_THRESHOLD != 1:
            fix = "set DOT_THRESHOLD: 1, as mergekit's nuslerp has none"
            findings.fault("DOT_THRESHOLD has no equivalent in mergekit's nuslerp", fix)
    for name, each in (declared(MergeSettings) | declared(settings.how.options)).items():
        value = recipe.options.get(name, each.default)
        if name not in known and value != each.default:
            findings.fault(f"{name} has no equivalent in mergekit", f"remove {name}", found=repr(value))


def _head(recipe: Recipe, how: Counterpart) -> dict[str, Any]:
    """The method, and the base: the ancestor, or else model a, whose config the merged model gets."""
    base = recipe.base if how.takes_base or how.name == NUSLERP else recipe.models[0]
    return {"merge_method": how.name, **({} if base is None else {"base_model": base})}


def _left_out(options: Mapping[str, Any]) -> str:
    left_out = [f"{name}={options[name]!r}" for name in not_about_the_merge() if name in options]
    return f"# Without an equivalent in mergekit: {', '.join(left_out)}\n" if left_out else ""


def _dtype(dtype: str | None) -> dict[str, str]:
    if dtype is None:
        return {}
    wide = "float64" if dtype == "float64" else "float32"
    return {"dtype": wide} if dtype == wide else {"dtype": wide, "out_dtype": dtype}


def _tokenizer(recipe: Recipe, settings: MergeSettings, content: Mapping[str, Any]) -> dict[str, Any]:
    tokens, multiple = settings.tokens, settings.pad_vocab_to_multiple_of
    whose = recipe.options.get("tokenizer", "union")
    of_base = BASE if recipe.base is not None else "a"
    names = recipe.named | ({of_base: "base"} if "base_model" in content else {})
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
    """A token's entry with the models' names in place of their labels."""
    names = recipe.named
    entry = dict(entry) if isinstance(entry, Mapping) and "source" in entry else {"source": entry}
    source = entry["source"]
    if isinstance(source, Mapping) and "model" in source:
        entry["source"] = {**source, "model": names.get(source["model"], source["model"])}
    elif isinstance(source, str):
        entry["source"] = names.get(source, source)
    return entry
