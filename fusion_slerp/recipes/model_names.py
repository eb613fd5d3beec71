"""The names of models in a recipe of mergekit's form."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusion_slerp.recipes.recipe import Findings, join
from fusion_slerp.sources.conversions import merging


def model_name(value: Any, key: str, findings: Findings) -> str | None:
    """Returns the path or Hub id that a recipe names, with `@revision`; None after a fault."""
    if isinstance(value, Mapping):
        findings.unknown_keys(value, ("model", "lora", "override_architecture"), key)
        if value.get("lora"):
            _lora(join(key, "lora"), value.get("model"), value["lora"], value["lora"], findings)
            return None
        if value.get("override_architecture"):
            headline = f"{join(key, 'override_architecture')} is not supported"
            fix = "remove it: tensors are matched by name, whatever the architecture"
            findings.fault(headline, fix, found=value["override_architecture"])
            return None
        value = value.get("model")
    if isinstance(value, Mapping):
        findings.unknown_keys(value, ("path", "revision"), key)
        path, revision = value.get("path"), value.get("revision")
        value = f"{path}@{revision}" if path and revision else path
    if not isinstance(value, str) or not value.strip():
        findings.fault(f"{key} is not a model", f"set {key}: FOLDER, or a Hub id", found=repr(value))
        return None
    if "+" in value:
        base, _, lora = value.partition("+")
        _lora(f"{key}: a LoRA, which mergekit reads after the +,", base, lora, value, findings)
        return None
    if value.count("@") > 1:
        findings.fault(f"{key} has more than one @", "write path@revision", found=value)
        return None
    return value


def _lora(what: str, base: object, lora: object, value: object, findings: Findings) -> None:
    """Reports a model with an adapter, and how to merge the two."""
    base, lora = (each.get("path") if isinstance(each, Mapping) else each for each in (base, lora))
    folders = [Path(str(each)) if os.path.isdir(str(each)) else str(each) for each in (lora, base)]
    command = merging(*folders)
    fix = f"merge the adapter into its model first, and name the result (needs `pip install peft`): {command}"
    findings.fault(f"{what} is not supported", fix, found=value)
