"""The recipes that ship with this package, by the names of their files."""

from __future__ import annotations

import os
from pathlib import Path

from fusion_slerp.paths import Named

PACKAGE = Path(__file__).resolve().parents[1]
RECIPES = ("config", "recipes")


def shipped_recipes() -> dict[str, Path]:
    """Returns the shipped recipes by the names of their files, such as `neuralpipe-7b-ties.yml`."""
    inside = PACKAGE.joinpath(*RECIPES)  # of an installed package; in the repository next to it
    folder = inside if inside.is_dir() else PACKAGE.parent.joinpath(*RECIPES)
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return {file.name: file for file in files if file.suffix in (".yml", ".yaml")}


def shipped(path: Named) -> Path | None:
    """Returns the shipped recipe of a name; None if there is none, or a file of that name exists."""
    name = os.fspath(path)
    if os.path.basename(name) != name or os.path.lexists(name):
        return None
    return shipped_recipes().get(name)
