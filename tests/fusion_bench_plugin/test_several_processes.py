"""The `fusion_bench` command with several processes: they merge and evaluate together, and end together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.fusion_bench_plugin.command_runs import (
    CODE,
    PLAYS,
    assert_is_merge_of_demo,
    assert_merged,
    only,
    run_to_the_end,
)
from tests.models import contents, names_in

pytestmark = [pytest.mark.host, pytest.mark.long]

REPOSITORY = Path(__file__).resolve().parents[2]
PROCESSES = ("--config-name", "llm_slerp", "fabric.accelerator=cpu", "fabric.devices=2")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The merged model of one process, with its report next to it."""
    folder = tmp_path_factory.mktemp("alone")
    code, printed = run_to_the_end(folder, "--config-name", "llm_slerp")
    assert code == 0, printed[-3000:]
    return child_in(folder)


def child_in(folder):
    return only(folder.glob("outputs/llm_slerp/*/merged_model"))


def of_ranks(printed, text):
    """How many lines of all processes contain a text."""
    return sum(text in line for line in printed.splitlines())


def untimed(report):
    """A report without the figures that depend on the machine."""
    return {
        key: untimed(value) if isinstance(value, dict) else value
        for key, value in report.items()
        if key != "tokens_per_s"
    }


def report_next_to(child):
    return untimed(json.loads((child.parent / "program_report.json").read_text()))


def test_two_processes_merge_and_evaluate_together(alone, tmp_path):
    """The merged model, its manifest and the report are those of one process."""
    code, printed = run_to_the_end(tmp_path, *PROCESSES)
    assert code == 0, printed[-3000:]
    child = child_in(tmp_path)
    assert contents(child) == contents(alone)
    assert report_next_to(child) == report_next_to(alone)
    assert "All distributed processes registered. Starting with 2 processes" in printed
    for text in (
        "slerp of a = model_1",
        "merging by slerp",
        "merging: 100%",
        "evaluating all models in bfloat16",
        "Loss in nats per token",
        "Merged model: ",
        "merged: ",
    ):
        assert of_ranks(printed, text) == 1, text


def test_three_processes_make_the_same_files(alone, tmp_path):
    code, printed = run_to_the_end(tmp_path, *PROCESSES, "fabric.devices=3", "~taskpool")
    assert code == 0, printed[-3000:]
    assert contents(child_in(tmp_path)) == contents(alone)


def test_the_program_saves_the_merged_model_once(tmp_path):
    """To the `merged_model_save_path` of FusionBench, which each process would write to."""
    options = ("method.model_save_path=null", "merged_model_save_path=child", "~taskpool", "method.t=0.4")
    code, printed = run_to_the_end(tmp_path, *PROCESSES, *options)
    assert code == 0, printed[-3000:]
    assert of_ranks(printed, "Saving the merged model to child") == 1
    assert_is_merge_of_demo(tmp_path / "child", t=0.4)


@pytest.mark.parametrize(("pool", "path"), [("streamed", "null"), ("loaded", "child")])
def test_two_processes_have_the_merged_model(tmp_path, pool, path):
    """An evaluation of ours saves the model of each process."""
    ours = "tests.fusion_bench_plugin"
    loader = f"{{_target_: {ours}.test_loaded_checks.load, folder: %s}}"
    models = {"model_1": PLAYS, "model_2": CODE}
    values = models if pool == "streamed" else {name: loader % folder for name, folder in models.items()}
    code, printed = run_to_the_end(
        tmp_path,
        *(*PROCESSES, "taskpool=dummy"),
        *(f"modelpool.models.{name}={value}" for name, value in values.items()),
        *(f"method.model_save_path={path}", f"taskpool._target_={ours}.saving_task_pool.SavingTaskPool"),
        "taskpool.model_save_path=of_${oc.env:LOCAL_RANK,0}",
        PYTHONPATH=str(REPOSITORY),
    )
    assert code == 0, printed[-3000:]
    for rank in range(2):
        merged = load_file(tmp_path / f"of_{rank}")
        embedding = merged.pop("lm_head.weight", None)  # of tied tensors, one is saved
        merged.setdefault("model.embed_tokens.weight", embedding)
        assert_merged(merged, *(load_file(f"{folder}/model.safetensors") for folder in (PLAYS, CODE)), 0.5)
    assert (tmp_path / "child").exists() == (path == "child")
    if path == "child":
        assert_is_merge_of_demo(tmp_path / "child", 0.5)
    assert of_ranks(printed, "slerp of a = model_1") == 1


def broken(folder):
    """A model with a NaN."""
    shutil.copytree(CODE, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("arguments", "headline"),
    [
        ("modelpool.models.model_2=./nowhere", "./nowhere: model not found"),
        ("modelpool.models.model_2=./broken", "NaN or infinity in a weight"),
        ("method.model_save_path=broken", "the output exists"),
        ("method.t=2", "invalid t"),
    ],
)
def test_an_error_ends_both_processes_and_is_shown_once(tmp_path, arguments, headline):
    broken(tmp_path / "broken")
    code, printed = run_to_the_end(tmp_path, *PROCESSES, "~taskpool", arguments)
    assert code == 1
    assert of_ranks(printed, f"error: {headline}") == of_ranks(printed, headline) == 1
    assert of_ranks(printed, "Fix: ") == of_ranks(printed, "Error executing job") == 1
    assert "Traceback" not in printed
    assert names_in(tmp_path) == ["broken", "outputs"]
    assert not list(tmp_path.glob("outputs/llm_slerp/*/*merged_model*"))
