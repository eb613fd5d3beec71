"""Tasks of lm-evaluation-harness on the demo models: scores, differences, and errors before a model runs."""

import dataclasses
import json
import logging
import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import fusion_slerp
from fusion_slerp.errors import SettingsError
from fusion_slerp.evaluation import harness_tasks
from fusion_slerp.evaluation.harness import evaluate_tasks, run_tasks
from fusion_slerp.evaluation.harness_documents import HarnessEvaluation, paired_differences
from fusion_slerp.evaluation.harness_table import compare_with_best, print_scores, verdict
from fusion_slerp.evaluation.harness_tasks import SHIPPED_TASKS, open_tasks

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]

DEMO = Path(fusion_slerp.__file__).parent / "demo"
TASK = "fusion_slerp_demo"
CHOICES = """\
task: {name}
custom_dataset: !function data.load
test_split: test
output_type: multiple_choice
doc_to_text: passage
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
DATA = """\
from datasets import Dataset, DatasetDict

def load(**metadata):
    rows = [{"passage": f"{i} and", "choices": [" one", " two"], "answer": i % 2} for i in range(6)]
    return DatasetDict({"test": Dataset.from_list(rows)})
"""


def demo_model(name: str):
    folder = DEMO / name
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    return model, AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def plays():
    return demo_model("plays")


@pytest.fixture(scope="module")
def demo_task():
    return open_tasks([TASK])


@pytest.fixture
def own_tasks(tmp_path) -> Path:
    """A folder with two tasks of the user: `mine`, and `group` of it."""
    (tmp_path / "data.py").write_text(DATA, encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(CHOICES.format(name="mine"), encoding="utf-8")
    (tmp_path / "other.yaml").write_text(CHOICES.format(name="other"), encoding="utf-8")
    group = "group: ours\ntask: [mine, other]\naggregate_metric_list: [{metric: acc, aggregation: mean}]\n"
    (tmp_path / "ours.yaml").write_text(group, encoding="utf-8")
    return tmp_path


def error_of(*args, **kwargs) -> str:
    with pytest.raises(SettingsError) as caught:
        open_tasks(*args, **kwargs)
    return str(caught.value)


# --- scores ---------------------------------------------------------------------------------------------


def test_scores_are_plain_json_with_all_that_a_table_needs(plays):
    scores = run_tasks(*plays, TASK, limit=4, batch_size=8)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    assert scores["limit"] == 4
    assert scores["batch_size"] == 8
    task = scores["tasks"][TASK]
    assert (task["version"], task["num_fewshot"], task["n"], task["dataset"]) == (1.0, 0, 4, None)
    assert list(task["metrics"]) == ["acc", "acc_norm"]
    assert task["metrics"]["acc"].keys() == {"value", "stderr", "higher_is_better"}
    assert task["metrics"]["acc"]["higher_is_better"] is True


def test_accuracy_is_that_of_the_likeliest_line(plays, demo_task):
    """The slow, obvious way, one choice at a time."""
    model, tokenizer = plays
    result = evaluate_tasks(model, tokenizer, demo_task, limit=6)
    lines = (SHIPPED_TASKS / f"{TASK}.jsonl").read_text(encoding="utf-8").splitlines()[:6]
    right = []
    for question in map(json.loads, lines):
        context = tokenizer(question["passage"])["input_ids"]
        likelihoods = []
        for choice in question["choices"]:
            ids = tokenizer(f"{question['passage']}\n{choice}")["input_ids"]
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, len(context) - 1 : -1].float()
            targets = torch.tensor(ids[len(context) :])
            likelihoods.append(-torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item())
        right.append(float(np.argmax(likelihoods) == question["answer"]))
    assert list(result.documents[TASK]["acc"].values()) == right
    assert result.scores["tasks"][TASK]["metrics"]["acc"]["value"] == pytest.approx(np.mean(right))


def test_open_tasks_serve_several_models_and_leave_everything_as_it_was(plays, demo_task):
    model, tokenizer = plays
    model.train()
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    level, pad = logging.getLogger("lm_eval").level, tokenizer.pad_token
    first = evaluate_tasks(model, tokenizer, demo_task, limit=4)
    assert model.training
    model.eval()
    assert evaluate_tasks(model, tokenizer, demo_task, limit=4) == first
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    assert (logging.getLogger("lm_eval").level, tokenizer.pad_token) == (level, pad)


def test_limit_may_be_a_share_and_examples_are_added_where_the_task_allows_it(plays, own_tasks):
    scores = run_tasks(*plays, "mine", own_tasks, limit=0.5)["tasks"]["mine"]
    assert (scores["n"], scores["num_fewshot"]) == (3, 0)
    assert run_tasks(*plays, "mine", own_tasks, num_fewshot=1)["tasks"]["mine"]["num_fewshot"] == 1
    fixed = run_tasks(*plays, TASK, limit=2, num_fewshot=1)["tasks"][TASK]
    assert fixed["num_fewshot"] == 0


def test_a_group_is_listed_with_its_mean_and_a_file_by_its_tasks_name(plays, own_tasks):
    tasks = run_tasks(*plays, ["ours", str(own_tasks / "mine.yaml")], own_tasks)["tasks"]
    assert set(tasks) == {"ours", "mine", "other"}
    assert tasks["ours"]["n"] == 12
    assert tasks["ours"]["metrics"]["acc"]["value"] == tasks["mine"]["metrics"]["acc"]["value"]


@pytest.mark.long
def test_nothing_is_printed_unless_progress_bars_are_wanted(plays, own_tasks, capsys):
    """Errors of medians are bootstrapped, about which the harness prints a line."""
    text = CHOICES.format(name="middle").replace("aggregation: mean", "aggregation: median")
    (own_tasks / "middle.yaml").write_text(text, encoding="utf-8")
    tasks = open_tasks("middle", own_tasks)
    assert evaluate_tasks(*plays, tasks).scores["tasks"]["middle"]["metrics"]["acc"]["stderr"] is not None
    assert capsys.readouterr() == ("", "")
    evaluate_tasks(*plays, tasks, show_pbar=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "loglikelihood" in err


@pytest.mark.long
def test_scores_equal_those_of_the_harness_own_command_on_the_saved_child(tmp_path):
    child = tmp_path / "child"
    fusion_slerp.merge(DEMO / "plays", DEMO / "code", t=0.5, out=child)
    command = [
        sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={child}",
        "--tasks", TASK, "--include_path", str(SHIPPED_TASKS), "--batch_size", "4", "--device", "cpu",
        "--output_path", str(tmp_path / "results"), "--log_samples",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(next((tmp_path / "results").rglob("results_*.json")).read_text(encoding="utf-8"))
    model = AutoModelForCausalLM.from_pretrained(child, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(child)
    result = evaluate_tasks(model, tokenizer, open_tasks([TASK]), batch_size=4)
    for metric, ours in result.scores["tasks"][TASK]["metrics"].items():
        assert ours["value"] == theirs["results"][TASK][f"{metric},none"]
        assert ours["stderr"] == theirs["results"][TASK][f"{metric}_stderr,none"]
    lines = next((tmp_path / "results").rglob("samples_*.jsonl")).read_text(encoding="utf-8").splitlines()
    samples = sorted(map(json.loads, lines), key=lambda sample: sample["doc_id"])
    assert list(result.documents[TASK]["acc"].values()) == [sample["acc"] for sample in samples]


# --- the task that ships --------------------------------------------------------------------------------


def test_questions_have_four_different_lines_and_one_answer():
    path = SHIPPED_TASKS / f"{TASK}.jsonl"
    questions = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert path.stat().st_size < 200_000
    assert 60 <= len(questions) <= 120
    assert len({question["id"] for question in questions}) == len(questions)
    for question in questions:
        assert len(set(question["choices"])) == 4
        text = (DEMO / f"texts/{question['id'].partition('-')[0]}.txt").read_text(encoding="utf-8")
        assert f"{question['passage']}\n{question['choices'][question['answer']]}\n" in text


@pytest.mark.long
def test_each_demo_model_is_best_on_its_own_kind_of_text(demo_task):
    scores = {}
    for name in ("plays", "code", "manual"):
        documents = evaluate_tasks(*demo_model(name), demo_task, batch_size=16).documents[TASK]["acc"]
        values = list(documents.values())
        scores[name] = [sum(values[i : i + 32]) for i in (0, 32, 64)]
    best = [max(scores, key=lambda name, i=i: scores[name][i]) for i in range(3)]
    assert best == ["plays", "code", "manual"]


# --- differences ----------------------------------------------------------------------------------------


def evaluation(
    values: dict[str, float], metric: str = "acc", higher: bool | None = True
) -> HarnessEvaluation:
    mean = sum(values.values()) / len(values)
    metrics = {metric: {"value": mean, "stderr": 0.1, "higher_is_better": higher}}
    task = {"version": 1, "num_fewshot": 0, "n": len(values), "dataset": None, "metrics": metrics}
    scores = {"lm_eval": "1", "limit": None, "batch_size": 1, "tasks": {"quiz": task}}
    return HarnessEvaluation(scores, {"quiz": {metric: values}})


def answers(right: Iterable[Any]) -> HarnessEvaluation:
    return evaluation({str(i): float(each) for i, each in enumerate(right)})


def test_a_difference_is_paired_by_document():
    difference = paired_differences(answers("1101"), answers("1000"))["quiz"]["acc"]
    assert difference["value"] == 0.5
    assert difference["n"] == 4
    assert difference["stderr"] == pytest.approx(np.std([0, 1, 0, 1], ddof=1) / 2)
    assert difference["low"] < 0 < 1 < difference["high"]
    same = paired_differences(answers("1101"), answers("1101"))["quiz"]["acc"]
    assert (same["value"], same["stderr"], same["low"], same["high"]) == (0, 0, 0, 0)


def test_intervals_of_differences_hold_the_truth_in_95_of_100():
    """Two models of equal skill that find the same questions hard."""
    generator = np.random.default_rng(0)
    n_held = 0
    for _ in range(400):
        hard = generator.random(100)
        pair = [answers((0.7 * hard + 0.3 * generator.random(100)) < 0.5) for _ in range(2)]
        difference = paired_differences(*pair)["quiz"]["acc"]
        n_held += difference["low"] <= 0 <= difference["high"]
    assert 0.93 * 400 <= n_held <= 0.97 * 400


def test_only_the_same_documents_are_paired(plays, demo_task):
    few, more = (evaluate_tasks(*plays, demo_task, limit=limit) for limit in (2, 3))
    assert paired_differences(few, more) == {}
    assert paired_differences(few, few)[TASK]["acc"]["n"] == 2


def test_a_metric_that_is_no_mean_of_documents_has_no_difference(plays, tmp_path):
    (tmp_path / "data.py").write_text(DATA, encoding="utf-8")
    rolling = (
        "task: rolling\ncustom_dataset: !function data.load\ntest_split: test\n"
        "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{passage}}'\n"
        "metric_list: [{metric: word_perplexity}]\n"
    )
    (tmp_path / "rolling.yaml").write_text(rolling, encoding="utf-8")
    result = evaluate_tasks(*plays, open_tasks("rolling", tmp_path))
    metric = result.scores["tasks"]["rolling"]["metrics"]["word_perplexity"]
    assert metric["value"] > 1
    assert metric["higher_is_better"] is False
    assert result.documents["rolling"] == {}


def test_outcomes_need_an_interval_without_zero_and_follow_the_metrics_direction():
    models = {"a": answers("0" * 40), "b": answers("01" * 20), "merged": answers("0111" * 10)}
    compared = compare_with_best(models, "merged")["quiz", "acc"]
    assert (compared.rival, compared.outcome) == ("b", "better")
    models["merged"] = answers("01" * 19 + "11")
    assert compare_with_best(models, "merged")["quiz", "acc"].outcome == "within the noise"
    down = {
        name: evaluation(dict(each.documents["quiz"]["acc"]), higher=False) for name, each in models.items()
    }
    compared = compare_with_best(down, "merged")["quiz", "acc"]
    assert (compared.rival, compared.outcome) == ("a", "worse")
    unknown = {name: evaluation({"0": 1.0, "1": 0.0}, higher=None) for name in models}
    assert compare_with_best(unknown, "merged") == {}


def test_verdict_counts_outcomes_of_several_tasks():
    comparison = compare_with_best({"a": answers("0001"), "merged": answers("0001")}, "merged")["quiz", "acc"]
    assert verdict({}, "merged") == ""
    alone = verdict({("quiz", "acc"): comparison}, "merged")
    assert alone == "merged: quiz acc the same as the best other model, a"
    two = {("x", "acc"): dataclasses.replace(comparison, outcome="better"), ("y", "acc"): comparison}
    assert verdict(two, "merged").endswith(
        "2 tasks, each compared with the best other model: 1 better, 0 worse, 1 within the noise"
    )


@pytest.mark.parametrize(("n_models", "shown"), [(2, "0.500 ± 0.100"), (9, "they are in the report")])
def test_table_stays_in_80_columns(capsys, monkeypatch, n_models, shown):
    monkeypatch.setenv("COLUMNS", "80")
    models = {f"model {i} [bold]": answers("0101") for i in range(n_models - 1)}
    print_scores({**models, "merged": answers("0101")}, "merged")
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert shown in out
    assert "\x1b" not in out


def test_table_is_plain_ascii_where_the_output_is(capsys, monkeypatch):
    monkeypatch.setattr("rich.console.Console.encoding", "ascii")
    print_scores({"a": answers("0101"), "merged": answers("0111")}, "merged")
    assert capsys.readouterr().out.isascii()


# --- errors ---------------------------------------------------------------------------------------------


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    message = error_of([TASK])
    assert message.startswith("lm-evaluation-harness cannot be imported")
    assert message.endswith("Fix: pip install 'fusion-slerp[lm-eval]'")


@pytest.mark.parametrize("tasks", [[], "", [""], None, [3], 3])
def test_tasks_have_to_be_named(tasks):
    assert "invalid tasks" in error_of(tasks)


def test_all_settings_are_reported_together():
    message = error_of([], include_path="./none")
    assert "2 problems" in message
    assert "no such folder: ./none" in message


@pytest.fixture
def small_index(monkeypatch, own_tasks) -> Path:
    """Another folder in place of the harness's own 14,000 tasks, whose index takes many seconds."""
    monkeypatch.setattr(harness_tasks.harness().tasks.manager, "__file__", str(own_tasks / "manager.py"))
    return own_tasks


