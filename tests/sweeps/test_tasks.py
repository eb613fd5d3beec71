"""Sweeps on tasks of lm-evaluation-harness: scores, differences by document, and the score that decides."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import fusion_slerp
from fusion_slerp import OutputError, SettingsError
from fusion_slerp.evaluation.evaluation import Evaluation
from fusion_slerp.evaluation.harness_documents import HarnessEvaluation, load_documents, save_documents
from fusion_slerp.sweeps import examination
from fusion_slerp.sweeps.best import within_noise
from fusion_slerp.sweeps.examination import better
from fusion_slerp.sweeps.judgement import Details, differences
from fusion_slerp.sweeps.record import FILE, as_fields, read_record
from fusion_slerp.sweeps.scores import difference_key, score_at, short, stderr_at
from fusion_slerp.sweeps.tasks import Tasks, make_tasks

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]

DEMO = Path(fusion_slerp.__file__).parent / "demo"
SAMPLE = Path(__file__).parent / "samples/format1_tasks"
TASK = "fusion_slerp_demo"
LIMIT = 8


def sweep(out=None, **given):
    arguments = {"vary": {"t": [0, 0.5, 1]}, "tasks": [TASK], "limit": LIMIT, **given}
    return fusion_slerp.sweep(DEMO / "plays", DEMO / "code", out=out, **arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a sweep on a task; not to be written to."""
    folder = tmp_path_factory.mktemp("sweep") / "sweep"
    sweep(folder)
    return folder


@pytest.fixture(scope="module")
def record(folder):
    return read_record(folder)


def test_points_have_the_scores_of_evaluate(record, tmp_path):
    child = fusion_slerp.merge(DEMO / "plays", DEMO / "code", out=tmp_path / "child", t=0.5).out
    models = [child, DEMO / "plays", DEMO / "code"]
    expected = fusion_slerp.evaluate(*map(str, models), tasks=[TASK], limit=LIMIT)
    point = record.points[1]
    assert point.scores["tasks"] == expected.tasks["child"].scores["tasks"]
    assert record.parents["a"]["tasks"] == expected.tasks["plays"].scores["tasks"]
    fields = expected.as_fields()["task_differences"]["child"]
    for label, name in (("a", "plays"), ("b", "code")):
        for metric, found in fields[name][TASK].items():
            own = point.differences[label][f"{TASK}.{metric}"]
            assert [own[key] for key in ("value", "low", "high", "n_blocks")] == [
                found[key] for key in ("value", "low", "high", "n")
            ]


def test_the_mean_score_decides_without_texts(record):
    assert record.metric == {"name": "average.score", "better": "higher"}
    scores = [score_at(point.scores, f"{TASK}.acc") for point in record.points]
    assert scores == [point.scores["average"]["score"] for point in record.points]
    assert scores[record.best] == max(scores)
    assert str(record).startswith(f"best t = {record.best_point.values['t']:g}: {max(scores):.3f} ± ")
    assert "parent, " in str(record)
    assert within_noise(record) is not None
    ends = [record.points[0].differences["a"], record.points[2].differences["b"]]
    assert [end["average.score"]["value"] for end in ends] == [0, 0]


def test_a_finished_sweep_runs_no_task(folder, record, monkeypatch):
    monkeypatch.setattr(Tasks, "open", lambda *_: pytest.fail("it opens the tasks"))
    assert sweep(folder) == record
    other = sweep(folder, metric=f"{TASK}.acc_norm")
    assert other.metric == {"name": f"{TASK}.acc_norm", "better": "higher"}
    scores = [score_at(point.scores, f"{TASK}.acc_norm") for point in other.points]
    assert scores[other.best] == max(scores)
    assert sweep(folder) == record


def test_values_of_documents_are_kept_and_a_sweep_resumes_with_them(folder, record, tmp_path):
    names = ["a.json", "b.json", *(f"{point.name}.json" for point in record.points)]
    assert sorted(path.name for path in (folder / "documents").iterdir()) == sorted(names)
    assert len(load_documents(folder / "documents/a.json")[TASK]["acc"]) == LIMIT
    shutil.copytree(folder, tmp_path / "sweep")
    (tmp_path / "sweep/documents/t=0.5.json").unlink()
    again = sweep(tmp_path / "sweep")
    assert [point.differences for point in again.points] == [point.differences for point in record.points]
    assert [point.scores for point in again.points] == [point.scores for point in record.points]
    assert (tmp_path / "sweep/documents/t=0.5.json").is_file()


