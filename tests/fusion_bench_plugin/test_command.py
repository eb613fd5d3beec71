"""The real `fusion_bench` command, as a user or an editor starts it.

Once as the very program; the others come out of a process that has imported the host already.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

import fusion_slerp
from fusion_slerp import slerp
from fusion_slerp.recipes import parse_recipe, to_hydra
from fusion_slerp.settings.schedule import parse_schedule
from tests.fusion_bench_plugin.command_runs import (
    CODE,
    DEMO,
    PLAYS,
    assert_is_merge_of_demo,
    only,
    run_to_the_end,
)

pytestmark = pytest.mark.host

REPOSITORY = Path(__file__).resolve().parents[2]
CURVE = [0, 0.5, 0.3, 0.7, 1], [1, 0.5, 0.7, 0.3, 0]


@pytest.fixture
def finished(host_command):
    """Runs a command to its good end; returns what it printed."""

    def run(*arguments, **options):
        code, printed = host_command(*arguments, **options)
        assert code == 0, printed[-3000:]
        return printed

    return run


@pytest.fixture(scope="module")
def default_run(tmp_path_factory):
    """The README's command, once, from an empty folder."""
    folder = tmp_path_factory.mktemp("empty")
    code, printed = run_to_the_end(folder, "--config-name", "llm_slerp")
    assert code == 0, printed[-3000:]
    return folder, printed


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
    assert "slerp of a = model_1, b = model_2; t = 0.5" in output
    table = output[output.index("Loss in nats per token") :]
    assert [name in table for name in ("model_1", "model_2", "merged")] == [True] * 3
    assert "merged: lowest average loss" in table


def test_the_last_lines_are_the_merge_and_the_table(default_run):
    folder, output = default_run
    last = output[output.index("Merged model: ") :]
    child = only(folder.glob("outputs/llm_slerp/*/merged_model"))
    assert last.startswith(f"Merged model: {child}: 47 tensors (")
    assert last.splitlines()[1].startswith("Loss in nats per token")
    assert last.splitlines()[-1].startswith("merged: lowest average loss")


def test_default_config_leaves_nothing_else_in_the_folder(default_run):
    folder, _ = default_run
    assert [path.name for path in folder.iterdir()] == ["outputs"]


def test_overrides_point_it_at_other_models(finished, tmp_path):
    output = finished(
        *("--config-name", "llm_slerp", "method.t=0.3", "method.model_save_path=child"),
        *(f"modelpool.models.model_1={CODE}", f"modelpool.models.model_2={PLAYS}"),
        *(f"modelpool.tokenizer={PLAYS}", "~taskpool", "method.show_pbar=true"),
        cwd=tmp_path,
    )
    a, b = load_file(f"{CODE}/model.safetensors"), load_file(f"{PLAYS}/model.safetensors")
    merged = load_file(tmp_path / "child" / "model.safetensors")
    assert merged["model.norm.weight"].equal(slerp(0.3, a["model.norm.weight"], b["model.norm.weight"]))
    assert "merging: 100%" in output
    assert "Loading weights" not in output  # nobody uses the model, so it is not loaded back
    assert (tmp_path / "child" / "tokenizer.json").read_bytes() == (
        DEMO / "plays/tokenizer.json"
    ).read_bytes()


def test_multirun_gives_every_job_its_own_child(finished, tmp_path):
    finished("--config-name", "llm_slerp", "--multirun", "method.t=0.2,0.8", "~taskpool", cwd=tmp_path)
    children = sorted(tmp_path.glob("outputs/multirun/llm_slerp/*/*/merged_model"))
    assert len(children) == 2
    for child, t in zip(children, (0.2, 0.8), strict=True):
        assert_is_merge_of_demo(child, t)


def assert_demo_has(child, t_of, name):
    """Whether a tensor of the demo's child was made with the t of its schedule."""
    a, b = load_file(f"{PLAYS}/model.safetensors"), load_file(f"{CODE}/model.safetensors")
    merged = load_file(child / "model.safetensors")
    n_layers = 1 + max(int(key.split(".")[2]) for key in a if ".layers." in key)
    for layer in range(n_layers):
        key = f"model.layers.{layer}.{name}"
        t = t_of(layer / (n_layers - 1))
        assert merged[key].equal(a[key] if t == 0 else b[key] if t == 1 else slerp(t, a[key], b[key])), key


def test_a_gradient_on_the_command_line(finished, tmp_path):
    finished("--config-name", "llm_slerp", "method.t=[0,0.5,1]", "~taskpool", cwd=tmp_path)
    child = only(tmp_path.glob("outputs/llm_slerp/*/merged_model"))
    assert_demo_has(child, parse_schedule([0, 0.5, 1]).entries[0].value, "mlp.up_proj.weight")


