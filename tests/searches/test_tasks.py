"""Searches on tasks of lm-evaluation-harness."""

from pathlib import Path

import pytest

import fusion_slerp
from fusion_slerp.searches.record import COMPLETE, PRUNED, read_search
from fusion_slerp.sweeps.scores import score_at

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.long,
]

DEMO = Path(fusion_slerp.__file__).parent / "demo"
TASK = "fusion_slerp_demo"


def search(out=None, **given):
    arguments = {"vary": {"t": "0:1"}, "tasks": TASK, "limit": 6, **given}
    return fusion_slerp.search(DEMO / "plays", DEMO / "code", out=out, **arguments)


def test_the_highest_mean_score_is_best_and_no_trial_stops_early(tmp_path):
    record = search(tmp_path, trials=2)
    assert record.sweep.metric == {"name": "average.score", "better": "higher"}
    record = search(tmp_path, trials=4)
    assert [trial.state for trial in record.trials] == [COMPLETE] * 4
    assert [trial.loss for trial in record.trials] == [
        score_at(record.sweep.point(trial.values).scores, "average.score") for trial in record.trials
    ]
    assert record.best_point.scores["average"]["score"] == max(trial.loss for trial in record.trials)
    assert "best" in record.best_point.differences
    assert "from the better parent, " in str(record)
    assert read_search(tmp_path) == record


def test_a_loss_stops_trials_before_they_run_tasks(monkeypatch):
    from fusion_slerp.evaluation.harness import PreparedTasks

    evaluate, n_runs = PreparedTasks.evaluate, 0

    def counted(self, name, model):
        nonlocal n_runs
        n_runs += 1
        return evaluate(self, name, model)

    monkeypatch.setattr(PreparedTasks, "evaluate", counted)
    record = search(trials=3, limit=2, texts={"plays": DEMO / "texts/plays.txt"}, max_tokens=4000)
    states = [trial.state for trial in record.trials]
    assert PRUNED in states
    assert n_runs == 2 + states.count(COMPLETE)
    assert {"plays", f"{TASK}.acc"} <= record.best_point.differences["a"].keys()
