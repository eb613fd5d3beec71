"""Several processes run one sweep: the record of one process, whatever they do and in whatever order."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import chain

import pytest
from torch import nn

from fusion_slerp import CheckpointError, MismatchError, OutputError, merge
from fusion_slerp.errors import Problem
from fusion_slerp.sweeps.children import _wait_for, save_best, share_children
from fusion_slerp.sweeps.points import grid
from fusion_slerp.sweeps.preparing import prepare_sweep
from fusion_slerp.sweeps.record import FILE, as_fields, read_record
from fusion_slerp.sweeps.results import Results
from fusion_slerp.sweeps.runner import Parent, SweepRunner
from fusion_slerp.sweeps.running import prepare_outputs, run_sweep
from fusion_slerp.sweeps.sharing import evaluate_all
from tests.cluster.ranks_in_threads import run_ranks
from tests.models import contents, names_in
from tests.sweeps.fakes import Models, T, record_of, run

POINTS = grid((T,))
NAMES = ["a", "b", "t=0", "t=0.25", "t=0.5", "t=0.75", "t=1"]
"""In the order of the sweep."""


class Made(nn.Module):
    """A model that knows its t."""

    def __init__(self, t):
        super().__init__()
        self.t = t

    def forward(self):
        """As a pass over some text."""


class Modules(Models):
    """Models of one rank.

    Args:
        between: Called with each model and its name while it is judged.
    """

    def __init__(self, between=lambda name, model: model()):
        super().__init__()
        self.between = between

    def at(self, options):
        return Made(options["t"])

    def judge(self, name, model):
        self.between(name, model)
        return super().judge(name, {"t": model.t})


def runner_of(results, models):
    parents = [Parent("a", lambda: Made(0.0)), Parent("b", lambda: Made(1.0))]
    return SweepRunner((T,), {}, 2, results, parents, lambda: models, models.judge)  # type: ignore[arg-type]


def run_shared(folder, ranks, models, record=None, announced=None, is_dealt=True):
    """Runs the whole sweep with some ranks, as `run_sweep` does."""
    results = Results(record or record_of(), folder if ranks.is_first else None)

    def on_result(record, name):
        announced.append((ranks.rank, name))

    shown = {} if announced is None else {"on_result": on_result}
    with results.open():
        return evaluate_all(runner_of(results, models), POINTS, ranks=ranks, is_dealt=is_dealt, **shown)


def without_times(record):
    points = tuple(replace(point, seconds={}) for point in record.points)
    return json.dumps(as_fields(replace(record, points=points)))


def known_in(folder):
    """The names of the results that are kept."""
    record = read_record(folder)
    return {*record.parents, *(point.name for point in record.points)}


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_any_number_of_ranks_makes_one_record(tmp_path, count):
    models, announced = [Modules() for _ in range(count)], []
    ends = run_ranks(count, lambda r: run_shared(tmp_path / "s", r, models[r.rank], announced=announced))
    expected = without_times(run(None, Models()))
    assert [without_times(end.value) for end in ends] == [expected] * count
    assert without_times(read_record(tmp_path / "s")) == expected
    assert announced == [(0, name) for name in NAMES]
    evaluated = [each.evaluated for each in models]
    assert sorted(chain(*evaluated)) == sorted(["a 0.0", "b 1.0", *(f"merged {t}" for t in T.values)])
    assert max(map(len, evaluated)) - min(map(len, evaluated)) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_results_come_in_any_order_also_after_an_interruption(tmp_path, seed):
    results = Results(record_of(), tmp_path / "s")
    subjects = runner_of(results, Modules()).subjects(POINTS)
    random.Random(seed).shuffle(subjects)
    for part in (subjects[:3], subjects[3:]):
        with results.open():
            runner = runner_of(results, Modules())
            for subject in part:
                runner.keep(subject, runner.measure(subject))
            runner.finish()
        results = Results(record_of(), tmp_path / "s")
    whole = run(tmp_path / "whole", Models())
    assert without_times(read_record(tmp_path / "s")) == without_times(whole)
    assert names_in(tmp_path / "s") == names_in(tmp_path / "whole")


def test_a_failure_on_one_rank_stops_all_and_results_are_kept(tmp_path):
    """Rank 0 would evaluate its second model forever; rank 1 fails when the results before that are kept."""
    damaged = Problem(CheckpointError, "damaged", (("file", "x"),), "download it again").error()

    def between(name, model):
        while name == "merged" and model.t == 0.25:  # the fourth: of rank 0
            model()
        if name == "merged" and model.t == 0.5:  # the fifth: of rank 1
            while not {"a", "t=0"} <= known_in(tmp_path / "s"):
                model()
            raise damaged

    ends = run_ranks(3, lambda ranks: run_shared(tmp_path / "s", ranks, Modules(between)))
    assert [type(end.error) for end in ends] == [CheckpointError] * 3
    assert "rank: 1, on " in str(ends[0].error)
    assert str(ends[1].error) == str(damaged)
    kept = known_in(tmp_path / "s")
    assert {"a", "b", "t=0"} <= kept
    models = [Modules() for _ in range(2)]
    ends = run_ranks(2, lambda ranks: run_shared(tmp_path / "s", ranks, models[ranks.rank]))
    assert without_times(ends[1].value) == without_times(run(None, Models()))
    assert sum(len(each.evaluated) for each in models) == len(NAMES) - len(kept)


def test_results_are_saved_while_rank_0_evaluates(tmp_path):
    def between(name, model):
        while name == "a" and "b" not in known_in(tmp_path / "s"):
            model()

    ends = run_ranks(2, lambda ranks: run_shared(tmp_path / "s", ranks, Modules(between)))
    assert [end.error for end in ends] == [None, None]


def test_an_interruption_of_rank_0_ends_the_others(tmp_path):
    def between(name, model):
        if name == "a":
            raise KeyboardInterrupt
        while True:
            model()

    ends = run_ranks(2, lambda ranks: run_shared(tmp_path / "s", ranks, Modules(between)))
    assert isinstance(ends[0].error, KeyboardInterrupt)
    assert "rank: 0, on " in str(ends[1].error)


def test_different_sweeps_are_refused(tmp_path):
    def shared(ranks):
        identity = {"settings": {"dtype": "float16"} if ranks.rank else {}, "places": ranks.rank}
        return run_shared(tmp_path / "s", ranks, Modules(), record_of(identity=identity))

    ends = run_ranks(2, shared)
    assert [type(end.error) for end in ends] == [MismatchError] * 2
    assert "differs in: settings.dtype" in str(ends[0].error)


def test_all_ranks_judge_each_model_if_they_are_not_dealt(tmp_path):
    run_ranks(1, lambda ranks: run_shared(tmp_path / "s", ranks, Modules()))
    (tmp_path / "s/losses/t=0.5.npz").unlink()
    models = [Modules() for _ in range(3)]
    ends = run_ranks(3, lambda ranks: run_shared(tmp_path / "s", ranks, models[ranks.rank], is_dealt=False))
    assert [each.evaluated for each in models] == [["merged 0.5"]] * 3
    assert [without_times(end.value) for end in ends] == [without_times(run(None, Models()))] * 3


def prepared(family, ranks, out=None):
    options = {"vary": {"t": [0.0, 0.25, 0.5]}, "needs_evaluation": False}
    return prepare_sweep([family.a, family.b], out=out if ranks.is_first else None, **options)


@pytest.mark.parametrize("count", [2, 4])
def test_children_are_dealt_to_ranks(family, tmp_path, count):
    def shared(ranks):
        sweep = ranks.on_all(lambda: prepared(family, ranks, tmp_path / "s"))
        outputs = ranks.on_all(
            lambda: prepare_outputs(sweep, tmp_path / "children" if ranks.is_first else None, None)
        )
        return run_sweep(sweep, outputs, ranks=ranks)

    ends = run_ranks(count, shared)
    assert [end.error for end in ends] == [None] * count
    assert [without_times(end.value) for end in ends] == [without_times(ends[0].value)] * count
    assert names_in(tmp_path / "children") == ["t=0", "t=0.25", "t=0.5"]
    for t in (0.0, 0.25, 0.5):
        alone = merge(family.a, family.b, out=tmp_path / "alone" / f"t={t:g}", t=t).out
        assert contents(tmp_path / "children" / f"t={t:g}") == contents(alone)
    assert FILE in names_in(tmp_path / "s")


def test_each_rank_makes_its_children_from_one_reading(family, tmp_path):
    def shared(ranks):
        sweep = ranks.on_all(lambda: prepared(family, ranks))
        outputs = ranks.on_all(lambda: prepare_outputs(sweep, tmp_path / "c", None))
        return share_children(sweep, outputs.children if ranks.is_first else (), ranks)

    first, second = (end.value for end in run_ranks(2, shared))
    assert [[result.out.name for result in part] for part in (first, second)] == [
        ["t=0", "t=0.5"],
        ["t=0.25"],
    ]
    assert first[0].nbytes_read == first[1].nbytes_read == second[0].nbytes_read


def test_the_best_is_made_by_all_ranks_once(family, tmp_path):
    def shared(ranks):
        sweep = ranks.on_all(lambda: prepared(family, ranks))
        target = tmp_path / "best" if ranks.is_first else None
        for _ in range(2):
            save_best(sweep, {"t": 0.25}, target, ranks=ranks)

    assert [end.error for end in run_ranks(2, shared)] == [None] * 2
    alone = merge(family.a, family.b, out=tmp_path / "alone" / "best", t=0.25).out
    assert contents(tmp_path / "best") == contents(alone)


def test_a_child_on_another_disk_is_missing(tmp_path):
    (tmp_path / "t=0").mkdir()
    _wait_for([str(tmp_path / "t=0")], 0)
    with pytest.raises(OutputError, match=r"does not see merged models(.|\n)*t=1"):
        _wait_for([str(tmp_path / "t=0"), str(tmp_path / "t=1")], 0)
