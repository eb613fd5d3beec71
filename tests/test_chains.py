"""Recipes of several documents, merged one after the other; what was merged before is used again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fusion_slerp import OutputError, SettingsError, merge, verify
from fusion_slerp.chains import merge_chain, place_steps, prepare_step
from tests.models import contents, write_checkpoint

RECIPE = """
merge_method: slerp
base_model: early
models: [{model: early}, {model: C}]
parameters: {t: 0.25}
---
name: early
merge_method: linear
models: [{model: A, parameters: {weight: 1}}, {model: B, parameters: {weight: 3}}]
"""


@pytest.fixture
def recipe(tmp_path) -> Path:
    for i, name in enumerate("ABC"):
        write_checkpoint(tmp_path / name, i)
    text = RECIPE
    for name in "ABC":
        text = text.replace(f"model: {name}", f"model: {tmp_path / name}")
    (tmp_path / "recipe.yml").write_text(text)
    return tmp_path / "recipe.yml"


def test_it_is_what_the_merges_make_by_hand(recipe, tmp_path):
    merge_chain(recipe, tmp_path / "child")
    early = merge(
        tmp_path / "A", tmp_path / "B", out=tmp_path / "mine", method="linear", weight={"b": 3}, tokenizer="a"
    )
    child = merge(early.out, tmp_path / "C", out=tmp_path / "child-2", t=0.25, tokenizer="a")
    for ours, mine in ((tmp_path / "early", early.out), (tmp_path / "child", child.out)):
        assert (ours / "model.safetensors").read_bytes() == (mine / "model.safetensors").read_bytes()
    assert verify(tmp_path / "child", inputs=True, recompute="all").ok


def made_at(folder: Path) -> tuple[int, int]:
    state = os.stat(folder)
    return state.st_ino, os.stat(folder / "merge_manifest.json").st_mtime_ns


def test_a_document_that_was_merged_is_used_again(recipe, tmp_path):
    merge_chain(recipe, tmp_path / "child", hash_inputs=True)
    before = made_at(tmp_path / "early")
    merge_chain(recipe, tmp_path / "child-2", threads=1)
    assert made_at(tmp_path / "early") == before
    one, two = (contents(tmp_path / name)["model.safetensors"] for name in ("child", "child-2"))
    assert one == two


@pytest.mark.parametrize(
    "change", ["recipe", "newer", "config", "tokenizer", "cut", "damaged manifest", "no manifest"]
)
def test_a_folder_that_holds_something_else_is_not(recipe, tmp_path, change):
    merge_chain(recipe, tmp_path / "child")
    early, a = tmp_path / "early", tmp_path / "A"
    if change == "recipe":
        recipe.write_text(recipe.read_text().replace("weight: 3", "weight: 2"))
    elif change == "newer":
        os.utime(a / "model.safetensors")
    elif change == "config":
        config = json.loads((a / "config.json").read_text())
        (a / "config.json").write_text(json.dumps(config | {"initializer_range": 0.5}))
    elif change == "tokenizer":
        (a / "tokenizer_config.json").write_text("{}")
    elif change == "cut":
        os.truncate(early / "model.safetensors", 100)
    elif change == "damaged manifest":
        (early / "merge_manifest.json").write_text("{}")
    else:
        (early / "merge_manifest.json").unlink()
    before = contents(early)
    with pytest.raises(OutputError, match="the output exists"):
        merge_chain(recipe, tmp_path / "child-2")
    assert contents(early) == before
    merge_chain(recipe, tmp_path / "child-2", overwrite=True)
    assert verify(early).ok


def test_another_folder_for_the_documents(recipe, tmp_path):
    merge_chain(recipe, tmp_path / "child", tmp_path / "steps")
    assert (tmp_path / "steps/early/model.safetensors").is_file()
    assert not (tmp_path / "early").exists()


def test_nothing_is_merged_if_the_last_folder_exists(recipe, tmp_path):
    (tmp_path / "child").mkdir()
    with pytest.raises(OutputError, match="the output exists"):
        merge_chain(recipe, tmp_path / "child")
    assert not (tmp_path / "early").exists()


def test_folders_of_their_own(recipe, tmp_path):
    for out in (tmp_path / "early", tmp_path / "early/child", tmp_path):
        with pytest.raises(OutputError, match="the document early has the merged model's folder"):
            place_steps(recipe, out, tmp_path, overwrite="any")


def test_options_of_a_document_are_refused(recipe, tmp_path):
    with pytest.raises(SettingsError, match="every document has its own settings"):
        merge_chain(recipe, tmp_path / "child", t=1)


def test_the_last_document_is_always_merged(recipe, tmp_path):
    merge_chain(recipe, tmp_path / "child")
    first, last = place_steps(recipe, tmp_path / "child", overwrite=True)
    assert prepare_step(first) is None
    assert prepare_step(last) is not None
