"""Reads a recipe of either form from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import yaml

from fusion_slerp.errors import Problem, SettingsError
from fusion_slerp.paths import Named, user_path
from fusion_slerp.recipes.hydra_form import from_hydra, is_hydra
from fusion_slerp.recipes.mergekit_form import from_mergekit
from fusion_slerp.recipes.recipe import Recipe
from fusion_slerp.recipes.shipped import shipped
from fusion_slerp.recipes.yaml_loading import Loader

EXAMPLE = "{merge_method: linear, models: [{model: A}, {model: B}], parameters: {weight: 0.5}}"


def read_recipe(path: Named) -> Recipe:
    """Returns the recipe in a YAML file: mergekit's form or ours for Hydra. Reads nothing else.

    Args:
        path: The file; or the name of a recipe that ships with this package, if there is no such file.

    Raises:
        SettingsError: There is no such file, it is not YAML, or the recipe is invalid or not supported;
            all faults at once, each with its key.
    """
    given = documents(path)
    if len(given) > 1:
        fix = (
            "fusion_slerp merge runs them, if they build on one another; else put each recipe in its own file"
        )
        raise _unreadable(str(path), f"{len(given)} documents", fix)
    recipe = parse_recipe(given[0] if given else None, str(path))
    if shipped(path) is None:
        return recipe
    return replace(recipe, notes=(f"{path}: the recipe that ships with fusion_slerp", *recipe.notes))


def documents(path: Named) -> list[Any]:
    """Returns the contents of a YAML file's documents.

    Raises:
        SettingsError: There is no such file, or it is not YAML.
    """
    try:
        text = (shipped(path) or user_path(path)).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file in UTF-8"
        raise _unreadable(str(path), reason, "name a YAML file that contains a recipe") from None
    try:
        return [each for each in yaml.load_all(text, Loader) if each is not None]
    except (yaml.YAMLError, RecursionError) as error:
        raise _unreadable(str(path), f"not YAML: {error}", "correct the file") from None


def parse_recipe(given: object, name: str = "recipe") -> Recipe:
    """Returns the recipe in the content of a YAML file.

    Args:
        given: A mapping, in mergekit's form or ours for Hydra.
        name: Its name in messages.

    Raises:
        SettingsError: As `read_recipe`.
    """
    if not isinstance(given, Mapping):
        found = "nothing" if given is None else f"a {type(given).__name__}"
        fix = f"write a recipe, for example {EXAMPLE}"
        raise _unreadable(name, f"{found} instead of a mapping", fix)
    return from_hydra(given, name) if is_hydra(given) else from_mergekit(given, name)


def _unreadable(path: str, reason: str, fix: str) -> Exception:
    return Problem(SettingsError, f"{path}: not a recipe", (("found", reason),), fix).error()
