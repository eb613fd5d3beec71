"""Killed by SIGKILL at any moment: the same call resumes, and evaluates only what is missing."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest

from fusion_slerp.sweeps import results as results_module
from fusion_slerp.sweeps.record import FILE, read_record
from tests.sweeps.fakes import Models, T, run

N_MODELS = 2 + len(T.values)

MOMENTS = (1, 2, 3, 4, 5, 11, 12, 13, 14, 21, 30, 31)
"""Which flush or rename the process dies at: in the first record, losses, records, and the last points."""


def run_until(moment, folder, evaluated):
    """Runs the sweep, and kills this process at a flush or rename."""
    count = 0

    def dying(call):
        def replacement(*arguments):
            nonlocal count
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments)

        return replacement

    results_module.os.replace = dying(os.replace)
    results_module.os.fsync = dying(os.fsync)
    models = Models()
    judge = models.judge

    def counted(name, model):
        with evaluated.get_lock():
            evaluated.value += 1
        return judge(name, model)

    models.judge = counted
    run(folder, models)


@pytest.mark.long
def test_killed_at_many_moments(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.sweeps.fakes"])
    whole = run(None, Models())
    for moment in MOMENTS:
        folder, evaluated = tmp_path / str(moment), context.Value("i", 0)
        process = context.Process(target=run_until, args=(moment, folder, evaluated))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, moment
        if (folder / FILE).exists():
            assert read_record(folder).vary == whole.vary
        models = Models()
        resumed = run(folder, models)
        assert [p.scores for p in resumed.points] == [p.scores for p in whole.points], moment
        assert [p.differences for p in resumed.points] == [p.differences for p in whole.points], moment
        assert N_MODELS <= evaluated.value + len(models.evaluated) <= N_MODELS + 1, moment
