"""The command with a recipe of several documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models import write_checkpoint

RECIPE = """
name: early
merge_method: linear
models: [{model: ./A, parameters: {weight: 1}}, {model: ./B, parameters: {weight: 3}}]
---
merge_method: slerp
base_model: early
models: [{model: early}, {model: ./C}]
parameters: {t: 0.25}
"""


@pytest.fixture(autouse=True)
def _models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate("ABC"):
        write_checkpoint(Path(name), i)
    Path("recipe.yml").write_text(RECIPE)


def test_each_document_is_shown_and_the_last_like_any_merge(command):
    ended = command("merge", "recipe.yml", "-o", "child")
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert [line for line in lines if " of 2: " in line] == ["1 of 2: early", "2 of 2: the merged model"]
    assert "Done: 4 tensors (4 slerp)" in ended.out
    assert ended.out.endswith("Kept, as the merged model is made of them:\n  early\n")
    again = command("merge", "recipe.yml", "-o", "child-2")
    assert "  merged before: early" in again.out.splitlines()
    assert command("verify", "child", "--recompute", "all").code == 0


def test_json_holds_the_last_merge_and_the_line_for_all(command):
    found = command("merge", "recipe.yml", "-o", "child", "-I", "steps", "--threads", "1", "--json").json
    assert found["b"] == "./C"
    assert found["kept"] == ["steps/early"]
    assert found["command"] == "fusion_slerp merge recipe.yml --threads 1 -o child -I steps"


@pytest.mark.parametrize(
    ("words", "headline", "fix"),
    [
        ([], "no folder is named for the merged model", "fusion_slerp merge recipe.yml -o child"),
        (["-o", "x", "-t", "1"], "every document has its own settings", "set t in the document"),
        (["-o", "x", "--base", "A"], "every document has its own base", "set base_model in the document"),
    ],
)
def test_2_for_what_belongs_to_a_document(command, words, headline, fix):
    ended = command("merge", "recipe.yml", *words)
    assert ended.code == 2
    assert ended.err.startswith(f"error: {headline}\n")
    assert f"Fix: {fix}" in ended.err
    assert not Path("early").exists()


def test_2_for_a_folder_of_documents_without_documents(command):
    ended = command("merge", "A", "B", "-I", "steps", "-o", "child")
    assert ended.code == 2
    assert ended.err.startswith("error: --intermediate-dir has no effect here\n")


def test_other_commands_want_one_document(command):
    for verb in ("plan", "convert"):
        ended = command(verb, "recipe.yml")
        assert ended.code == 2
        assert "found: 2 documents" in ended.err
