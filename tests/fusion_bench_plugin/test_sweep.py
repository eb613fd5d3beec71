"""Sweeps in FusionBench: the program's own task pool on every point, and the best model for the program."""

from __future__ import annotations

import inspect
import json
from types import SimpleNamespace

import pytest
import torch
from fusion_bench.modelpool import CausalLMPool
from fusion_bench.taskpool.base_pool import BaseTaskPool

import fusion_slerp
from fusion_slerp import PerplexityTaskPool, SettingsError, merge
from fusion_slerp.fusion_bench_plugin.sweep_methods import CLASSES
from fusion_slerp.methods import METHODS
from fusion_slerp.sweeps.record import read_record
from tests.models import save_transformers_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parents")
    return [
        save_transformers_model(folder / name, "llama", seed, "float32") for seed, name in enumerate("ab")
    ]


class NormPool(BaseTaskPool):
    """A task pool of somebody: how large the head is; counts its models."""

    def __init__(self):
        super().__init__()
        self.n_models = 0

    def evaluate(self, model):
        self.n_models += 1
        return {"head": {"norm": model.lm_head.weight.norm().item()}}


def run(method, parents, task_pool, **pool):
    names = dict(zip(("plays", "code"), map(str, parents), strict=True))
    modelpool = CausalLMPool(names, tokenizer=None, **pool)
    method._program = SimpleNamespace(taskpool=task_pool, fabric=None, modelpool=modelpool, _taskpool=None)
    return method.run(modelpool)


def test_every_method_has_a_sweep():
    assert CLASSES.keys() == {each.class_name.replace("For", "SweepFor") for each in METHODS.values()}
    cls = fusion_slerp.SlerpSweepForCausalLM  # type: ignore[attr-defined]
    assert cls is CLASSES["SlerpSweepForCausalLM"]
    parameters = inspect.signature(cls).parameters
    assert list(parameters)[:5] == ["vary", "metric", "mode", "max_points", "sweep_path"]
    assert parameters["t"].default == 0.5
    described = inspect.getdoc(cls).partition("Args:\n")[2]
    assert all(f"    {name}: " in described for name in ("vary", "metric", "sweep_path", "t"))


def test_any_task_pool_judges_and_the_best_is_returned(parents, tmp_path):
    pool = NormPool()
    method = CLASSES["SlerpSweepForCausalLM"](
        vary={"t": "0:1:0.25"}, metric="head.norm", mode="max", sweep_path=str(tmp_path / "sweep")
    )
    best = run(method, parents, pool)
    record = read_record(tmp_path / "sweep")
    norms = [point.scores["head"]["norm"] for point in record.points]
    assert pool.n_models == 2 + 5
    assert best.lm_head.weight.norm().item() == max(norms)
    assert record.best_point.scores["head"]["norm"] == max(norms)
    assert record.models["a"]["name"] == "plays"
    assert "parent, " in str(record)
    assert str(record).endswith((", plays", ", code"))


def test_losses_of_the_perplexity_pool_are_compared_by_token(parents, tmp_path, capsys):
    text = tmp_path / "words.txt"
    text.write_text("to be or not to be " * 60)
    pool = PerplexityTaskPool({"words": str(text)}, baselines={"plays": str(parents[0])})
    saved = {"sweep_path": str(tmp_path / "sweep"), "model_save_path": str(tmp_path / "best")}
    method = CLASSES["LinearSweepForCausalLM"](vary={"weight": {"code": [0, 1]}}, **saved)
    best = run(method, parents, pool)
    record = read_record(tmp_path / "sweep")
    assert record.vary == {"weight.code": (0, 1)}
    assert record.points[0].differences["a"]["average"]["value"] == pytest.approx(0, abs=1e-6)
    assert all("best" in point.differences for point in record.points)
    assert "Differences" not in capsys.readouterr().out
    weight = {"a": 1.0, "b": float(record.best_point.values["weight.code"])}
    child = merge(*parents, out=tmp_path / "again", method="linear", weight=weight).out
    assert (tmp_path / "best/model.safetensors").read_bytes() == (child / "model.safetensors").read_bytes()
    assert best.config._name_or_path == str(tmp_path / "best")
    assert pool.evaluate(best)["average"]["loss"] == pytest.approx(
        record.best_point.scores["average"]["loss"]
    )


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"vary": {"t": [0, 1]}, "metric": "head.size"}, "the task pool's report lacks the metric"),
        ({"vary": {"t": [0, 2]}}, "invalid t"),
        ({"vary": [0, 1]}, "invalid vary"),
        ({"vary": {"density": [0, 1]}}, "no such option to vary"),
        ({"vary": {"t": [0, 1]}, "mode": "best"}, "invalid mode"),
    ],
)
def test_what_is_wrong(arguments, part, parents):
    with pytest.raises(SettingsError, match=part):
        run(CLASSES["SlerpSweepForCausalLM"](**arguments), parents, NormPool())


def test_a_task_pool_is_needed_and_models_that_can_be_read(parents):
    method = CLASSES["SlerpSweepForCausalLM"](vary={"t": [0, 1]})
    with pytest.raises(SettingsError, match="a sweep needs a task pool"):
        run(method, parents, None)
    loaded = {name: torch.nn.Linear(2, 2) for name in "ab"}
    modelpool = CausalLMPool(loaded, tokenizer=None)
    method._program = SimpleNamespace(taskpool=NormPool(), fabric=None, modelpool=modelpool, _taskpool=None)
    with pytest.raises(SettingsError, match="reads its models from their files"):
        method.run(modelpool)


@pytest.mark.host
@pytest.mark.long
def test_the_shipped_configuration_runs(host_command, tmp_path):
    words = ["--config-name", "llm_slerp_sweep", 'method.vary.t="0:1:0.5"', "taskpool.max_tokens=200"]
    code, output = host_command(*words, cwd=tmp_path)
    assert code == 0, output
    assert "Sweep: best t = " in output
    (folder,) = tmp_path.glob("outputs/llm_slerp_sweep/*")
    record = read_record(folder / "sweep")
    assert [point.values["t"] for point in record.points] == [0.0, 0.5, 1.0]
    report = json.loads((folder / "program_report.json").read_text())
    assert report["average"]["loss"] == pytest.approx(record.best_point.scores["average"]["loss"], abs=1e-6)
    assert (folder / "merged_model/merge_manifest.json").is_file()
