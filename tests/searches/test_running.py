"""Whole searches of tiny models: their points are those of sweeps, and stopped ones resume."""

import json
import os

import pytest

import fusion_slerp
from fusion_slerp import FusionSlerpError, OutputError, SettingsError, merge
from fusion_slerp.searches import holdout as holdout_module
from fusion_slerp.searches import preparing, running
from fusion_slerp.searches.record import COMPLETE, FILE, PRUNED, read_search
from fusion_slerp.sweeps.record import read_record
from tests.models import contents

pytestmark = pytest.mark.usefixtures("one_thread")

EVALUATION = {"context_length": 16, "batch_size": 64}


@pytest.fixture(scope="module")
def other_text(family, tmp_path_factory):
    text = tmp_path_factory.mktemp("texts") / "held-out.txt"
    text.write_text("not to be or " * 30)
    return text


def search(family, out=None, vary=None, **given):
    arguments = {"trials": 8, **EVALUATION, **given}
    return fusion_slerp.search(
        family.a,
        family.b,
        vary={"t.mlp": "0:1", "t.self_attn": "0:1"} if vary is None else vary,
        texts={"words": family.text},
        out=out,
        **arguments,
    )


def same(trials):
    """What two equal searches share."""
    return [(trial.values, trial.state, trial.loss, trial.share) for trial in trials]


@pytest.fixture(scope="module")
def whole(family):
    """A search that nobody stopped."""
    return search(family)


def test_points_are_those_of_a_sweep(family, whole):
    complete = [trial for trial in whole.trials if trial.state == COMPLETE]
    stopped = [trial for trial in whole.trials if trial.state == PRUNED]
    assert complete
    assert stopped
    assert all(trial.share < 1 and trial.difference["value"] > 0 for trial in stopped)
    assert whole.n_evaluations == pytest.approx(len(complete) + sum(trial.share for trial in stopped))
    best = whole.best_point
    vary = {name: [value] for name, value in best.values.items()}
    record = fusion_slerp.sweep(family.a, family.b, vary=vary, texts={"words": family.text}, **EVALUATION)
    assert record.points[0].scores["words"]["loss"] == pytest.approx(best.scores["words"]["loss"], abs=1e-6)
    assert min(trial.loss for trial in complete) == best.scores["average"]["loss"]


def test_a_stopped_search_resumes_as_if_it_never_had_been(family, whole, tmp_path):
    for trials in (1, 3, 6, 8):
        record = search(family, tmp_path, trials=trials)
        assert same(record.trials) == same(whole.trials[:trials])
    assert read_search(tmp_path) == record
    assert read_record(tmp_path) == record.sweep
    assert str(record) == str(whole)


def test_a_finished_search_evaluates_nothing(family, tmp_path, monkeypatch):
    record = search(family, tmp_path, trials=3)
    monkeypatch.setattr(running.Judge, "__call__", lambda *_: pytest.fail("it evaluates"))
    assert search(family, tmp_path, trials=3) == record


def test_without_a_rule_all_trials_are_evaluated_in_full(family):
    record = search(family, trials=4, prune=None)
    assert [trial.state for trial in record.trials] == [COMPLETE] * 4
    assert record.n_evaluations == 4


def test_the_budget_of_evaluations_ends_it(family):
    record = search(family, trials=None, evaluations=1.5)
    assert record.n_evaluations >= 1.5 > record.n_evaluations - record.trials[-1].share


def test_the_budget_of_minutes_ends_it(family, monkeypatch):
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr("fusion_slerp.sweeps.runner.time.perf_counter", lambda: float(next(clock)))
    record = search(family, trials=None, minutes=3, prune=None)
    seconds = sum(trial.seconds for trial in record.trials)
    assert seconds >= 180 > seconds - record.trials[-1].seconds


