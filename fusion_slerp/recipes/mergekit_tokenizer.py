"""The tokenizer of a recipe in mergekit's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusion_slerp.errors import SettingsError
from fusion_slerp.recipes.mergekit_models import model_name
from fusion_slerp.recipes.recipe import Findings, join
from fusion_slerp.settings.token_sources import parse_token_sources

Parents = tuple[str, str]

TOKEN_FORM = (
    "source: a model, {kind: zero}, or {kind: model_token, model: ..., token: ... or token_id: ...}; "
    "and perhaps force: true"
)


def tokenizer_options(given: Mapping[str, Any], parents: Parents, findings: Findings) -> dict[str, Any]:
    """Returns `tokenizer`, and `tokens` and `pad_vocab_to_multiple_of` where they are given.

    Without any key mergekit copies the base's tokenizer, which is our `tokenizer: a`.
    """
    source, section = given.get("tokenizer_source"), given.get("tokenizer")
    if source and section:
        findings.fault("tokenizer and tokenizer_source exclude each other", "keep one of them")
        return {}
    if not section:
        return {"tokenizer": _whose(source or "base", "tokenizer_source", parents, findings)}
    if not isinstance(section, Mapping):
        findings.fault("tokenizer is not a mapping", "set tokenizer: {source: union}", found=repr(section))
        return {}
    findings.unknown_keys(section, ("source", "tokens", "pad_to_multiple_of"), "tokenizer")
    source = section.get("source", "union")
    options: dict[str, Any] = {"tokenizer": _whose(source, "tokenizer.source", parents, findings)}
    tokens = _tokens(section.get("tokens") or {}, parents, findings)
    if tokens:
        options["tokens"] = tokens
    multiple = section.get("pad_to_multiple_of")
    if multiple is None:
        return options
    if type(multiple) is int and multiple >= 1:
        return options | {"pad_vocab_to_multiple_of": multiple}
    needed = "a whole number, at least 1"
    fix = "set tokenizer.pad_to_multiple_of: 64"
    findings.fault("tokenizer.pad_to_multiple_of is not usable", fix, found=repr(multiple), needed=needed)
    return options


def _whose(source: Any, key: str, parents: Parents, findings: Findings) -> str | None:
    if source in ("base", "union"):
        return "a" if source == "base" else "union"
    name = model_name(source, key, findings)
    return dict(zip(parents, "ab", strict=True)).get(name, name) if name else None


def _tokens(given: Any, parents: Parents, findings: Findings) -> dict[str, Any]:
    """`tokens` with a and b for the models' names."""
    if not isinstance(given, Mapping):
        fix = 'write {"<|im_end|>": {source: NAME}}'
        findings.fault("tokenizer.tokens is not a mapping", fix, found=repr(given))
        return {}
    found = {}
    for token, entry in given.items():
        key = join("tokenizer.tokens", token)
        read = _token(entry, key, parents, findings)
        if read is None:
            continue
        try:
            parse_token_sources({token: read})
        except SettingsError:
            fix = f"set {key}: {{source: {parents[0]}}}"
            findings.fault(f"{key} is not usable", fix, found=repr(entry), needed=TOKEN_FORM)
        else:
            found[token] = read
    return found


def _token(entry: Any, key: str, parents: Parents, findings: Findings) -> dict[str, Any] | None:
    if not isinstance(entry, Mapping):
        fix = f"set {key}: {{source: {parents[0]}}}"
        findings.fault(f"{key} is not a mapping", fix, found=repr(entry), needed=TOKEN_FORM)
        return None
    findings.unknown_keys(entry, ("source", "force"), key)
    source = entry.get("source")
    if source is None:
        fix = f"set {key}.source: {parents[0]}"
        findings.fault(f"{key}.source is missing", fix, needed="a model, or {kind: zero}")
        return None
    if isinstance(source, Mapping) and "kind" in source:
        if "model" in source:
            which = _which(source["model"], f"{key}.source.model", parents, findings)
            source = {**source, "model": which} if which else None
    else:
        source = _which(source, f"{key}.source", parents, findings)
    return None if source is None else {**entry, "source": source}


def _which(model: Any, key: str, parents: Parents, findings: Findings) -> str | None:
    """ "a" or "b" for the name of a parent."""
    name = model_name(model, key, findings)
    if name is None or name in parents:
        return None if name is None else "ab"[parents.index(name)]
    fix = f"set {key}: {parents[0]}, or {parents[1]}"
    findings.fault(f"{key} is none of the two models", fix, found=name)
    return None
