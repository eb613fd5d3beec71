"""The choice of points: by the seed and the finished trials alone, and none twice."""

import importlib.util

import pytest

from fusion_slerp.searches.record import COMPLETE, Trial
from fusion_slerp.searches.sampling import check_sampler, params_of, suggest, value_of
from fusion_slerp.searches.space import first_points, parse_space
from fusion_slerp.searches.study import opened
from tests.searches.fakes import frozen, run, valley

SPACE = {"t.mlp": "0:1", "t.self_attn": "0:1:0.05"}

ADVANCED = [
    name
    for name, package in (("gp", "scipy"), ("cmaes", "cmaes"))
    if importlib.util.find_spec(package) is not None
]


def study_of(vary, n_trials, sampler="tpe", seed=0, loss_of=valley):
    with opened(None, parse_space(vary), {}, "minimize") as study:
        run(study, n_trials, loss_of, sampler, seed)
        return study


@pytest.mark.parametrize("sampler", ["tpe", "random", *ADVANCED])
def test_a_search_in_pieces_is_the_same_as_in_one(tmp_path, sampler):
    space, n_trials = parse_space(SPACE), 14
    whole = study_of(SPACE, n_trials, sampler)
    for end in (1, 6, 7, 10, n_trials):
        with opened(tmp_path, space, {"format": 1}, "minimize") as study:
            run(study, end, sampler=sampler)
    with opened(tmp_path, space, {"format": 1}, "minimize") as study:
        assert frozen(study) == frozen(whole)
        assert study.trials == whole.trials


def test_the_seed_decides_what_follows_the_first_points():
    first = first_points(parse_space(SPACE))
    one, same, other = (study_of(SPACE, 9, seed=seed).trials for seed in (0, 0, 1))
    assert one == same
    assert [trial.values for trial in one[:5]] == [trial.values for trial in other[:5]] == list(first)
    assert one[5:] != other[5:]


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_no_point_is_tried_twice_and_the_last_one_ends_the_search(sampler):
    trials = study_of({"t": "0:1:0.1", "method": "x,y"}, 100, sampler, loss_of=lambda v: v["t"]).trials
    assert len(trials) == len({trial.name for trial in trials}) == 22


def test_tpe_finds_the_valley_of_two_dimensions():
    trials = study_of({"t.mlp": "0:1", "t.self_attn": "0:1"}, 40).trials
    assert min(trial.loss for trial in trials) < 0.002


def test_values_as_parameters_of_optuna_and_back():
    vary = {"t": "0:1", "u": "0:1:0.1", "v": "tensor,row", "w": [[0, 1], [1, 0]], "x": [True, None]}
    space = parse_space(vary)
    values = {"t": 0.25, "u": 0.3, "v": "row", "w": [1, 0], "x": None}
    params = params_of(space, values)
    assert params == {"t": 0.25, "u": 3, "v": "row", "w": "[1, 0]", "x": None}
    assert {each.name: value_of(each, params[each.name]) for each in space} == values


def test_samplers_that_are_refused(monkeypatch):
    space = parse_space({"t": "0:1"})
    assert check_sampler("tpe", space) == []
    (unknown,) = check_sampler("tpee", space)
    assert "did you mean 'tpe'" in str(unknown)
    (endless,) = check_sampler("grid", space)
    assert "the sampler grid needs steps" in str(endless)
    assert "vary={'t': '0:1:STEP'}" in str(endless)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (missing,) = check_sampler("cmaes", space)
    assert "Fix: pip install cmaes, or use sampler='tpe'" in str(missing)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_sampler_knows_which_way_is_better(direction):
    space = parse_space({"t": "0:1"})
    sign = 1 if direction == "minimize" else -1
    with opened(None, space, {}, direction) as study:
        while len(study.trials) < 25:
            tried = [trial.values for trial in study.trials]
            suggestion = suggest(space, study.finished, tried, "tpe", 0, direction)
            loss = sign * (suggestion.values["t"] - 0.8) ** 2
            study.add(Trial(suggestion.values, COMPLETE, loss), suggestion)
    near = [abs(trial.values["t"] - 0.8) < 0.15 for trial in study.trials[10:]]
    assert sum(near) > len(near) / 2
