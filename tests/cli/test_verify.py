"""`fusion_slerp verify` and `fusion_slerp clean`."""

from __future__ import annotations

import pytest

from fusion_slerp import OutputError, merge
from fusion_slerp.output.staging import Staging
from tests.models import names_in, write_checkpoint


@pytest.fixture
def child(parents, tmp_path):
    merge(*parents, out=tmp_path / "models/child")
    return tmp_path / "models/child"


@pytest.fixture
def damaged(child):
    data = bytearray((child / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (child / "model.safetensors").write_bytes(data)
    return child


def test_0_and_a_line_if_all_is_as_written(command, child):
    ended = command("verify", child)
    assert ended.code == 0
    assert ended.out.startswith(f"OK: matches its manifest\n  {child}\n  7 files, 4 tensors, ")
    assert ended.err == ""


def test_brackets_in_a_name_are_no_markup(command, child):
    child = child.rename(child.with_name("[red]child :smile:"))
    assert f"  {child}\n" in command("verify", child).out


def test_1_and_a_table_of_what_deviates(command, damaged):
    ended = command("verify", damaged)
    assert ended.code == 1
    first, folder, _, header, *rows = ended.out.splitlines()
    assert first == "Verification failed: 1 file deviates"
    assert folder == f"  {damaged}"
    assert header.split() == ["file", "tensor", "found"]
    assert [row.split()[:2] for row in rows] == [["model.safetensors", "model.norm.weight"]]


def test_2_without_a_manifest(command, parents):
    ended = command("verify", parents[0])
    assert ended.code == 2
    assert ended.err.startswith("error: no merge_manifest.json to verify against\n")


def test_json_and_quiet(command, damaged):
    found = command("verify", damaged, "--json")
    assert found.code == 1
    assert found.json["ok"] is False
    assert [(d["file"], d["tensor"]) for d in found.json["deviations"]] == [
        ("model.safetensors", "model.norm.weight")
    ]
    quiet = command("verify", damaged, "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (1, "", "")


def test_parents_and_recomputing(command, child, parents):
    ended = command("verify", child, "--inputs", "--recompute", "all")
    assert ended.code == 0
    assert ended.out.splitlines()[3:] == [
        "  2 source models: configs, tokenizers and headers of weight files",
        "  no SHA-256 of weight files compared: the manifest has none (merge with hash_inputs)",
        "  4 tensors: norms and angles measured again and compared",
        "  4 tensors: merged again and compared bit by bit",
    ]
    moved = parents[0].rename(parents[0].with_name("moved"))
    ended = command("verify", child, "--recompute", "2")
    assert ended.code == 2
    assert f"Fix: fusion_slerp verify {child} --recompute 2 --model a=FOLDER\n" in ended.err
    for words in (["--model", f"a={moved}"], ["--a", moved], ["--a", moved, "--b", parents[1]]):
        assert command("verify", child, "--recompute", "2", *words).code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "FOLDER"], "invalid --model"),
        (["--model", "A=FOLDER"], "invalid --model"),
        (["--model", "a="], "invalid --model"),
        (["--model", "a=x", "--a", "y"], "model a is given twice"),
    ],
)
def test_where_a_model_is_must_be_clear(command, child, words, message):
    ended = command("verify", child, "--recompute", "1", *words)
    assert ended.code == 2
    assert ended.err.startswith(f"error: {message}\n")
    assert "Fix: " in ended.err


def test_models_of_a_linear_merge(command, parents, tmp_path):
    c = write_checkpoint(tmp_path / "models/c", seed=3)
    assert command("merge", *parents, c, "--method", "linear", "-o", tmp_path / "models/mean").code == 0
    moved = c.rename(tmp_path / "moved")
    assert command("verify", tmp_path / "models/mean", "--recompute", "all").code == 2
    ended = command("verify", tmp_path / "models/mean", "--inputs", "--model", f"c={moved}", "--json")
    assert (ended.code, ended.json["ok"]) == (0, True)


def test_a_count_that_is_none(command, child):
    ended = command("verify", child, "--recompute", "many")
    assert ended.code == 2
    assert "found: 'many'" in ended.err


# --- clean ----------------------------------------------------------------------------------------------


@pytest.fixture
def interrupted(parents, tmp_path, monkeypatch):
    real = Staging.add

    def add(self, file):
        real(self, file)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Staging, "add", add)
    with pytest.raises(OutputError):
        merge(*parents, out=tmp_path / "child")
    monkeypatch.undo()
    return tmp_path / "child"


def test_clean_says_what_it_removed(command, interrupted, tmp_path):
    ended = command("clean", interrupted)
    assert ended.code == 0
    first, folder = ended.out.splitlines()
    assert first.startswith("Removed 1 of 1 weight files, ")
    assert folder == f"  {tmp_path / '.child.partial'}"
    assert names_in(tmp_path) == ["models"]
    assert command("clean", interrupted).out.startswith("Nothing to remove: ")


def test_clean_in_json(command, interrupted, tmp_path):
    assert command("clean", interrupted, "--json").json["removed"]["folder"] == str(
        tmp_path / ".child.partial"
    )
    assert command("clean", interrupted, "--json").json == {"removed": None}


def test_clean_leaves_a_folder_of_somebody_else_with_a_word(command, tmp_path):
    (tmp_path / ".mine.partial").mkdir()
    (tmp_path / ".mine.partial/thesis.tex").write_text("precious")
    ended = command("clean", tmp_path / "mine")
    assert ended.code == 0
    assert ended.out.startswith("Nothing to remove: ")
    left = f"{tmp_path / '.mine.partial'} was left alone: no merge made it (found: thesis.tex)"
    assert ended.err == f"warning: {left}\n"
    assert (tmp_path / ".mine.partial/thesis.tex").exists()


def test_a_resumed_merge_says_so(command, interrupted, parents):
    ended = command("merge", *parents, "-o", interrupted)
    assert ended.code == 0
    folder = interrupted.with_name(".child.partial")
    resumed = f"Resuming: 1 of 1 weight files, in\n  {folder}\nVerifying finished files first.\n"
    assert ended.out.startswith(resumed)
    assert ", 1 of 1 files from an interrupted run" in ended.out


def test_models_that_a_recipe_names(command, parents, tmp_path):
    recipe = tmp_path / "recipe.yml"
    a, b = parents
    models = f"- model: {a}\n- model: {b}\n"
    recipe.write_text(f"merge_method: linear\nparameters: {{weight: 1.0}}\nmodels:\n{models}")
    assert command("merge", recipe, "-o", tmp_path / "child").code == 0
    moved = a.rename(tmp_path / "moved")
    ended = command("verify", tmp_path / "child", "--inputs", "--model", recipe)
    assert ended.code == 2
    recipe.write_text(recipe.read_text().replace(str(a), str(moved)))
    assert command("verify", tmp_path / "child", "--inputs", "--model", recipe).code == 0
