"""`fusion_slerp merge`: what it writes, prints and returns."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fusion_slerp import merge
from fusion_slerp.cli import recent
from fusion_slerp.output.staging import Staging
from fusion_slerp.output.unfinished import find_unfinished
from tests.cli.conftest import DEMO
from tests.models import TOKENS, contents, names_in, tiny_tensors, write_checkpoint

ROOT = str(Path(__file__).parents[2])


def weights(folder):
    """All but the card, whose heading is the folder's name, and the manifest, which has the card's digest."""
    beside = ("README.md", "merge_manifest.json")
    return {name: data for name, data in contents(folder).items() if name not in beside}


def lines_of(ended):
    """The lines that a merge printed, by their titles."""
    return dict(re.findall(r"(?m)^(\S.*)\n  (.*)$", ended.out))


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
    child = tmp_path / "first child"
    printed = lines_of(command("merge", *parents, "-t", "0.3", *words, "-o", child))["To repeat this merge:"]
    assert printed.startswith(f"fusion_slerp merge {parents[0]} {parents[1]} -t 0.3 ")
    assert "strict" not in printed  # the default
    before, written = weights(child), (child / "config.json").stat().st_mtime_ns
    assert command(*shlex.split(printed)[1:]).code == 0
    assert weights(child) == before
    assert (child / "config.json").stat().st_mtime_ns > written


def test_the_yaml_that_it_prints_does_the_same_again(command, parents, tmp_path):
    words = ("merge", *parents, "-t", "0.3", "--dtype", "float16", "-o", tmp_path / "one")
    assert "As a config file" not in command(*words).out
    ended = command(*words, "--show-config", "--overwrite")
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(ended.out.partition("As a config file:\n")[2])
    assert command("merge", recipe, "-o", tmp_path / "two").code == 0
    assert weights(tmp_path / "one") == weights(tmp_path / "two")


@pytest.fixture
def three(parents, tmp_path):
    return *parents, write_checkpoint(tmp_path / "models/c", seed=3)


LINEAR = ("--method", "linear", "-w", "a=0.4", "-w", "b=[0.1, 1e-1]", "-w", "c=0.3", "--no-normalize")


def test_three_models_are_merged_linearly_and_again_from_what_is_printed(command, three, tmp_path):
    ended = command("merge", *three, *LINEAR, "-o", tmp_path / "one", "--show-config")
    assert ended.code == 0
    weight = {"a": 0.4, "b": [0.1, 0.1], "c": 0.3}
    merge(*three, out=tmp_path / "called", method="linear", weight=weight, normalize=False)
    assert weights(tmp_path / "one") == weights(tmp_path / "called")
    found = load_file(tmp_path / "one/model.safetensors")
    models = [load_file(model / "model.safetensors") for model in three]
    for name, tensor in found.items():
        expected = sum(w * m[name].astype(np.float64) for w, m in zip((0.4, 0.1, 0.3), models, strict=True))
        assert np.allclose(tensor, expected, rtol=2e-7, atol=0)
    printed = lines_of(ended)["To repeat this merge:"]
    assert " --method linear -w a=0.4 -w 'b=[0.1, 0.1]' -w c=0.3 --no-normalize --overwrite -o " in printed
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
    assert ended.err.startswith("error: slerp merges exactly 2 models, not 3\n")
    words = ("--method", "passthrough", "--base", three[2], "-o", "child")
    assert "passthrough takes no base" in command("merge", three[0], *words).err
    assert "weight, an option of linear, " in command("merge", *three[:2], "-w", "1", "-o", "child").err


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
    assert ended.err.startswith("error: 2 problems, nothing was written:\n\n[1] ")
    assert ended.err.endswith("Fix: correct the path\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "error: no folder is named for the merged model"),
        (("-o", "child", "--treads", "1"), "error: No such option"),
        (("-o", "child", "--threads", "0"), "invalid threads"),
    ],
)
def test_2_for_wrong_options(words, message, command, parents):
    ended = command("merge", *parents, *words)
    assert ended.code == 2
    assert message in ended.err


def test_2_for_one_model_alone(command, parents):
    ended = command("merge", parents[0], "-o", "child")
    assert ended.code == 2
    assert ended.err.startswith("error: the second model is missing\n")
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
    assert ended.err.startswith("error: NaN or infinity in a weight\n  tensor: model.norm.weight\n")
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
            "fix": "choose another output folder, or use --overwrite to replace this one",
        }
    ]


# --- lines to paste ---------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize("out", ["-dash", "it's a child", "~tilde", "deep/-dash"])
def test_every_printed_line_works_in_a_shell(command, parents, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    parents[0].rename("-a")
    parents[1].rename("b \"quoted\" $HOME 'b'")
    typed = tmp_path / out if out.startswith("~") else out
    ended = command("merge", "-t", "0.3", "-o", typed, "--", "-a", "b \"quoted\" $HOME 'b'")
    assert (ended.code, ended.err) == (0, "")
    lines = lines_of(ended)
    assert lines["The merged model:"] == out
    assert lines["To upload it to the Hub:"].startswith("hf upload OWNER/NAME ")
    before = weights(tmp_path / out)
    for title in ("To repeat this merge:", "To verify it:"):
        function = f'fusion_slerp() {{ {shlex.quote(sys.executable)} -m fusion_slerp "$@"; }}'
        words = ["bash", "-c", f"{function}\n{lines[title]}"]
        done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ROOT})
        assert (done.returncode, done.stderr) == (0, "")
        assert weights(tmp_path / out) == before
    assert "OK: matches its manifest" in done.stdout


def test_the_printed_line_of_python_loads_the_model(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = command("merge", DEMO / "plays", DEMO / "code", "-o", "it's a child")
    names = {}
    exec(lines_of(ended)["To load it in Python:"], names)
    assert names["model"].num_parameters() == 1_878_240


def test_lines_are_not_wrapped_and_names_stand_on_their_own(command, parents, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    out = tmp_path / ("long " * 20 + "child")
    lines = command("merge", *parents, "-o", out).out.splitlines()
    assert f"  {out}" in lines
    assert lines[0] == f"Done: 4 tensors (4 slerp), {lines[0].partition('), ')[2]}"


# --- notes and warnings -----------------------------------------------------------------------------------


@pytest.fixture
def longer(tmp_path):
    tensors = {n: np.resize(v, (7, 4)) if len(v) == 6 else v for n, v in tiny_tensors(4).items()}
    return write_checkpoint(
        tmp_path / "longer", tensors=tensors, tokens=(*TOKENS, "more"), config={"vocab_size": 7}
    )


def test_counts_of_the_vocabulary_are_notes(command, parents, longer, tmp_path):
    ended = command("merge", parents[0], longer, "-o", tmp_path / "child")
    counts = f"6 merged, 1 copied from {longer}"
    assert f"note: vocabularies of 6 and 7 rows, 7 in the merged model: {counts}\n" in ended.err
    assert "warning: " not in ended.err
    found = command("merge", parents[0], longer, "-o", tmp_path / "two", "--json").json
    assert found["warnings"] == []
    assert [note.partition(":")[0] for note in found["notes"]] == [
        "vocabularies of 6 and 7 rows, 7 in the merged model"
    ]


@pytest.mark.parametrize(("dtype", "is_told"), [("float16", False), ("float32", True)])
def test_a_narrow_dtype_of_a_recipe_matters_to_wider_models_only(command, tmp_path, dtype, is_told):
    models = [write_checkpoint(tmp_path / name, tensors=tiny_tensors(1, dtype)) for name in "ab"]
    lines = ["merge_method: slerp", "base_model: {0}", "models: [{{model: {0}}}, {{model: {1}}}]"]
    lines += ["parameters: {{t: 0.3}}", "dtype: bfloat16"]
    (tmp_path / "recipe.yml").write_text("\n".join(lines).format(*models))
    for verb, words in (("plan", ()), ("merge", ("-o", tmp_path / "child"))):
        ended = command(verb, tmp_path / "recipe.yml", *words)
        assert ended.code == 0
        assert ("note: dtype: bfloat16: mergekit rounds wider weights" in ended.err) == is_told


# --- suggestions ------------------------------------------------------------------------------------------


def test_the_line_that_an_error_suggests_is_complete(command, parents, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fix = command("merge", *parents, "-t", "[0, 1]", "--no-strict").err.rpartition("Fix: ")[2].strip()
    assert fix == f"fusion_slerp merge {parents[0]} {parents[1]} -t '[0, 1]' --no-strict -o child"
    assert command(*shlex.split(fix)[1:]).code == 0
    fix = command("merge", *parents).err.rpartition("Fix: ")[2].strip()
    assert fix == f"fusion_slerp merge {parents[0]} {parents[1]} -o child-2"
    fix = command("merge", parents[0], "-t", "0.1").err.rpartition("Fix: ")[2].strip()
    assert fix == f"fusion_slerp merge {parents[0]} SECOND -t 0.1 -o child-2"
    (tmp_path / "recipe.yml").write_text(f"a: {parents[0]}\nb: {parents[1]}\n")
    fix = command("merge", "recipe.yml").err.rpartition("Fix: ")[2].strip()
    assert fix == "fusion_slerp merge recipe.yml -o child-2"
    ended = command("merge", "recipe.yml", parents[1], "-o", "x")
    assert ended.err.rpartition("Fix: ")[2].strip() == "fusion_slerp merge recipe.yml -o x"


def test_names_that_do_not_print_are_escaped(command, parents, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = command("merge", *parents, "-o", "red \x1b[31m child")
    assert (ended.code, ended.out.replace("\n", "").isprintable()) == (0, True)
    lines = lines_of(ended)
    assert lines["The merged model:"] == r"red \x1b[31m child"
    assert lines["To verify it:"] == r"fusion_slerp verify $'red \x1b[31m child'"


def test_an_environment_that_names_others_in_part_is_an_error(command, parents, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = command("merge", *parents, "-o", tmp_path / "child")
    assert done.code == 2
    assert "error: the environment names other processes, but not how to find them" in done.err
    assert not (tmp_path / "child").exists()
    done = command("merge", *parents, "-o", tmp_path / "child", "--json")
    assert done.json["error"]["message"].startswith("the environment names other processes")
