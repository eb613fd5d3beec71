"""The names of `fusion_slerp.recipes`, for tests where that is not there; reads `a: ..., b: ...` alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fusion_slerp.errors import SettingsError


@dataclass(frozen=True)
class Recipe:
    a: str
    b: str
    options: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_recipe(path) -> Recipe:
    value = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(value, dict) or not {"a", "b"} <= value.keys():
        raise SettingsError(f"{path}: not a recipe\nFix: write a: and b:")
    rest = {key: each for key, each in value.items() if key not in ("a", "b", "merge_method")}
    return Recipe(value["a"], value["b"], rest)


def to_hydra(recipe: Recipe) -> str:
    return yaml.safe_dump({"a": recipe.a, "b": recipe.b, **recipe.options}, sort_keys=False)


def to_mergekit(recipe: Recipe) -> str:
    return yaml.safe_dump({"merge_method": "slerp", "a": recipe.a, "b": recipe.b, **recipe.options})