def test_the_best_is_saved_and_evaluated_on_held_out_texts(family, other_text, tmp_path, monkeypatch):
    given = {"save_best": tmp_path / "best", "holdout": {"other": other_text}, "trials": 4}
    record = search(family, tmp_path / "search", vary={"t": "0:1"}, **given)
    t = record.best_point.values["t"]
    again = merge(family.a, family.b, out=tmp_path / "again/best", t=t).out
    assert contents(tmp_path / "best") == contents(again)
    assert record.holdout.point == record.best_point.name
    texts = {"other": other_text}
    expected = fusion_slerp.sweep(family.a, family.b, vary={"t": [t]}, texts=texts, **EVALUATION)
    for label in ("a", "b"):
        found = record.holdout.scores[label]["other"]["loss"]
        assert found == pytest.approx(expected.parents[label]["other"]["loss"], abs=1e-6)
        low, high = (record.holdout.differences[label]["average"][end] for end in ("low", "high"))
        assert low < expected.points[0].differences[label]["average"]["value"] < high
    assert "held out (other): best " in str(record)
    monkeypatch.setattr(holdout_module, "difference", lambda *_: pytest.fail("it evaluates again"))
    assert search(family, tmp_path / "search", vary={"t": "0:1"}, **given) == record


def test_groups_are_compared_with_one_value_for_all(family):
    steps = {"t.mlp": "0:1:0.5", "t.self_attn": "0:1:0.5"}
    record = search(family, vary=steps, sampler="grid", prune=None, trials=None, minutes=60)
    assert len(record.trials) == 9
    assert record.best_point.values["t.mlp"] != record.best_point.values["t.self_attn"]
    assert "from the best with one t for all groups, t = " in str(record)


def test_another_search_in_the_folder_is_refused(family, tmp_path):
    search(family, tmp_path, trials=1)
    before = contents(tmp_path)
    for change, part in (
        ({"sampler_seed": 1}, "seed"),
        ({"sampler": "random"}, "sampler"),
        ({"prune": 2}, "prune"),
        ({"vary": {"t.mlp": "0:0.5", "t.self_attn": "0:1"}}, "vary.t.mlp.high"),
    ):
        with pytest.raises(OutputError, match="the folder holds another search") as raised:
            search(family, tmp_path, **change)
        assert part in str(raised.value)
    with pytest.raises(OutputError, match="the folder holds another sweep"):
        search(family, tmp_path, dtype="bfloat16")
    assert contents(tmp_path) == before


def test_a_record_of_another_format_is_refused(family, tmp_path):
    search(family, tmp_path, trials=1)
    content = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**content, "format": 2}))
    with pytest.raises(
        OutputError, match=r"(?s)record of a search is not readable.*format 2, not 1.*Fix: use"
    ):
        search(family, tmp_path)
    with pytest.raises(SettingsError, match=r"no readable search\.json"):
        read_search(tmp_path)
    os.remove(tmp_path / FILE)
    assert len(search(family, tmp_path, trials=1).trials) == 1


def test_everything_wrong_is_said_before_anything_is_read(family, other_text, monkeypatch):
    monkeypatch.setattr(running, "run_search", lambda *_, **__: pytest.fail("it runs"))
    cases = [
        ({"vary": {}}, ["a search needs an option to vary"]),
        ({"vary": {"t": "0:2"}}, ["at: t = 2"]),
        ({"vary": {"t.attend": "0:1"}}, ["no tensor's name contains 'attend'"]),
        (
            {"trials": 0, "minutes": -1, "prune": 0, "sampler": "best"},
            ["4 problems", "trials", "minutes", "prune", "no such sampler"],
        ),
        ({"holdout": {"same": family.text}}, ["the held-out text same is one of the search's texts"]),
        ({"holdout": {"none": other_text / "x.txt"}}, ["cannot read the text none"]),
    ]
    for change, parts in cases:
        with pytest.raises(FusionSlerpError) as raised:
            search(family, **change)
        assert all(part in str(raised.value) for part in parts), str(raised.value)


def test_without_optuna_the_extra_is_named(family, monkeypatch):
    monkeypatch.setattr(preparing.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"Fix: pip install 'fusion-slerp\[search\]'"):
        search(family)
