"""Recipes: merges described in a file, in mergekit's YAML or in ours for Hydra."""

from fusion_slerp.recipes.hydra_form import from_hydra, to_hydra
from fusion_slerp.recipes.mergekit_writer import to_mergekit
from fusion_slerp.recipes.reading import parse_recipe, read_recipe
from fusion_slerp.recipes.recipe import Recipe
from fusion_slerp.recipes.shipped import shipped_recipes

__all__ = [
    "Recipe",
    "from_hydra",
    "parse_recipe",
    "read_recipe",
    "shipped_recipes",
    "to_hydra",
    "to_mergekit",
]