def test_a_curve_by_name(finished, tmp_path):
    method = "method=fusion_slerp/slerp_lm_attention_mlp"
    finished("--config-name", "llm_slerp", method, "~taskpool", cwd=tmp_path)
    child = only(tmp_path.glob("outputs/llm_slerp/*/merged_model"))
    attention, mlp = (parse_schedule(values).entries[0].value for values in CURVE)
    assert_demo_has(child, attention, "self_attn.q_proj.weight")
    assert_demo_has(child, mlp, "mlp.up_proj.weight")
    assert_demo_has(child, lambda depth: 0.5, "input_layernorm.weight")


def test_the_weighted_average_by_name(finished, tmp_path):
    words = ("method=fusion_slerp/linear_lm", "method.weight={a:0.3,b:[0,1]}", "~taskpool")
    output = finished("--config-name", "llm_slerp", *words, cwd=tmp_path)
    assert "linear of a = model_1, b = model_2; weight = {'a': 0.3, 'b': [0, 1]}" in output
    weight = {"a": 0.3, "b": [0, 1]}
    fusion_slerp.merge(PLAYS, CODE, out=tmp_path / "same", method="linear", weight=weight)
    child = only(tmp_path.glob("outputs/llm_slerp/*/merged_model"))
    found, same = (folder / "model.safetensors" for folder in (child, tmp_path / "same"))
    assert found.read_bytes() == same.read_bytes()


def test_a_recipe_of_mergekit_as_a_configuration(finished, tmp_path):
    recipe = {
        "merge_method": "slerp",
        "base_model": CODE,
        "models": [{"model": PLAYS}, {"model": CODE}],
        "parameters": {"t": [{"filter": "mlp", "value": [0, 1]}, {"value": 0.25}]},
    }
    (tmp_path / "recipe.yaml").write_text(to_hydra(parse_recipe(recipe)))
    finished("--config-path", str(tmp_path), "--config-name", "recipe", cwd=tmp_path)
    fusion_slerp.merge(CODE, PLAYS, out=tmp_path / "same", **parse_recipe(recipe).options)
    found, same = (tmp_path / name / "model.safetensors" for name in ("merged_model", "same"))
    assert found.read_bytes() == same.read_bytes()


@pytest.mark.long
def test_the_editors_exact_command_line(finished, tmp_path):
    launch = json.loads((REPOSITORY / ".vscode" / "launch.json").read_text())
    main_job = launch["configurations"][0]
    finished(
        *main_job["args"],
        cwd=REPOSITORY,
        module=main_job["module"],
        FUSION_BENCH_PROJECT_ROOT=str(tmp_path),
        **main_job["env"],
    )
    assert_is_merge_of_demo(only(tmp_path.glob("outputs/llm_slerp/*/merged_model")), 0.5)


def test_the_tutorials_file_with_local_models(finished, tmp_path):
    finished(
        *("--config-path", str(REPOSITORY / "config" / "_get_started"), "--config-name", "llm_slerp"),
        *(f"modelpool.models.model_1={PLAYS}", f"modelpool.models.model_2={CODE}"),
        *(f"modelpool.tokenizer={PLAYS}", "+method.model_save_path=child"),
        cwd=tmp_path,
    )
    assert_is_merge_of_demo(tmp_path / "child", 0.5)


def test_as_a_method_of_the_hosts_own_configs(finished, tmp_path):
    finished(
        *("method=fusion_slerp/slerp_lm", "modelpool=fusion_slerp/demo", "taskpool=dummy"),
        *("method.t=0.4", "merged_model_save_path=child"),
        cwd=tmp_path,
    )
    assert_is_merge_of_demo(tmp_path / "child", 0.4)


@pytest.mark.parametrize(
    ("override", "fix"),
    [
        ("method.t=2", "use method.t=0.5"),
        ("method.checksum=md5", "use method.checksum=xxh3_128"),
        ("taskpool.stride=0", None),
    ],
)
def test_fixes_are_spelled_as_overrides(host_command, tmp_path, override, fix):
    code, printed = host_command("--config-name", "llm_slerp", override, cwd=tmp_path)
    assert code != 0
    assert "Traceback" not in printed
    assert printed.count("\nerror: ") == 1
    if fix:
        assert printed.strip().splitlines()[-3] == f"Fix: {fix}"


def test_an_error_ends_the_output_with_its_fix(host_command, tmp_path):
    code, printed = host_command(
        *("--config-name", "llm_slerp", "modelpool.models.model_2=./nowhere", "~taskpool"), cwd=tmp_path
    )
    assert code != 0
    message = printed.strip().splitlines()[-6:-2]  # Hydra adds a line of advice of its own
    assert message[0] == "error: ./nowhere: model not found", message
    assert message[-1] == "Fix: correct the path", message
    assert "Traceback" not in printed
    assert printed.count("model not found") == 1
    assert not list(tmp_path.glob("outputs/llm_slerp/*/merged_model"))
