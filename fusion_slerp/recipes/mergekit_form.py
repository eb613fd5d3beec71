"""mergekit's form of a recipe, as mergekit 0.1.5 reads it.

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
We differ in that a key that nothing reads is an error, and that all faults are reported before any model
is read; docs/recipes.md has the whole list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusion_slerp.dtypes import MERGEABLE
from fusion_slerp.errors import nearest
from fusion_slerp.recipes.mergekit_body import Body, body_of
from fusion_slerp.recipes.mergekit_methods import COUNTERPARTS, Counterpart
from fusion_slerp.recipes.mergekit_parameters import method_options
from fusion_slerp.recipes.mergekit_roles import Roles, roles_of
from fusion_slerp.recipes.mergekit_tokenizer import tokenizer_options
from fusion_slerp.recipes.nuslerp import nuslerp_options
from fusion_slerp.recipes.recipe import Findings, Recipe

KEYS = (
    *("merge_method", "base_model", "models", "slices", "modules", "parameters", "dtype", "out_dtype"),
    *("tokenizer_source", "tokenizer", "chat_template"),
)

WITHOUT_EFFECT = ("name", "embed_slerp")
"""Top-level keys of published recipes that mergekit ignores."""

SPECIAL = {"nuslerp": nuslerp_options}
"""By mergekit's method: the function that reads parameters which are not those of a method of ours."""

NARROW = ("bfloat16", "float16")
"""Types narrower than float32: a cast to them rounds."""

ROUNDED_TWICE = (
    "mergekit rounds wider weights to it when it reads them; here they are rounded once, when they are "
    "written"
)
"""End of a note that matters only if a model has wider weights."""


def from_mergekit(given: Mapping[str, Any], name: str = "recipe") -> Recipe:
    """Returns the recipe in a mapping of mergekit's form.

    Raises:
        SettingsError: It is invalid or not supported; all faults at once, each with its key.
    """
    findings = Findings(name)
    _check_method(given.get("merge_method"), findings)
    findings.raise_faults()  # the keys of another method have meanings of their own
    _check_keys(given, findings)
    how = COUNTERPARTS[given["merge_method"]]
    body = body_of(given, findings)
    roles = roles_of(given, body, how, findings) if body else None
    if body is None or roles is None:
        findings.raise_faults()
        raise AssertionError("neither models nor a fault")
    options = _options(given, body, roles, how, findings)
    findings.raise_faults()
    recipe = Recipe(roles.models, options, roles.base, tuple(findings.notes))
    assert recipe.settings  # a last check: a returned recipe can be run
    return recipe


def _check_method(method: object, findings: Findings) -> None:
    if isinstance(method, str) and method in COUNTERPARTS:
        return
    headline = "merge_method is missing" if method is None else f"merge_method: {method} is not supported"
    is_near = isinstance(method, str) and method[:2] in {name[:2] for name in COUNTERPARTS}
    hint = nearest(str(method), COUNTERPARTS) if is_near else ""
    fix = "run this recipe with mergekit, or set merge_method: slerp"
    findings.fault(headline + hint, fix, needed=f"one of {', '.join(COUNTERPARTS)}")


def _check_keys(given: Mapping[str, Any], findings: Findings) -> None:
    findings.unknown_keys({key: None for key in given if key != "t"}, (*KEYS, *WITHOUT_EFFECT), "")
    if "t" in given:
        findings.fault("t is not a top-level key", "move it to parameters.t", found=given["t"])
    for key in WITHOUT_EFFECT:
        if key in given:
            findings.note(f"{key}: has no effect in mergekit, nor here")
    if given.get("chat_template") == "auto":
        findings.note("chat_template: auto: the merged model gets the chat template of its tokenizer")
    elif given.get("chat_template") and "{" not in str(given["chat_template"]):
        fix = "write the template itself, or remove chat_template"
        headline = "chat_template: the names of mergekit's own templates are not supported"
        findings.fault(headline, fix, found=given["chat_template"], needed="the text of a Jinja template")


def _options(
    given: Mapping[str, Any], body: Body, roles: Roles, how: Counterpart, findings: Findings
) -> dict[str, Any]:
    options = SPECIAL.get(how.name, method_options)(body, roles, how, findings)
    dtype = _dtype(given, findings)
    if dtype is not None:
        options["dtype"] = dtype
    if given.get("chat_template", "auto") not in ("auto", None):
        options["chat_template"] = given["chat_template"]
    return options | tokenizer_options(given, roles, findings)


def _dtype(given: Mapping[str, Any], findings: Findings) -> str | None:
    """The merged model's type: `out_dtype`, else `dtype`."""
    inner, outer = (_type_name(given.get(key), key, findings) for key in ("dtype", "out_dtype"))
    if inner in NARROW:
        findings.note(f"dtype: {inner}: {ROUNDED_TWICE}")
    return outer or inner


def _type_name(value: object, key: str, findings: Findings) -> str | None:
    if value is None:
        return None
    names = [dtype.name for dtype in MERGEABLE]
    name = value.removeprefix("torch.") if isinstance(value, str) else ""
    if name in names:
        return name
    headline = f"invalid {key}{nearest(name, names)}"
    findings.fault(headline, f"set {key}: bfloat16", found=value, needed=f"one of {', '.join(names)}")
    return None
