"""How errors of ours end a run: by one message on the first process, by one line on the others."""

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from lightning_utilities.core.rank_zero import rank_zero_only

from fusion_slerp.cluster.failures import SHOWN_BY_RANK_0
from fusion_slerp.errors import MismatchError, Problem, SettingsError, setting
from fusion_slerp.fusion_bench_plugin.compact_errors import PARENT, compact_errors

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


def test_another_process_ends_without_a_word_if_the_first_shows_the_error(in_a_run):
    in_a_run(3)
    error = MismatchError("the shapes differ")
    setattr(error, SHOWN_BY_RANK_0, True)
    with pytest.raises(SystemExit) as caught, compact_errors():
        raise error
    assert caught.value.code == 1


def test_another_process_ends_after_the_first_which_failed_as_it_did(in_a_run, monkeypatch):
    """As by a wrong setting, which every process finds by itself."""
    in_a_run(1)
    parents = iter([PARENT, PARENT, 1, 1])
    monkeypatch.setattr("os.getppid", lambda: next(parents))
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit) as caught, compact_errors():
        raise PROBLEM.error()
    assert caught.value.code == 1


def test_another_process_shows_its_own_error_if_the_first_lives(in_a_run, monkeypatch):
    in_a_run(1)
    monkeypatch.setattr("fusion_slerp.fusion_bench_plugin.compact_errors.FIRST_ENDS_S", 0.1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SettingsError) as caught, compact_errors():
        raise PROBLEM.error()
    assert caught.value.code == f"error: {MESSAGE}"


def test_within_itself_it_leaves_errors_alone(in_a_run):
    in_a_run(0)
    with compact_errors(), pytest.raises(SettingsError) as caught, compact_errors():
        raise PROBLEM.error()
    assert type(caught.value) is SettingsError


def test_other_errors_are_not_ours(in_a_run):
    in_a_run(1)
    with pytest.raises(KeyError) as caught, compact_errors():
        raise KeyError("x")
    assert type(caught.value) is KeyError
