"""The task pool of lm-evaluation-harness as FusionBench sees it: settings, report, configuration, table."""

import copy
import inspect
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fusion_bench.utils.instantiate_utils import instantiate
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer

import fusion_slerp
from fusion_slerp import LMEvalTaskPool
from fusion_slerp.errors import SettingsError
from fusion_slerp.evaluation.harness import run_tasks
from fusion_slerp.fusion_bench_plugin.evaluated_models import load_baseline
from tests.cluster.ranks_in_threads import one_at_a_time, run_ranks

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]

DEMO = Path(fusion_slerp.__file__).parent / "demo"
CONFIG = Path(__file__).resolve().parents[2] / "config/taskpool/fusion_slerp/lm_eval.yaml"
TASK = "fusion_slerp_demo"
BOTH = {"plays": str(DEMO / "plays"), "code": {"pretrained_model_name_or_path": str(DEMO / "code")}}


@pytest.fixture
def child():
    return AutoModelForCausalLM.from_pretrained(DEMO / "plays", dtype="auto")


def test_report_has_the_scores_of_all_models_and_their_differences(child, capsys):
    report = LMEvalTaskPool(TASK, limit=6, batch_size=8, baselines=BOTH).evaluate(child)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "plays")
    assert {key: report[key] for key in ("lm_eval", "limit", "batch_size", "tasks")} == run_tasks(
        child, tokenizer, TASK, limit=6, batch_size=8
    )
    assert report["baselines"]["plays"]["tasks"] == report["tasks"]  # the child is that model
    assert report["differences"]["plays"][TASK]["acc"]["value"] == 0
    assert report["differences"]["code"][TASK]["acc"]["n"] == 6
    assert f"\nmerged: {TASK} acc " in capsys.readouterr().out


def test_without_baselines_the_report_is_the_scores_alone(child, capsys):
    report = LMEvalTaskPool([TASK], limit=2).evaluate(child)
    assert list(report) == ["lm_eval", "limit", "batch_size", "tasks"]
    assert "merged" in capsys.readouterr().out


def test_baselines_run_in_the_type_of_the_merged_model(child):
    baselines = {"plays": str(DEMO / "plays")}
    wide = LMEvalTaskPool(TASK, limit=4, baselines=baselines).evaluate(child.to(torch.float32))
    assert wide["differences"]["plays"][TASK]["acc_norm"]["stderr"] == 0
    assert {parameter.dtype for parameter in child.parameters()} == {torch.float32}


def test_all_problems_are_reported_at_once_before_a_model_is_there(tmp_path):
    with pytest.raises(SettingsError) as caught:
        LMEvalTaskPool(
            [],
            include_path=str(tmp_path / "none"),
            num_fewshot=-1,
            limit=0,
            batch_size=0,
            device="gpu",
            baselines={"parent": "./none"},
            tokenizer="./none",
        )
    message = str(caught.value)
    assert "8 problems, nothing was evaluated" in message
    for name in ("tasks", "include_path", "num_fewshot", "limit", "batch_size", "device"):
        assert f"] invalid {name}\n" in message
    assert "invalid taskpool.baselines.parent" in message
    assert "invalid taskpool.tokenizer" in message


@pytest.mark.parametrize("limit", [True, -1, 1.5, "3", float("nan")])
def test_limit_is_a_number_of_documents_or_a_share(limit):
    with pytest.raises(SettingsError, match="invalid limit"):
        LMEvalTaskPool(TASK, limit=limit)


def test_unknown_settings_are_errors_with_the_nearest_name():
    with pytest.raises(SettingsError, match="LMEvalTaskPool has no setting 'num_fewshots'") as caught:
        LMEvalTaskPool(TASK, num_fewshots=1)
    assert "did you mean 'num_fewshot'?" in str(caught.value)


def test_tokenizers_that_cannot_be_opened_are_reported_together(child, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    child.config._name_or_path = ""
    pool = LMEvalTaskPool(TASK, limit=2)
    pool._program = SimpleNamespace(modelpool=SimpleNamespace(tokenizer=None))
    with pytest.raises(SettingsError, match="the model pool has no tokenizer"):
        pool.evaluate(child)


def test_yaml_names_every_argument_of_the_class_with_its_default():
    cfg = OmegaConf.to_container(OmegaConf.load(CONFIG))
    assert cfg.pop("_target_") == "fusion_slerp.LMEvalTaskPool"
    parameters = inspect.signature(LMEvalTaskPool).parameters.values()
    named = {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}
    assert list(cfg) == list(named)
    chosen_here = {"tasks", "baselines"}
    assert {k: v for k, v in cfg.items() if k not in chosen_here} == {
        k: v for k, v in named.items() if k not in chosen_here
    }


def test_the_host_builds_it_from_yaml_and_it_survives_the_round_trip(child, tmp_path):
    models = {"plays": str(DEMO / "plays")}
    config = OmegaConf.create({"modelpool": {"models": models}, "taskpool": OmegaConf.load(CONFIG)})
    config.taskpool.limit = 2
    pool = instantiate(config.taskpool, _recursive_=False)
    pool.to_yaml(tmp_path / "pool.yaml")
    again = LMEvalTaskPool.from_yaml(tmp_path / "pool.yaml")
    assert again.config == pool.config
    report = pool.evaluate(child)
    assert list(report["baselines"]) == ["plays"]
    assert again.evaluate(child) == report


def test_several_processes_share_the_models_and_report_the_same(child, capsys, monkeypatch):
    """Each model is loaded and evaluated by one of them."""
    alone = LMEvalTaskPool(TASK, limit=6, baselines=BOTH).evaluate(child)
    opened = LMEvalTaskPool(TASK, limit=6, baselines=BOTH)
    done = []
    real = LMEvalTaskPool._run

    def run(self, model, tokenizer, ranks):
        done.append(ranks.rank)
        return real(self, model, tokenizer, ranks)

    def work(ranks):
        pool = copy.copy(opened)
        pool._program = SimpleNamespace(ranks=ranks, modelpool=None)
        return pool.evaluate(child)

    module = "fusion_slerp.fusion_bench_plugin.lm_eval_task_pool"
    monkeypatch.setattr(LMEvalTaskPool, "_run", one_at_a_time(run))
    monkeypatch.setattr(f"{module}.load_baseline", one_at_a_time(load_baseline))
    monkeypatch.setattr(f"{module}.ranks_of", lambda program: program.ranks)
    assert [end.value for end in run_ranks(2, work)] == [alone, alone]
    assert sorted(done) == [0, 0, 1]
