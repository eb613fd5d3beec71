"""Killed by SIGKILL at any moment: the same call resumes, and ends with the same study."""

import multiprocessing
import os
import signal

import pytest

import fusion_slerp
from fusion_slerp.searches.record import COMPLETE, PRUNED, read_search
from fusion_slerp.searches.space import parse_space
from fusion_slerp.searches.study import Study, opened
from tests.searches.fakes import frozen

VARY = {"t.mlp": "0:1", "t.self_attn": "0:1"}
N_TRIALS = 7

MOMENTS = (1, 2, 3, 6, 9, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 25, 28, 31, 34)
"""Which flush, rename or end of a trial the process dies at: around every write of some trials."""


def search(family, folder):
    import torch

    torch.set_num_threads(1)
    return fusion_slerp.search(
        family.a,
        family.b,
        vary=VARY,
        texts={"words": family.text},
        out=folder,
        trials=N_TRIALS,
        context_length=16,
        batch_size=64,
    )


def run_until(moment, family, folder):
    """Runs the search, and kills this process at a moment."""
    count = 0

    def die_in_time():
        nonlocal count
        count += 1
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying(call):
        def replacement(*arguments, **more):
            die_in_time()
            found = call(*arguments, **more)
            if call is add:
                die_in_time()
            return found

        return replacement

    add = Study.add
    Study.add = dying(add)
    os.replace, os.fsync = dying(os.replace), dying(os.fsync)
    search(family, folder)


def study_in(folder):
    record = read_search(folder)
    with opened(folder, parse_space(VARY), record.identity, "minimize") as study:
        return frozen(study)


@pytest.mark.long
def test_killed_at_many_moments(family, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.searches.fakes", "fusion_slerp.evaluation.resident", "optuna"])
    whole = search(family, tmp_path / "whole")
    assert {trial.state for trial in whole.trials} == {COMPLETE, PRUNED}
    expected = study_in(tmp_path / "whole")
    for moment in MOMENTS:
        folder = tmp_path / str(moment)
        process = context.Process(target=run_until, args=(moment, family, folder))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, moment
        resumed = search(family, folder)
        assert study_in(folder) == expected, moment
        assert [point.scores["words"]["loss"] for point in resumed.sweep.points] == [
            point.scores["words"]["loss"] for point in whole.sweep.points
        ], moment
        assert [point.differences for point in resumed.sweep.points] == [
            point.differences for point in whole.sweep.points
        ], moment
        assert resumed.sweep.best == whole.sweep.best