def test_other_tasks_are_another_sweep(folder):
    for change, part in (({"limit": 3}, "tasks.limit"), ({"tasks": f"{TASK},{TASK}"}, "tasks.names")):
        with pytest.raises(OutputError, match="the folder holds another sweep") as raised:
            sweep(folder, **change)
        assert part in str(raised.value)


def test_texts_and_tasks_together(tmp_path):
    given = {"texts": {"plays": DEMO / "texts/plays.txt"}, "max_tokens": 100, "limit": 2}
    record = sweep(tmp_path / "sweep", vary={"t": [0.5]}, **given)
    point = record.points[0]
    assert record.metric == {"name": "average.loss", "better": "lower"}
    assert point.scores["average"].keys() == {
        *("loss", "loss_stderr", "perplexity", "bits_per_byte"),
        *("score", "score_stderr"),
    }
    assert {"plays", "average", f"{TASK}.acc", "average.score"} <= point.differences["a"].keys()
    assert read_record(tmp_path / "sweep") == record


def test_everything_wrong_is_said_before_a_model_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(examination.Examination, "__call__", lambda *_: pytest.fail("it runs"))
    cases = [
        ({"tasks": ["no_such"], "include_path": tmp_path / "none"}, ["no such folder", "none"]),
        ({"limit": 0, "batch_size": 0}, ["2 problems", "invalid limit", "invalid batch_size"]),
        (
            {"texts": {"words": tmp_path / "words.txt"}, "limit": -1, "stride": 0},
            ["invalid limit", "invalid stride"],
        ),
        ({"metric": f"{TASK[:-1]}.acc"}, ["no such metric", f"did you mean '{TASK}.acc'", f"'{TASK}.acc'"]),
        (
            {"texts": {TASK: tmp_path / "words.txt"}},
            [f"a text and a task are called {TASK}", f"'{TASK}_text': "],
        ),
    ]
    (tmp_path / "words.txt").write_text("to be or not to be")
    for change, parts in cases:
        with pytest.raises(SettingsError) as raised:
            sweep(**change)
        assert all(part in str(raised.value) for part in parts), str(raised.value)


def test_scores_without_a_mean_need_a_metric(tmp_path):
    (tmp_path / "data.jsonl").write_text(json.dumps({"passage": "To be or not to be"}) + "\n")
    rolling = (
        "task: rolling\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/data.jsonl}}}}\n"
        "test_split: test\noutput_type: loglikelihood_rolling\ndoc_to_text: ''\n"
        "doc_to_target: '{{passage}}'\nmetric_list: [{metric: word_perplexity}]\n"
    )
    (tmp_path / "rolling.yaml").write_text(rolling)
    given = {"tasks": "rolling", "include_path": tmp_path, "limit": None, "vary": {"t": [0, 1]}}
    with pytest.raises(SettingsError, match="the tasks' main scores have no mean") as raised:
        sweep(**given)
    assert "Fix: use metric='rolling.word_perplexity'" in str(raised.value)
    record = sweep(**given, metric="rolling.word_perplexity")
    assert record.metric["better"] == "lower"
    values = [score_at(point.scores, "rolling.word_perplexity") for point in record.points]
    assert values[record.best] == min(values)
    assert "average" not in record.points[0].scores
    assert within_noise(record) is None


# --- parts ----------------------------------------------------------------------------------------------


def evaluation(**tasks):
    """Tasks with the values of their documents under `acc`."""
    scores = {
        name: {"metrics": {"acc": {"value": sum(v) / len(v), "stderr": 0.1, "higher_is_better": True}}}
        for name, v in tasks.items()
    }
    documents = {name: {"acc": {str(i): v for i, v in enumerate(values)}} for name, values in tasks.items()}
    return HarnessEvaluation({"tasks": scores}, documents)


