"""`fusion_slerp convert`: one form of recipe to the other, and back."""

from __future__ import annotations

import pytest
import yaml

from tests.models import write_checkpoint


def test_there_and_back_merge_the_same(command, parents, tmp_path):
    merged = command("merge", *parents, "-t", "0.3", "-o", tmp_path / "child", "--json")
    ours = tmp_path / "ours.yml"
    ours.write_text(merged.json["recipe"])
    theirs = tmp_path / "theirs.yml"
    assert command("convert", ours, "-o", theirs).code == 0
    assert yaml.safe_load(theirs.read_text())["merge_method"] == "slerp"
    back = command("convert", theirs)
    assert back.code == 0
    assert "merge_method" not in yaml.safe_load(back.out)
    again = tmp_path / "again.yml"
    again.write_text(back.out)
    assert command("merge", again, "-o", tmp_path / "two").code == 0
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "child" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_json_holds_the_yaml(command, tmp_path):
    write_checkpoint(tmp_path / "a")
    recipe = command("merge", tmp_path / "a", tmp_path / "a", "-o", tmp_path / "c", "--json").json["recipe"]
    (tmp_path / "ours.yml").write_text(recipe)
    found = command("convert", tmp_path / "ours.yml", "--json").json
    assert found["form"] == "mergekit"
    assert found["a"] == found["b"] == str(tmp_path / "a")
    assert yaml.safe_load(found["yaml"])["merge_method"] == "slerp"


def test_2_for_what_cannot_be_read_or_written(command, tmp_path):
    (tmp_path / "list.yml").write_text("- 1\n")
    assert "recipe not found" in command("convert", tmp_path / "none.yml").err
    assert "found: no such file (did you mean 'list.yml'?)" in command("convert", tmp_path / "lits.yml").err
    assert command("convert", tmp_path / "list.yml").code == 2
    ended = command("convert", tmp_path / "list.yml", "--to", "mergkit")
    assert ended.code == 2
    assert "did you mean 'mergekit'" in ended.err


def test_a_file_is_never_replaced(command, parents, tmp_path):
    recipe = command("merge", *parents, "-o", tmp_path / "c", "--json").json["recipe"]
    (tmp_path / "ours.yml").write_text(recipe)
    ended = command("convert", tmp_path / "ours.yml", "-o", tmp_path / "ours.yml")
    assert ended.code == 2
    assert "found: it exists" in ended.err
    assert f"Fix: use -o {tmp_path / 'ours-2.yml'}\n" in ended.err
    assert (tmp_path / "ours.yml").read_text() == recipe


@pytest.mark.parametrize("out", [".", "..", "/", "folder"])
def test_a_folder_is_no_file_to_write_to(command, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    models = "base_model: ./a, models: [{model: ./a}, {model: ./b}]"
    recipe = f"{{merge_method: slerp, {models}, parameters: {{t: 0.5}}}}"
    (tmp_path / "recipe.yml").write_text(recipe)
    ended = command("convert", "recipe.yml", "-o", out)
    assert ended.code == 2
    assert ended.err.endswith("found: it exists\nFix: write to a file in a folder that exists\n")
