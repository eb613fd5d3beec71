"""How errors of ours end a run: by one message on the first process, by one line on the others."""

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from lightning_utilities.core.rank_zero import rank_zero_only

from fusion_slerp.errors import MismatchError, Problem, SettingsError, setting
from fusion_slerp.fusion_bench_plugin.compact_errors import compact_errors
from fusion_slerp.fusion_bench_plugin.ranks import OF_FIRST

PROBLEM = Problem(SettingsError, "invalid t", (("found", "2"),), f"use {setting('t', 0.5)}")
MESSAGE = "invalid t\n  found: 2\nFix: use method.t=0.5"


@pytest.fixture
def in_a_run(monkeypatch):
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)

    def as_rank(rank):
        monkeypatch.setattr(rank_zero_only, "rank", rank, raising=False)

    return as_rank


def test_outside_of_a_run_errors_are_left_alone():
    with pytest.raises(SettingsError, match="invalid t") as caught, compact_errors():
        raise PROBLEM.error()
    assert type(caught.value) is SettingsError


def test_the_first_process_shows_the_message_as_hydra_does(in_a_run):
    in_a_run(0)
    with pytest.raises(SettingsError) as caught, compact_errors():
        raise PROBLEM.error()
    assert isinstance(caught.value, CompactHydraException)
    assert not isinstance(caught.value, SystemExit)
    assert str(caught.value) == f"error: {MESSAGE}"
    assert caught.value.problems == (PROBLEM,)


def test_another_process_exits_with_its_own_message(in_a_run):
    in_a_run(1)
    with pytest.raises(SettingsError) as caught, compact_errors():
        raise PROBLEM.error()
    assert isinstance(caught.value, SystemExit)
    assert caught.value.code == f"error: {MESSAGE}"  # which the interpreter prints


def test_another_process_repeats_only_the_headline_of_the_firsts(in_a_run):
    in_a_run(3)
    error = MismatchError("the shapes differ\n  tensor: x\nFix: none")
    setattr(error, OF_FIRST, True)
    with pytest.raises(MismatchError) as caught, compact_errors():
        raise error
    assert caught.value.code == "rank 3 ends, because rank 0 failed: the shapes differ"


def test_other_errors_are_not_ours(in_a_run):
    in_a_run(1)
    with pytest.raises(KeyError) as caught, compact_errors():
        raise KeyError("x")
    assert type(caught.value) is KeyError
