"""The real `fusion_bench` command, in a subprocess, as a user or an editor starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

import fusion_slerp
from fusion_slerp import slerp

pytestmark = pytest.mark.host

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = Path(fusion_slerp.__file__).parent / "demo"
PLAYS, CODE = str(DEMO / "plays"), str(DEMO / "code")


def run(*arguments, cwd, program=("fusion_bench",), **environment):
    """Runs the command offline; returns the finished process, its output merged and unwrapped."""
    command = [str(Path(sys.executable).with_name(program[0])), *program[1:], *arguments]
    settings = {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    env = {**os.environ, **settings, **environment}
    return subprocess.run(
        command, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )


def finished(process):
    assert process.returncode == 0, process.stdout[-3000:]
    return process.stdout


def only(paths):
    (path,) = paths
    return path


def assert_is_merge_of_demo(child, t):
    a, b = load_file(f"{PLAYS}/model.safetensors"), load_file(f"{CODE}/model.safetensors")
    merged = load_file(child / "model.safetensors")
    assert merged.keys() == a.keys()
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        assert merged[name].equal(slerp(t, a[name], b[name]))


@pytest.fixture(scope="module")
def default_run(tmp_path_factory):
    """The README's command, once, from an empty folder."""
    folder = tmp_path_factory.mktemp("empty")
    return folder, finished(run("--config-name", "llm_slerp", cwd=folder))


def test_default_config_merges_saves_and_evaluates(default_run):
    folder, _ = default_run
    child = only(folder.glob("outputs/llm_slerp/*/merged_model"))
    assert_is_merge_of_demo(child, 0.5)
    report = json.loads((child.parent / "program_report.json").read_text())
    losses = [baseline["average"]["loss"] for baseline in report["baselines"].values()]
    assert len(losses) == 2
    assert report["average"]["loss"] < min(losses) - 0.1


def test_default_config_prints_one_table_with_all_three_models(default_run):
    _, output = default_run
    assert "model_1 is t = 0, model_2 is t = 1" in output
    table = output[output.index("Loss in nats per token") :]
    assert [name in table for name in ("model_1", "model_2", "merged")] == [True] * 3
    assert "merged: lowest average loss" in table


def test_default_config_leaves_nothing_else_in_the_folder(default_run):
    folder, _ = default_run
    assert [path.name for path in folder.iterdir()] == ["outputs"]


def test_overrides_point_it_at_other_models(tmp_path):
    output = finished(
        run(
            *("--config-name", "llm_slerp", "method.t=0.3", "method.model_save_path=child"),
            *(f"modelpool.models.model_1={CODE}", f"modelpool.models.model_2={PLAYS}"),
            *(f"modelpool.tokenizer={PLAYS}", "~taskpool", "method.show_pbar=true"),
            cwd=tmp_path,
        )
    )
    a, b = load_file(f"{CODE}/model.safetensors"), load_file(f"{PLAYS}/model.safetensors")
    merged = load_file(tmp_path / "child" / "model.safetensors")
    assert merged["model.norm.weight"].equal(slerp(0.3, a["model.norm.weight"], b["model.norm.weight"]))
    assert "merging: 100%" in output
    assert "Loading weights" not in output  # nobody uses the model, so it is not loaded back
    assert (tmp_path / "child" / "tokenizer.json").read_bytes() == (
        DEMO / "plays/tokenizer.json"
    ).read_bytes()


def test_multirun_gives_every_job_its_own_child(tmp_path):
    finished(run("--config-name", "llm_slerp", "--multirun", "method.t=0.2,0.8", "~taskpool", cwd=tmp_path))
    children = sorted(tmp_path.glob("outputs/multirun/llm_slerp/*/*/merged_model"))
    assert len(children) == 2
    for child, t in zip(children, (0.2, 0.8), strict=True):
        assert_is_merge_of_demo(child, t)


def test_the_editors_exact_command_line(tmp_path):
    launch = json.loads((REPOSITORY / ".vscode" / "launch.json").read_text())
    main_job = launch["configurations"][0]
    finished(
        run(
            *main_job["args"],
            cwd=REPOSITORY,
            program=("python", "-m", main_job["module"]),
            FUSION_BENCH_PROJECT_ROOT=str(tmp_path),
            **main_job["env"],
        )
    )
    assert_is_merge_of_demo(only(tmp_path.glob("outputs/llm_slerp/*/merged_model")), 0.5)


def test_the_tutorials_file_with_local_models(tmp_path):
    finished(
        run(
            *("--config-path", str(REPOSITORY / "config" / "_get_started"), "--config-name", "llm_slerp"),
            *(f"modelpool.models.model_1={PLAYS}", f"modelpool.models.model_2={CODE}"),
            *(f"modelpool.tokenizer={PLAYS}", "+method.model_save_path=child"),
            cwd=tmp_path,
        )
    )
    assert_is_merge_of_demo(tmp_path / "child", 0.5)


def test_as_a_method_of_the_hosts_own_configs(tmp_path):
    finished(
        run(
            *("method=fusion_slerp/slerp_lm", "modelpool=fusion_slerp/demo", "taskpool=dummy"),
            *("method.t=0.4", "merged_model_save_path=child"),
            cwd=tmp_path,
        )
    )
    assert_is_merge_of_demo(tmp_path / "child", 0.4)


def test_an_error_ends_the_output_with_its_fix(tmp_path):
    process = run(
        *("--config-name", "llm_slerp", "modelpool.models.model_2=./nowhere", "~taskpool"), cwd=tmp_path
    )
    assert process.returncode != 0
    message = process.stdout.strip().splitlines()[-6:-2]  # Hydra adds a line of advice of its own
    assert message[0].endswith("CheckpointError: ./nowhere: model not found"), message
    assert message[-1] == "Fix: correct the path", message
    assert not list(tmp_path.glob("outputs/llm_slerp/*/merged_model"))
