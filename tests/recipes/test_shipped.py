"""The recipes that ship: each is read, and its twin on small models is merged and verified."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fusion_slerp import merge, verify
from fusion_slerp.recipes import Recipe, parse_recipe, read_recipe, shipped_recipes
from tests.models import CONFIG, WIDTH, tiny_tensors, write_checkpoint

RECIPES = shipped_recipes()
NAMES = [name.partition(".")[0] for name in RECIPES]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
PAPER = "https://arxiv.org/abs/"


def content_of(name: str) -> dict[str, Any]:
    file = RECIPES.get(f"{name}.yml", RECIPES.get(f"{name}.yaml"))
    assert file is not None
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def test_what_ships():
    assert (
        sorted(
            [
                *("neuralpipe-7b-slerp", "neuralpipe-7b-ties", "neuralpipe-9b-passthrough"),
                *("daredevil-7b", "holland-magnum", "llama-3-120b-self-merge"),
                *("chat-vector", "instruct-and-reasoning", "warp"),
            ]
        )
        == NAMES
    )


@pytest.mark.parametrize("name", RECIPES)
def test_it_says_what_it_is_and_whence(name):
    comments = [line for line in RECIPES[name].read_text(encoding="utf-8").splitlines() if line[:1] == "#"]
    assert len(comments) >= 2
    (source,) = [line for line in comments if line.startswith("# Source: ")]
    assert "model card of" in source or PAPER in "".join(comments)


@pytest.mark.parametrize("name", RECIPES)
def test_it_is_read_by_its_name_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = read_recipe(name)
    assert recipe.notes[0] == f"{name}: the recipe that ships with fusion_slerp"
    assert all(map(HUB_ID.fullmatch, recipe.named.values()))
    assert recipe == read_recipe(RECIPES[name])


def test_a_file_of_the_user_with_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = "{merge_method: linear, models: [{model: A}], parameters: {weight: 1}}"
    Path("neuralpipe-7b-slerp.yml").write_text(own)
    assert read_recipe("neuralpipe-7b-slerp.yml").models == ("A",)


def layers_of(recipe: Recipe) -> int:
    ranges = [
        part[label] for part in recipe.options.get("slices", []) for label in recipe.named if label in part
    ]
    return max((end for _, end in ranges), default=2)


def write_model(folder: Path, seed: int, n_layers: int) -> str:
    rng = np.random.default_rng(seed)
    tensors = {name: tensor for name, tensor in tiny_tensors(seed).items() if "layers" not in name}
    for layer in range(n_layers):
        for part in ("self_attn.q_proj", "mlp.up_proj"):
            name = f"model.layers.{layer}.{part}.weight"
            tensors[name] = rng.standard_normal((WIDTH, WIDTH)).astype("float32")
    config = CONFIG | {"num_hidden_layers": n_layers}
    return str(write_checkpoint(folder, tensors=tensors, config=config))


def in_place(value: Any, folders: dict[str, str]) -> Any:
    """The recipe with local folders in place of hub ids."""
    if isinstance(value, dict):
        return {key: in_place(each, folders) for key, each in value.items()}
    if isinstance(value, list):
        return [in_place(each, folders) for each in value]
    return folders.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize("name", NAMES)
def test_its_twin_merges_small_models(name, tmp_path):
    content = content_of(name)
    recipe = parse_recipe(content)
    n_layers = layers_of(recipe)
    folders = {
        model: write_model(tmp_path / label, seed, n_layers)
        for seed, (label, model) in enumerate(recipe.named.items())
    }
    twin = parse_recipe(in_place(content, folders))
    result = merge(*twin.models, base=twin.base, out=tmp_path / "child", **twin.options)
    layers = {match[1] for row in result.report if (match := re.search(r"layers\.(\d+)\.", row.name))}
    parts = twin.options.get("slices") or [{"a": [0, n_layers]}]
    expected = sum(part[label][1] - part[label][0] for part in parts for label in [next(iter(part))])
    assert len(layers) == expected
    assert verify(tmp_path / "child", inputs=True, recompute=5).ok
