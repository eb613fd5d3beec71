"""`fusion_slerp merge`: what it writes, prints and returns."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fusion_slerp import merge
from fusion_slerp.cli import recent
from fusion_slerp.output.staging import Staging
from fusion_slerp.output.unfinished import find_unfinished
from tests.cli.conftest import DEMO
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
    printed = ended.out.partition("To repeat this merge:\n")[2].partition("\n\n")[0].strip()
    assert printed.startswith(f"fusion_slerp merge {parents[0]} {parents[1]} -t 0.3 ")
    assert "strict" not in printed  # the default
    again = printed.replace("first child", "second child")
    assert command(*shlex.split(again)[1:]).code == 0
    assert weights(tmp_path / "first child") == weights(tmp_path / "second child")


def test_the_yaml_that_it_prints_does_the_same_again(command, parents, tmp_path):
    ended = command("merge", *parents, "-t", "0.3", "--dtype", "float16", "-o", tmp_path / "one")
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(ended.out.partition("As a config file:\n")[2])
    assert command("merge", recipe, "-o", tmp_path / "two").code == 0
    assert weights(tmp_path / "one") == weights(tmp_path / "two")


@pytest.fixture
def three(parents, tmp_path):
    return *parents, write_checkpoint(tmp_path / "models/c", seed=3)


LINEAR = ("--method", "linear", "-w", "a=0.4", "-w", "b=[0.1, 1e-1]", "-w", "c=0.3", "--no-normalize")


def test_three_models_are_merged_linearly_and_again_from_what_is_printed(command, three, tmp_path):
    ended = command("merge", *three, *LINEAR, "-o", tmp_path / "one")
    assert ended.code == 0
    weight = {"a": 0.4, "b": [0.1, 0.1], "c": 0.3}
    merge(*three, out=tmp_path / "called", method="linear", weight=weight, normalize=False)
    assert weights(tmp_path / "one") == weights(tmp_path / "called")
    found = load_file(tmp_path / "one/model.safetensors")
    models = [load_file(model / "model.safetensors") for model in three]
    for name, tensor in found.items():
        expected = sum(w * m[name].astype(np.float64) for w, m in zip((0.4, 0.1, 0.3), models, strict=True))
        assert np.allclose(tensor, expected, rtol=2e-7, atol=0)
    printed = ended.out.partition("To repeat this merge:\n")[2].partition("\n\n")[0].strip()
    assert " --method linear -w a=0.4 -w 'b=[0.1, 0.1]' -w c=0.3 --no-normalize -o " in printed
    assert command(*shlex.split(printed.replace("/one", "/two"))[1:]).code == 0
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    (tmp_path / "recipe.yml").write_text(ended.out.partition("As a config file:\n")[2])
    assert command("merge", tmp_path / "recipe.yml", "-o", tmp_path / "three").code == 0
    assert weights(tmp_path / "one") == weights(tmp_path / "three")


def test_json_names_every_model(command, three, tmp_path):
    found = command("merge", *three, *LINEAR, "-o", tmp_path / "child", "--json").json
    assert [found[label] for label in "abc"] == list(map(str, three))
    assert found["rules"] == {"linear": 4}


def test_2_for_models_that_the_method_does_not_take(command, three, tmp_path):
    ended = command("merge", *three, "-o", tmp_path / "child")
    assert ended.code == 2
    assert ended.err.startswith("slerp merges exactly 2 models, not 3\n")
    assert "slerp takes no base" in command("merge", *three[:2], "--base", three[2], "-o", "child").err
    assert "weight, an option of linear" in command("merge", *three[:2], "-w", "1", "-o", "child").err


def test_the_rate_that_is_kept_counts_this_run_alone(command, tmp_path, monkeypatch):
    remembered = []
    monkeypatch.setattr(recent, "remember", lambda models, nbytes, elapsed_s: remembered.append(nbytes))
    words = ("merge", DEMO / "plays", DEMO / "code", "--max-shard-size", "500kB", "--threads", "1")
    assert command(*words, "-o", tmp_path / "whole").code == 0
    real, calls = Staging.add, iter(range(99))

    def add(self, file):
        if next(calls) >= 2:
            raise OSError(5, "Input/output error")
        real(self, file)

    with monkeypatch.context() as patch:
        patch.setattr(Staging, "add", add)
        assert command(*words, "-o", tmp_path / "child").code == 1
    left = find_unfinished(tmp_path / "child")
    found = command(*words, "-o", tmp_path / "child", "--json").json
    assert found["files_resumed"] == len(left.finished) == 2
    sizes = {file.name: file.stat().st_size for file in tmp_path.glob("child/*.safetensors")}
    share = 1 - sum(sizes[name] for name in left.finished) / sum(sizes.values())
    whole, resumed = remembered
    assert resumed == pytest.approx(whole * share, rel=0.001)


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
    assert "a recipe names the models itself" in ended.err


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
