"""mergekit's form of a recipe, as mergekit 0.1.5 understands it.

    merge_method: slerp
    base_model: A              # t = 0, wherever it stands in the list
    slices:
      - sources:
          - {model: A, layer_range: [0, 32]}
          - {model: B, layer_range: [0, 32]}
    parameters:
      t: [{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}, {value: 0.5}]
    dtype: bfloat16

Source: https://github.com/arcee-ai/mergekit, release 0.1.5, config.py, plan.py and tokenizer/config.py.
We differ in that a key nobody reads is an error, and that all that is wrong is said before anything
is read; docs/recipes.md has the whole list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusion_slerp.dtypes import MERGEABLE
from fusion_slerp.errors import nearest
from fusion_slerp.recipes.mergekit_models import Part, parts_of, two_parents
from fusion_slerp.recipes.mergekit_t import options_of_t
from fusion_slerp.recipes.mergekit_tokenizer import tokenizer_options
from fusion_slerp.recipes.nuslerp import nuslerp_options
from fusion_slerp.recipes.recipe import Findings, Recipe
from fusion_slerp.settings.merge_settings import MergeSettings

KEYS = (
    *("merge_method", "base_model", "models", "slices", "modules", "parameters", "dtype", "out_dtype"),
    *("tokenizer_source", "tokenizer", "chat_template"),
)

WITHOUT_EFFECT = ("name", "embed_slerp")
"""Keys at the top of published recipes that mergekit does not read."""

METHODS = {"slerp", "nuslerp"}

NARROW = ("bfloat16", "float16")
"""Types that round what is cast to them."""


def from_mergekit(given: Mapping[str, Any], name: str = "recipe") -> Recipe:
    """Returns what a recipe of mergekit's form asks for.

    Raises:
        SettingsError: It is wrong or not supported; all faults at once, each with its key.
    """
    findings = Findings(name)
    _check_method(given.get("merge_method"), findings)
    findings.raise_faults()  # what another method's keys mean is not ours to say
    _check_keys(given, findings)
    parts = parts_of(given, findings)
    parents = two_parents(given, parts, findings) if parts else None
    if parents is None:
        findings.raise_faults()
        raise AssertionError("no parents, and no fault")
    options = _options(given, parts, parents, findings)
    findings.raise_faults()
    MergeSettings(**options)  # a last check: a recipe that is returned can be run
    return Recipe(*parents, options, tuple(findings.notes))


def _check_method(method: object, findings: Findings) -> None:
    if isinstance(method, str) and method in METHODS:
        return
    headline = "merge_method is missing" if method is None else f"merge_method: {method} is not supported"
    hint = nearest(str(method), METHODS) if isinstance(method, str) and method[:2] in ("sl", "nu") else ""
    fix = "run this recipe with mergekit, or set merge_method: slerp"
    findings.fault(headline + hint, fix, needed="slerp, or nuslerp of two models")


def _check_keys(given: Mapping[str, Any], findings: Findings) -> None:
    findings.unknown_keys({key: None for key in given if key != "t"}, (*KEYS, *WITHOUT_EFFECT), "")
    if "t" in given:
        findings.fault("t has no place at the top", "move it to parameters.t", found=given["t"])
    for key in WITHOUT_EFFECT:
        if key in given:
            findings.note(f"{key}: has no effect in mergekit, nor here")
    if given.get("chat_template") == "auto":
        findings.note("chat_template: auto: the child has the chat template of the tokenizer it gets")
    elif given.get("chat_template") and "{" not in str(given["chat_template"]):
        fix = "write the template itself, or remove chat_template"
        headline = "chat_template: a name of mergekit's own templates is not supported"
        findings.fault(headline, fix, found=given["chat_template"], needed="the text of a Jinja template")


def _options(
    given: Mapping[str, Any], parts: list[Part], parents: tuple[str, str], findings: Findings
) -> dict[str, Any]:
    read_t = options_of_t if given["merge_method"] == "slerp" else nuslerp_options
    options = read_t(given, parts, parents, findings)
    dtype = _dtype(given, findings)
    if dtype is not None:
        options["dtype"] = dtype
    if given.get("chat_template", "auto") not in ("auto", None):
        options["chat_template"] = given["chat_template"]
    return options | tokenizer_options(given, parents, findings)


def _dtype(given: Mapping[str, Any], findings: Findings) -> str | None:
    """The child's type: `out_dtype`, else `dtype`."""
    inner, outer = (_type_name(given.get(key), key, findings) for key in ("dtype", "out_dtype"))
    if inner in NARROW:
        findings.note(
            f"dtype: {inner}: mergekit rounds wider weights to it when it reads them; here they are "
            "rounded once, when they are written"
        )
    return outer or inner


def _type_name(value: object, key: str, findings: Findings) -> str | None:
    if value is None:
        return None
    names = [dtype.name for dtype in MERGEABLE]
    name = value.removeprefix("torch.") if isinstance(value, str) else ""
    if name in names:
        return name
    headline = f"{key} is not a type that a model can be written in{nearest(name, names)}"
    findings.fault(headline, f"set {key}: bfloat16", found=value, needed=f"one of {', '.join(names)}")
    return None
