"""The models' names: from hub ids, folders, or the option; equal ones are refused; records state them."""

import ast
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fusion_slerp import SettingsError, make_settings, merge, plan_merge, verify
from fusion_slerp.methods import METHODS
from fusion_slerp.options import declared
from fusion_slerp.planning.model_names import name_of, names_of, with_names
from fusion_slerp.sources.folder import open_checkpoint
from tests.models import contents, names_in, write_checkpoint

DRAWING = [name for name, method in METHODS.items() if "names" in declared(method.options)]
RANDOM: dict[str, Any] = {"method": DRAWING[0], "density": 0.5}


@pytest.fixture
def folders(tmp_path) -> list[Path]:
    """Two models and their base; the models' folders have one last name."""
    names = ("one/model", "other/model", "base")
    return [write_checkpoint(tmp_path / name, seed) for seed, name in enumerate(names)]


def planned(folders: list[Path], **options):
    *models, base = folders
    return plan_merge(*models, base=base, **RANDOM, **options)


def test_methods_that_draw_have_names():
    assert DRAWING == ["dare_linear", "dare_ties", "della", "della_linear"]


def test_the_name_is_the_folder_s_or_the_hub_id(folders, tmp_path):
    local = open_checkpoint(folders[0], str(folders[0]))
    assert name_of(local) == "model"
    (tmp_path / "link").symlink_to(folders[2])
    assert name_of(open_checkpoint(tmp_path / "link")) == "base"
    hub = replace(local, source="owner/name@main", revision="0123abc")
    assert name_of(hub) == "owner/name"
    assert names_of({"a": local, "b": hub, "base": local}) == {"a": "model", "b": "owner/name"}


def test_the_plan_has_the_name_of_every_model(folders):
    plan = planned(folders, names={"b": "mine"})
    assert plan.settings.parameters.names == {"a": "model", "b": "mine"}
    assert plan.settings == make_settings(**RANDOM, names={"a": "model", "b": "mine"})


def test_the_order_of_given_names_is_of_no_effect(folders):
    one, other = (
        planned(folders, names=dict(pairs)) for pairs in ([("a", "x"), ("b", "y")], [("b", "y"), ("a", "x")])
    )
    assert list(one.settings.parameters.names) == list(other.settings.parameters.names) == ["a", "b"]


def test_other_methods_have_no_names(folders):
    settings = make_settings(t=0.3)
    assert with_names(settings, {"a": "x", "b": "x"}) is settings


@pytest.mark.parametrize(
    ("names", "resolved", "fix"),
    [
        (None, "a and b: model", '{"a": "first", "b": "second"}'),
        ({"b": "model"}, "a and b: model", '{"a": "first", "b": "second"}'),
        ({"a": "first", "b": "first"}, "a and b: first", '{"a": "second", "b": "third"}'),
    ],
)
def test_equal_names_are_refused_with_others_to_paste(folders, names, resolved, fix):
    with pytest.raises(SettingsError) as caught:
        planned(folders, **({} if names is None else {"names": names}))
    headline, field, last = str(caught.value).splitlines()
    assert headline == "models have the same name, so the same elements of each would be kept"
    assert field == f"  name of {resolved}"
    assert last == f"Fix: give them names of their own: names={json.loads(fix)!r}"
    assert caught.value.message("command").endswith(f": --names '{fix}'")
    assert caught.value.message("hydra").endswith(f": names: {fix} (in YAML, under method:)")
    assert planned(folders, names=json.loads(fix)).settings.parameters.names == json.loads(fix)


def test_a_fix_keeps_names_that_were_given(tmp_path, folders):
    third = write_checkpoint(tmp_path / "third", 7)
    *models, base = folders
    with pytest.raises(SettingsError) as caught:
        plan_merge(*models, third, base=base, names={"c": "mine"}, **RANDOM)
    fix = str(caught.value).rpartition("names=")[2]
    assert ast.literal_eval(fix) == {"c": "mine", "a": "first", "b": "second"}
    plan_merge(*models, third, base=base, names=ast.literal_eval(fix), **RANDOM)


@pytest.mark.parametrize(
    ("label", "headline"),
    [
        ("c", "names has a value for model c, which is not merged"),
        ("base", "names has a value for the base, of which nothing is drawn"),
    ],
)
def test_a_name_of_no_model_is_refused(folders, label, headline):
    with pytest.raises(SettingsError) as caught:
        planned(folders, names={"a": "x", label: "y"})
    lines = str(caught.value).splitlines()
    assert lines == [headline, f"  found: {label}", "  needed: a, b", f"Fix: leave {label} out of names"]


@pytest.mark.parametrize("value", [{"a": ""}, {"a": 3}, {1: "x"}, "first", ["first"], 3])
def test_what_are_not_names_is_refused(value):
    with pytest.raises(SettingsError, match=r"^invalid names"):
        make_settings(**RANDOM, names=value)


# Records.


def test_models_that_were_moved_make_the_same_again(tmp_path):
    folders = [write_checkpoint(tmp_path / name, seed) for seed, name in enumerate(("one", "other", "base"))]
    *models, base = folders
    merge(*models, base=base, out=tmp_path / "child", **RANDOM)
    manifest = json.loads((tmp_path / "child/merge_manifest.json").read_text())
    assert manifest["settings"]["names"] == {"a": "one", "b": "other"}
    assert "one" in (tmp_path / "child/README.md").read_text()
    moved = {label: tmp_path / f"moved {label}" for label in ("a", "b", "base")}
    for folder, target in zip(folders, moved.values(), strict=True):
        shutil.move(folder, target)
    assert verify(tmp_path / "child", models=moved, recompute="all").ok
    again: dict[str, Any] = {"base": moved["base"], "names": manifest["settings"]["names"], **RANDOM}
    merge(moved["a"], moved["b"], out=tmp_path / "again/child", **again)
    weights = "model.safetensors"
    assert contents(tmp_path / "again/child")[weights] == contents(tmp_path / "child")[weights]
    again["names"] = None
    merge(moved["a"], moved["b"], out=tmp_path / "others/child", **again)
    assert contents(tmp_path / "others/child")[weights] != contents(tmp_path / "child")[weights]


def test_nothing_is_written_if_names_are_equal(tmp_path, folders):
    *models, base = folders
    before = names_in(tmp_path)
    with pytest.raises(SettingsError):
        merge(*models, base=base, out=tmp_path / "child", **RANDOM)
    assert names_in(tmp_path) == before
