"""`report`: what it writes, and what it refuses before anything is read."""

import json
import os
from dataclasses import replace

import pytest
import yaml

import fusion_slerp
from fusion_slerp import OutputError, SettingsError
from fusion_slerp.output.child_settings import child_settings
from fusion_slerp.recipes import parse_recipe
from fusion_slerp.reports.data import Subject, gather
from fusion_slerp.reports.reproduction import reproduction
from fusion_slerp.reports.sweep_data import record_data
from fusion_slerp.reports.writing import default_name
from fusion_slerp.settings.merge_settings import make_settings
from tests.models import names_in, write_checkpoint
from tests.reports.made import grid_record, sweep_record, write_sweep


def test_it_writes_one_file_and_leaves_the_model_alone(demo_child, tmp_path):
    before = names_in(demo_child)
    target = fusion_slerp.report(demo_child, out=tmp_path / "page.html")
    assert names_in(tmp_path) == ["page.html"]
    assert target.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert names_in(demo_child) == before


def test_the_default_name_is_that_of_the_models(tmp_path, monkeypatch, large_child):
    monkeypatch.chdir(tmp_path)
    assert fusion_slerp.report(large_child, quick=True).name == "Merged-72B-report.html"
    assert names_in(tmp_path) == ["Merged-72B-report.html"]
    assert default_name(("models/plays", "owner/code")) == "plays-code-report.html"


def test_an_existing_file_is_kept_unless_overwrite_is_set(large_child, tmp_path):
    file = tmp_path / "page.html"
    file.write_text("mine")
    with pytest.raises(OutputError, match="overwrite=True"):
        fusion_slerp.report(large_child, out=file, quick=True)
    assert file.read_text() == "mine"
    fusion_slerp.report(large_child, out=file, quick=True, overwrite=True)
    assert file.stat().st_size > 10_000
    assert names_in(tmp_path) == ["page.html"]


def test_a_missing_folder_and_a_folder_as_file_are_refused(large_child, tmp_path):
    with pytest.raises(OutputError, match="does not exist"):
        fusion_slerp.report(large_child, out=tmp_path / "no/page.html")
    with pytest.raises(OutputError, match="it is a folder"):
        fusion_slerp.report(large_child, out=tmp_path)


def test_one_model_that_is_no_merge_is_refused(parents, tmp_path):
    with pytest.raises(SettingsError, match=r"fusion_slerp report \S+ OTHER"):
        fusion_slerp.report(parents[0], out=tmp_path / "page.html")
    with pytest.raises(SettingsError, match="no folder"):
        fusion_slerp.report(tmp_path / "nothing", out=tmp_path / "page.html")
    with pytest.raises(SettingsError, match="needs models to compare"):
        fusion_slerp.report(parents[0], base=parents[1], out=tmp_path / "page.html")


def test_a_damaged_manifest_is_said_to_be(parents, tmp_path):
    (parents[0] / "merge_manifest.json").write_text("{}")
    with pytest.raises(SettingsError, match="fusion_slerp verify"):
        fusion_slerp.report(parents[0], out=tmp_path / "page.html")


def test_an_unreadable_evaluation_is_refused(large_child, tmp_path):
    (tmp_path / "bad.json").write_text('{"models": 3}')
    for name in ("bad.json", "none.json"):
        with pytest.raises(SettingsError, match="no readable evaluation"):
            fusion_slerp.report(
                large_child, evaluation=tmp_path / name, out=tmp_path / "page.html", quick=True
            )


def test_models_that_cannot_be_merged_are_shown_with_the_reason(tmp_path):
    a = write_checkpoint(tmp_path / "a", 1)
    b = write_checkpoint(tmp_path / "b", 2, config={"num_attention_heads": 4, "hidden_size": 4})
    data = gather(Subject((str(a), str(b))))
    relation = data["relations"]["a-b"]
    assert not relation["can_be_merged"]
    assert "num_attention_heads" in " ".join(relation["problems"])
    assert str(tmp_path) not in " ".join(relation["problems"])


ROWS = {"a": {"model": "plays", "files": {}}, "b": {"model": "owner/code", "revision": "0" * 40, "files": {}}}


def test_the_command_and_the_recipe_repeat_the_settings(tmp_path):
    settings = child_settings(make_settings(t=[0, 0.5, 1], dtype="float16", vocab_fill="mean"))
    found = reproduction(ROWS, settings, "my child")
    assert found["command"] == (
        f"fusion_slerp merge plays owner/code@{'0' * 40} -t '[0, 0.5, 1]' --dtype float16 --vocab-fill mean "
        "-o 'my child'"
    )
    recipe = parse_recipe(yaml.safe_load(found["recipe"]))
    assert recipe.models == ("plays", f"owner/code@{'0' * 40}")
    assert child_settings(make_settings(**recipe.options)) == settings


def test_models_that_were_in_memory_have_no_command():
    found = reproduction({"a": {"model": "x"}, "b": {"model": "y"}}, {"method": "slerp", "t": 0.5}, "child")
    assert found.keys() == {"settings", "verify"}


def test_paths_in_a_sweep_become_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    record = sweep_record()
    models = {
        "a": {"source": str(tmp_path / "mine/plays")},
        "b": {"source": "owner/code", "revision": "0" * 40},
    }
    settings = {"tokenizer": str(tmp_path / "mine"), "dtype": "float16"}
    folder = write_sweep(tmp_path / "sweep", replace(record, models=models, settings=settings))
    page = fusion_slerp.report(folder).read_text(encoding="utf-8")
    assert str(tmp_path) not in page
    assert os.path.basename(tmp_path) not in page
    data = gather(Subject((str(folder),)))
    assert [model["name"] for model in data["models"]] == ["plays", "owner/code"]
    assert "--tokenizer mine" in data["reproduction"]["command"]


def test_a_sweep_that_is_running_says_how_far_it_is(tmp_path):
    record = sweep_record()
    partial = replace(record, points=record.points[:3], best=2)
    data = gather(Subject((str(write_sweep(tmp_path / "s", partial)),)))
    assert "3 of 11 points so far" in data["summary"][0]


def test_the_best_of_a_grid_is_a_schedule():
    data = record_data(grid_record(), "grid")
    schedule = [{"filter": "self_attn", "value": 0.5}, {"filter": "mlp", "value": 0.25}, {"value": 0.5}]
    assert data["reproduction"]["command"] == (
        f"fusion_slerp merge plays code -t '{json.dumps(schedule)}' -o best"
    )