def test_unknown_tasks_are_errors_with_the_nearest_name(small_index):
    message = error_of(["fusion_slerp_dem", "mine"])
    assert message.startswith("no task 'fusion_slerp_dem' (did you mean 'fusion_slerp_demo'?)")
    assert message.endswith("Fix: choose one that this lists: lm_eval ls tasks")


def test_patterns_name_several_tasks(plays, small_index):
    assert set(open_tasks("*in*,oth*").tasks) == {"mine", "other"}


def test_data_that_is_not_available_offline_is_an_error_that_says_how_to_get_it(monkeypatch, own_tasks):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    remote = CHOICES.format(name="remote").replace(
        "custom_dataset: !function data.load", "dataset_path: owner/name\ndataset_name: part"
    )
    (own_tasks / "remote.yaml").write_text(remote, encoding="utf-8")

    def load_dataset(path, name=None, **kwargs):
        raise ConnectionError(f"Couldn't reach {path!r} on the Hub (OfflineModeIsEnabled)\nmore")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    message = error_of(["remote", "mine"], own_tasks)
    assert "the task 'remote' cannot be opened\n  dataset: owner/name\n  found: Couldn't reach" in message
    assert "datasets.load_dataset('owner/name', 'part')" in message


def test_a_task_that_runs_the_models_code_is_refused(own_tasks):
    text = CHOICES.format(name="unsafe") + "unsafe_code: true\n"
    (own_tasks / "unsafe.yaml").write_text(text, encoding="utf-8")
    (own_tasks / "deep.yaml").write_text("group: deep\ntask: [unsafe]\n", encoding="utf-8")
    for name in ("unsafe", "deep"):
        message = error_of([name], own_tasks)
        assert message.startswith("the task 'unsafe' is refused\n  found: it runs code that the model writes")
        assert "--confirm_run_unsafe_code" in message.splitlines()[-1]


def test_a_broken_yaml_file_names_its_task(own_tasks):
    (own_tasks / "broken.yaml").write_text(CHOICES.format(name="broken").replace("test_split", "tset_split"))
    message = error_of(["broken"], own_tasks)
    assert message.startswith("the task 'broken' cannot be opened\n  found: ")
    assert message.endswith("Fix: correct the task's YAML file, or leave the task out")
