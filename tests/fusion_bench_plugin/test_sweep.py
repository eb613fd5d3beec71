"""Sweeps in FusionBench: the program's own task pool on every point, and the best model for the program."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fusion_bench.modelpool import CausalLMPool
from fusion_bench.taskpool.base_pool import BaseTaskPool

import fusion_slerp
from fusion_slerp import LMEvalTaskPool, PerplexityTaskPool, SettingsError, make_settings, merge
from fusion_slerp.fusion_bench_plugin.sweep_methods import CLASSES
from fusion_slerp.methods import METHODS
from fusion_slerp.searches.record import read_search
from fusion_slerp.sweeps.record import read_record
from tests.fusion_bench_plugin.command_runs import run_to_the_end
from tests.models import contents, save_transformers_model

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
    names = {each.class_name for each in METHODS.values()}
    assert CLASSES.keys() == {
        name.replace("For", f"{kind}For") for name in names for kind in ("Sweep", "Search")
    }
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


TASK = "fusion_slerp_demo"
PATH = f"tasks.{TASK}.metrics.acc.value"


@pytest.fixture(scope="module")
def demo():
    folder = Path(fusion_slerp.__file__).parent / "demo"
    return [folder / "plays", folder / "code"]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scores_of_tasks_are_compared_by_document(demo, tmp_path):
    pool = LMEvalTaskPool(TASK, limit=6, batch_size=8, baselines={"plays": str(demo[0])})
    folder = tmp_path / "sweep"
    method = CLASSES["SlerpSweepForCausalLM"](vary={"t": [0, 0.5]}, sweep_path=str(folder))
    best = run(method, demo, pool)
    record = read_record(folder)
    assert record.metric == {"name": "average.score", "better": "higher"}
    assert record.points[0].differences["a"]["average.score"]["value"] == 0
    assert all(f"{TASK}.acc" in point.differences["best"] for point in record.points)
    report = LMEvalTaskPool(TASK, limit=6, batch_size=8).evaluate(best)
    assert report["tasks"] == record.best_point.scores["tasks"]
    for path in (PATH, f"{TASK}.acc"):
        again = CLASSES["SlerpSweepForCausalLM"](vary={"t": [0, 0.5]}, metric=path, sweep_path=str(folder))
        run(again, demo, pool)
        record = read_record(folder)
        assert record.metric == {"name": path, "better": "higher"}
        assert "parent, " in str(record)


@pytest.mark.long
def test_a_search_stops_trials_early_and_returns_the_best(parents, tmp_path, capsys):
    text = tmp_path / "words.txt"
    text.write_text("to be or not to be " * 60)
    pool = PerplexityTaskPool({"words": str(text)}, context_length=16)
    folder = tmp_path / "search"
    given = {"vary": {"t": {"mlp": "0:1", "self_attn": "0:1"}}, "search_path": str(folder)}
    best = run(CLASSES["SlerpSearchForCausalLM"](trials=4, **given), parents, pool)
    record = read_search(folder)
    assert list(record.sweep.vary) == ["t.mlp", "t.self_attn"]
    assert len(record.trials) == 4
    assert any(trial.share < 1 for trial in record.trials)
    assert record.sweep.models["a"]["name"] == "plays"
    assert pool.evaluate(best)["average"]["loss"] == pytest.approx(
        record.best_point.scores["average"]["loss"]
    )
    saved = {"model_save_path": str(tmp_path / "best")}
    run(CLASSES["SlerpSearchForCausalLM"](trials=4, **given, **saved), parents, pool)
    t = make_settings(**json.loads((tmp_path / "best/merge_manifest.json").read_text())["settings"])
    assert t.schedules["t"].at("mlp") == record.best_point.values["t.mlp"]


def test_a_search_needs_a_pool_whose_texts_or_tasks_it_knows(parents):
    method = CLASSES["SlerpSearchForCausalLM"](vary={"t": "0:1"})
    with pytest.raises(SettingsError, match="a search cannot use this task pool"):
        run(method, parents, NormPool())
    with pytest.raises(SettingsError, match="a search needs a task pool"):
        run(method, parents, None)


def test_a_search_checks_its_metric_after_the_first_model(parents, tmp_path):
    (tmp_path / "words.txt").write_text("to be or not to be " * 9)
    pool = PerplexityTaskPool({"words": str(tmp_path / "words.txt")})
    method = CLASSES["SlerpSearchForCausalLM"](vary={"t": "0:1"}, metric="word.loss")
    with pytest.raises(SettingsError, match="the task pool's report lacks the metric"):
        run(method, parents, pool)


@pytest.mark.host
@pytest.mark.long
def test_the_shipped_search_runs(host_command, tmp_path):
    words = ["--config-name", "llm_slerp_search", "method.trials=3", "taskpool.max_tokens=200"]
    code, output = host_command(*words, cwd=tmp_path)
    assert code == 0, output
    assert "Search: best t = " in output
    (folder,) = tmp_path.glob("outputs/llm_slerp_search/*")
    record = read_search(folder / "search")
    report = json.loads((folder / "program_report.json").read_text())
    assert report["average"]["loss"] == pytest.approx(record.best_point.scores["average"]["loss"], abs=1e-6)


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


@pytest.mark.host
@pytest.mark.long
def test_two_processes_share_the_points(tmp_path):
    """The record, the report and the best merged model are those of one process; each line is there once."""
    words = ["--config-name", "llm_slerp_sweep", 'method.vary.t="0:1:0.5"', "taskpool.max_tokens=200"]
    words += ["hydra.run.dir=run", "fabric.accelerator=cpu"]
    made = []
    for count in (1, 2):
        (tmp_path / str(count)).mkdir()
        code, printed = run_to_the_end(tmp_path / str(count), *words, f"fabric.devices={count}")
        assert code == 0, printed[-3000:]
        assert [printed.count(text) for text in ("Sweep: best t = ", "t = 0.5: average.loss = ")] == [1, 1]
        made.append(tmp_path / str(count) / "run")
    one, two = made
    for file in ("sweep/sweep.json", "program_report.json"):
        assert timeless(json.loads((two / file).read_text())) == timeless(
            json.loads((one / file).read_text())
        )
    assert contents(two / "merged_model") == contents(one / "merged_model")


@pytest.mark.host
@pytest.mark.long
def test_any_task_pool_of_two_processes_judges_each_point_in_both(tmp_path):
    """It may use them together; a sweep that resumes evaluates the same in both."""
    words = ["--config-name", "llm_slerp_sweep", "method.metric=head.norm", "method.model_save_path=null"]
    words += ["taskpool={_target_: tests.fusion_bench_plugin.joint_task_pool.JointTaskPool}"]
    words += ["hydra.run.dir=run", "fabric.accelerator=cpu", "fabric.devices=2"]
    repository = str(Path(__file__).parents[2])
    for values in ("0,1", "0,0.5,1"):
        code, printed = run_to_the_end(tmp_path, *words, f"method.vary.t={values!r}", PYTHONPATH=repository)
        assert code == 0, printed[-3000:]
    record = read_record(tmp_path / "run/sweep")
    assert [point.scores["head"]["processes"] for point in record.points] == [2, 2, 2]


def timeless(value):
    """Figures without those that depend on the time."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "tokens_per_s")}
    return [timeless(each) for each in value] if isinstance(value, list) else value