def test_the_mean_counts_each_task_the_same_and_groups_not_at_all():
    found = evaluation(x=[1.0, 0.0], y=[1.0] * 8)
    group = {"metrics": {"acc": {"value": 0.9, "stderr": 0.1, "higher_is_better": True}}}
    found.scores["tasks"]["group"] = group
    assert found.average == {"score": 0.75, "score_stderr": pytest.approx(0.1 / math.sqrt(2))}
    found.scores["tasks"]["x"]["metrics"]["acc"]["higher_is_better"] = False
    assert found.average == {}


def test_the_difference_of_means_is_the_mean_of_differences():
    one, other = evaluation(x=[1, 1, 0, 1], y=[1, 0, 1]), evaluation(x=[1, 0, 0, 0], y=[0, 0, 1])
    found = differences(Details(None, one.documents), Details(None, other.documents), one.scores)
    assert found["average.score"]["value"] == pytest.approx((found["x.acc"]["value"] + 1 / 3) / 2)
    stderrs = [found[key]["stderr"] for key in ("x.acc", "y.acc")]
    assert found["average.score"]["stderr"] == pytest.approx(math.hypot(*stderrs) / 2)
    fewer = evaluation(x=[1, 0, 0, 0])
    found = differences(Details(None, one.documents), Details(None, fewer.documents), one.scores)
    assert found.keys() == {"x.acc"}
    assert differences(Details(Evaluation()), Details(None, one.documents), {}) == {}


def test_scores_of_tasks_have_a_short_and_a_long_path():
    metrics = {"exact_match,strict": {"value": 0.5, "stderr": None, "higher_is_better": True}}
    scores = {"tasks": {"a.b": {"metrics": metrics}}, "average": {"score": 0.5, "score_stderr": 0.1}}
    long = "tasks.a.b.metrics.exact_match,strict.value"
    assert short(long) == "a.b.exact_match,strict" == difference_key({"name": long})
    assert score_at(scores, long) == score_at(scores, short(long)) == 0.5
    assert stderr_at(scores, long) is None
    assert stderr_at(scores, "average.score") == 0.1
    assert score_at(scores, "a.b.exact_match") is None
    assert score_at({"tasks": {"x": 3}}, "x.acc") is None


def test_what_is_better():
    cases = {("x.acc", None, True): "higher", ("x.ppl", None, False): "lower", ("y", None, None): "lower"}
    cases |= {("average.score", None, None): "higher", ("x.acc", "min", True): "lower"}
    assert {case: better(*case) for case in cases} == cases


@pytest.mark.parametrize("content", ["[]", "{", '{"x": 3}', '{"x": {"acc": {"1": "one"}}}'])
def test_values_of_documents_that_are_none(content, tmp_path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError):  # noqa: PT011 (which one is the reader's matter)
        load_documents(tmp_path / "a.json")


def test_values_of_documents_are_read_as_they_were_written(tmp_path):
    documents = evaluation(x=[1.0, 0.25]).documents
    save_documents(documents, tmp_path / "a.json")
    assert load_documents(tmp_path / "a.json") == documents


def test_the_identity_of_tasks_follows_their_definitions(tmp_path):
    (tmp_path / "one.yaml").write_text("task: one")
    tasks = make_tasks(" one, two", tmp_path, 0.5)
    assert tasks is not None
    assert tasks == Tasks(("one", "two"), str(tmp_path), 0.5)
    before = tasks.identity()
    assert list(before["files"]) == ["one.yaml"]
    assert make_tasks(["one", "two"], tmp_path, 0.5).identity() == before
    (tmp_path / "data.json").write_text("{}")
    assert tasks.identity() == before
    (tmp_path / "one.yaml").write_text("task: one\nversion: 2")
    assert tasks.identity() != before
    assert replace(tasks, limit=None).identity()["limit"] is None
    assert make_tasks([]) is None


def test_the_frozen_sample_with_tasks():
    found = read_record(SAMPLE)
    assert found.format == 1
    assert found.metric == {"name": "average.score", "better": "higher"}
    assert str(found) == (
        "best t = 0: 0.333 ± 0.142; not distinguishable from any other point; "
        "the same as the better parent, a"
    )
    assert as_fields(found) == json.loads((SAMPLE / FILE).read_text())
