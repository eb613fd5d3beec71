"""The tokenizer of a recipe in mergekit's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusion_slerp.errors import SettingsError
from fusion_slerp.recipes.mergekit_roles import Roles
from fusion_slerp.recipes.model_names import model_name
from fusion_slerp.recipes.recipe import Findings, join
from fusion_slerp.settings.labels import BASE
from fusion_slerp.settings.token_sources import parse_token_sources

TOKEN_FORM = (
    "source: a model, {kind: zero}, or {kind: model_token, model: ..., token: ... or token_id: ...}; "
    "and perhaps force: true"
)


def tokenizer_options(given: Mapping[str, Any], roles: Roles, findings: Findings) -> dict[str, Any]:
    """Returns `tokenizer`, and `tokens` and `pad_vocab_to_multiple_of` if they are given.

    Without any of these keys mergekit copies the base's tokenizer: our `base` if it is an ancestor, else `a`.
    """
    source, section = given.get("tokenizer_source"), given.get("tokenizer")
    if source and section:
        findings.fault("tokenizer and tokenizer_source exclude each other", "remove one of them")
        return {}
    if not section:
        return {"tokenizer": _whose(source or "base", "tokenizer_source", roles, findings)}
    if not isinstance(section, Mapping):
        findings.fault("tokenizer is not a mapping", "set tokenizer: {source: union}", found=repr(section))
        return {}
    findings.unknown_keys(section, ("source", "tokens", "pad_to_multiple_of"), "tokenizer")
    source = section.get("source", "union")
    options: dict[str, Any] = {"tokenizer": _whose(source, "tokenizer.source", roles, findings)}
    tokens = _tokens(section.get("tokens") or {}, roles, findings)
    if tokens:
        options["tokens"] = tokens
    multiple = section.get("pad_to_multiple_of")
    if multiple is None:
        return options
    if type(multiple) is int and multiple >= 1:
        return options | {"pad_vocab_to_multiple_of": multiple}
    needed = "a whole number, at least 1"
    fix = "set tokenizer.pad_to_multiple_of: 64"
    findings.fault("invalid tokenizer.pad_to_multiple_of", fix, found=repr(multiple), needed=needed)
    return options


def _whose(source: Any, key: str, roles: Roles, findings: Findings) -> str | None:
    if source == "union":
        return "union"
    if source == "base":
        return "a" if roles.base is None else BASE
    name = model_name(source, key, findings)
    return roles.label_of.get(name, name) if name else None


def _tokens(given: Any, roles: Roles, findings: Findings) -> dict[str, Any]:
    """`tokens` with labels in place of the models' names."""
    if not isinstance(given, Mapping):
        fix = 'write {"<|im_end|>": {source: NAME}}'
        findings.fault("tokenizer.tokens is not a mapping", fix, found=repr(given))
        return {}
    tokens = {}
    for token, entry in given.items():
        key = join("tokenizer.tokens", token)
        read = _token(entry, key, roles, findings)
        if read is None:
            continue
        try:
            parse_token_sources({token: read})
        except SettingsError:
            fix = f"set {key}: {{source: {roles.models[0]}}}"
            findings.fault(f"invalid {key}", fix, found=repr(entry), needed=TOKEN_FORM)
        else:
            tokens[token] = read
    return tokens


def _token(entry: Any, key: str, roles: Roles, findings: Findings) -> dict[str, Any] | None:
    if not isinstance(entry, Mapping):
        fix = f"set {key}: {{source: {roles.models[0]}}}"
        findings.fault(f"{key} is not a mapping", fix, found=repr(entry), needed=TOKEN_FORM)
        return None
    findings.unknown_keys(entry, ("source", "force"), key)
    source = entry.get("source")
    if source is None:
        fix = f"set {key}.source: {roles.models[0]}"
        findings.fault(f"{key}.source is missing", fix, needed="a model, or {kind: zero}")
        return None
    if isinstance(source, Mapping) and "kind" in source:
        if "model" in source:
            which = _which(source["model"], f"{key}.source.model", roles, findings)
            source = {**source, "model": which} if which else None
    else:
        source = _which(source, f"{key}.source", roles, findings)
    return None if source is None else {**entry, "source": source}


def _which(model: Any, key: str, roles: Roles, findings: Findings) -> str | None:
    """The label of a model."""
    name = model_name(model, key, findings)
    if name is None or name in roles.label_of:
        return None if name is None else roles.label_of[name]
    fix = f"set {key}: {roles.models[0]}"
    findings.fault(
        f"{key} is not one of the models", fix, found=name, needed=f"one of {', '.join(roles.label_of)}"
    )
    return None
