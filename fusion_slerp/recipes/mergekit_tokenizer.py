"""The tokenizer of a recipe in mergekit's form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fusion_slerp.errors import SettingsError
from fusion_slerp.recipes.mergekit_models import model_name
from fusion_slerp.recipes.recipe import Findings, join
from fusion_slerp.settings.labels import labels
from fusion_slerp.settings.token_sources import parse_token_sources

Models = Sequence[str]
"""Models a, b, c, ..."""

TOKEN_FORM = (
    "source: a model, {kind: zero}, or {kind: model_token, model: ..., token: ... or token_id: ...}; "
    "and perhaps force: true"
)


def tokenizer_options(given: Mapping[str, Any], models: Models, findings: Findings) -> dict[str, Any]:
    """Returns `tokenizer`, and `tokens` and `pad_vocab_to_multiple_of` if they are given.

    Without any of these keys mergekit copies the base's tokenizer, which is our `tokenizer: a`.
    """
    source, section = given.get("tokenizer_source"), given.get("tokenizer")
    if source and section:
        findings.fault("tokenizer and tokenizer_source exclude each other", "remove one of them")
        return {}
    if not section:
        return {"tokenizer": _whose(source or "base", "tokenizer_source", models, findings)}
    if not isinstance(section, Mapping):
        findings.fault("tokenizer is not a mapping", "set tokenizer: {source: union}", found=repr(section))
        return {}
    findings.unknown_keys(section, ("source", "tokens", "pad_to_multiple_of"), "tokenizer")
    source = section.get("source", "union")
    options: dict[str, Any] = {"tokenizer": _whose(source, "tokenizer.source", models, findings)}
    tokens = _tokens(section.get("tokens") or {}, models, findings)
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


def _whose(source: Any, key: str, models: Models, findings: Findings) -> str | None:
    if source in ("base", "union"):
        return "a" if source == "base" else "union"
    name = model_name(source, key, findings)
    return _labels(models).get(name, name) if name else None


def _labels(models: Models) -> dict[str, str]:
    """The label of each model; the first label of one that is named twice."""
    pairs = reversed(list(zip(models, labels(len(models)), strict=True)))
    return dict(pairs)


def _tokens(given: Any, models: Models, findings: Findings) -> dict[str, Any]:
    """`tokens` with labels in place of the models' names."""
    if not isinstance(given, Mapping):
        fix = 'write {"<|im_end|>": {source: NAME}}'
        findings.fault("tokenizer.tokens is not a mapping", fix, found=repr(given))
        return {}
    tokens = {}
    for token, entry in given.items():
        key = join("tokenizer.tokens", token)
        read = _token(entry, key, models, findings)
        if read is None:
            continue
        try:
            parse_token_sources({token: read})
        except SettingsError:
            fix = f"set {key}: {{source: {models[0]}}}"
            findings.fault(f"invalid {key}", fix, found=repr(entry), needed=TOKEN_FORM)
        else:
            tokens[token] = read
    return tokens


def _token(entry: Any, key: str, models: Models, findings: Findings) -> dict[str, Any] | None:
    if not isinstance(entry, Mapping):
        fix = f"set {key}: {{source: {models[0]}}}"
        findings.fault(f"{key} is not a mapping", fix, found=repr(entry), needed=TOKEN_FORM)
        return None
    findings.unknown_keys(entry, ("source", "force"), key)
    source = entry.get("source")
    if source is None:
        fix = f"set {key}.source: {models[0]}"
        findings.fault(f"{key}.source is missing", fix, needed="a model, or {kind: zero}")
        return None
    if isinstance(source, Mapping) and "kind" in source:
        if "model" in source:
            which = _which(source["model"], f"{key}.source.model", models, findings)
            source = {**source, "model": which} if which else None
    else:
        source = _which(source, f"{key}.source", models, findings)
    return None if source is None else {**entry, "source": source}


def _which(model: Any, key: str, models: Models, findings: Findings) -> str | None:
    """The label of a model."""
    name = model_name(model, key, findings)
    if name is None or name in models:
        return None if name is None else _labels(models)[name]
    fix = f"set {key}: {models[0]}"
    findings.fault(f"{key} is not one of the models", fix, found=name, needed=f"one of {', '.join(models)}")
    return None
