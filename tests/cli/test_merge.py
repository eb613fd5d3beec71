"""`fusion_slerp merge`: what it writes, prints and returns."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fusion_slerp import merge
from tests.models import contents, names_in, tiny_tensors, write_checkpoint


def weights(folder):
    """All but the card, whose heading is the folder's name, and the manifest, which has the card's digest."""
    beside = ("README.md", "merge_manifest.json")
    return {name: data for name, data in contents(folder).items() if name not in beside}


def test_it_writes_what_the_python_call_writes(command, parents, tmp_path):
    ended = command("merge", *parents, "-t", "[0.2, 0.8]", "--dtype", "bfloat16", "-o", tmp_path / "child")
    assert ended.code == 0
    merge(*parents, out=tmp_path / "called", t=[0.2, 0.8], dtype="bfloat16")
    assert weights(tmp_path / "child") == weights(tmp_path / "called")


def test_the_line_that_it_prints_does_the_same_again(command, parents, tmp_path):
    words = [
        "--tokens",
        "{be: {source: b, force: true}}",
        "--epsilon",
        "1e-9",
        "--no-strict",
        "--threads",
        "1",
    ]
    ended = command("merge", *parents, "-t", "0.3", *words, "-o", tmp_path / "first child")
    printed = ended.out.partition("The same again:\n")[2].partition("\n\n")[0].strip()
    assert printed.startswith(f"fusion_slerp merge {parents[0]} {parents[1]} -t 0.3 ")
    assert "strict" not in printed  # the default
    again = printed.replace("first child", "second child")
    assert command(*shlex.split(again)[1:]).code == 0
    assert weights(tmp_path / "first child") == weights(tmp_path / "second child")


def test_the_yaml_that_it_prints_does_the_same_again(command, parents, tmp_path):
    ended = command("merge", *parents, "-t", "0.3", "--dtype", "float16", "-o", tmp_path / "one")
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(ended.out.partition("to keep:\n")[2])
    assert command("merge", recipe, "-o", tmp_path / "two").code == 0
    assert weights(tmp_path / "one") == weights(tmp_path / "two")


def test_options_of_the_command_line_win_over_the_recipe(command, parents, tmp_path):
    ended = command("merge", *parents, "-t", "0.3", "--dtype", "float16", "-o", tmp_path / "one", "--json")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(ended.json["recipe"])
    assert command("merge", recipe, "-t", "1", "-o", tmp_path / "two").code == 0
    found, b = load_file(tmp_path / "two/model.safetensors"), load_file(parents[1] / "model.safetensors")
    assert found["model.norm.weight"].dtype == np.float16
    assert np.array_equal(found["model.norm.weight"], b["model.norm.weight"].astype(np.float16))


def test_json_is_one_object_with_these_fields(command, parents, tmp_path):
    ended = command("merge", *parents, "-o", tmp_path / "child", "--json")
    assert ended.code == 0
    found = ended.json
    assert {key: found[key] for key in ("out", "a", "b", "tensors", "rules", "warnings")} == {
        "out": str(tmp_path / "child"),
        "a": str(parents[0]),
        "b": str(parents[1]),
        "tensors": 4,
        "rules": {"slerp": 4},
        "warnings": [],
    }
    assert found["bytes_written"] == (tmp_path / "child/model.safetensors").stat().st_size
    assert found["elapsed_s"] > 0
    assert found["command"].startswith("fusion_slerp merge ")


def test_quiet_says_nothing_of_success_and_all_of_errors(command, parents, tmp_path):
    write_checkpoint(tmp_path / "other", seed=3, config={"rope_theta": 1.0})
    ended = command("merge", parents[0], tmp_path / "other", "-o", tmp_path / "child", "--quiet")
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    ended = command("merge", *parents, "-o", tmp_path / "child", "-q")
    assert ended.code == 2
    assert ended.out == ""
    assert "the output exists" in ended.err


def test_warnings_go_to_stderr_once(command, parents, tmp_path):
    write_checkpoint(tmp_path / "other", seed=3, config={"rope_theta": 1.0})
    ended = command("merge", parents[0], tmp_path / "other", "-o", tmp_path / "child")
    assert ended.err.count("warning: the configs differ in rope_theta: 500000.0 (a), 1.0 (b)") == 1
    assert "rope_theta" not in ended.out


# --- exit codes -----------------------------------------------------------------------------------------


def test_2_for_models_that_are_not_there_with_the_message_as_it_is(command, tmp_path):
    ended = command("merge", tmp_path / "x", tmp_path / "y", "-o", tmp_path / "child")
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("2 problems, nothing was written:\n\n[1] ")
    assert ended.err.endswith("Fix: correct the path\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Missing option"),
        (("-o", "child", "--treads", "1"), "No such option"),
        (("-o", "child", "--threads", "0"), "threads is not usable"),
    ],
)
def test_2_for_wrong_options(words, message, command, parents):
    ended = command("merge", *parents, *words)
    assert ended.code == 2
    assert message in ended.err


def test_2_for_one_model_alone(command, parents):
    ended = command("merge", parents[0], "-o", "child")
    assert ended.code == 2
    assert ended.err.startswith("the second model is missing\n")
    assert f"Fix: fusion_slerp merge {parents[0]} SECOND -o child" in ended.err


def test_2_for_a_recipe_that_is_not_there_or_has_a_model_beside_it(command, parents, tmp_path):
    assert "nothing.yml: recipe not found" in command("merge", "nothing.yml", "-o", "child").err
    (tmp_path / "recipe.yml").write_text("a: x\nb: y\n")
    ended = command("merge", tmp_path / "recipe.yml", parents[1], "-o", "child")
    assert ended.code == 2
    assert "a recipe names both models itself" in ended.err


def test_1_for_a_merge_that_fails_and_nothing_is_left(command, parents, tmp_path):
    tensors = tiny_tensors(5)
    tensors["model.norm.weight"][2] = np.nan
    save_file(tensors, parents[1] / "model.safetensors", {"format": "pt"})
    ended = command("merge", *parents, "-o", tmp_path / "out" / "child")
    assert ended.code == 1
    assert ended.err.startswith("NaN or infinity in a weight\n  tensor: model.norm.weight\n")
    assert "out" not in names_in(tmp_path)


def test_errors_are_json_too_where_that_was_asked_for(command, parents, tmp_path):
    (tmp_path / "child").mkdir()
    ended = command("merge", *parents, "-o", tmp_path / "child", "--json")
    assert ended.code == 2
    error = ended.json["error"]
    assert error["kind"] == "OutputError"
    assert error["message"] in ended.err
    assert error["problems"] == [
        {
            "kind": "OutputError",
            "headline": "the output exists",
            "fields": [["out", str(tmp_path / "child")]],
            "fix": "choose another folder, or set overwrite: true to replace it",
        }
    ]
