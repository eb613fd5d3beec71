"""Killed at random moments: the same call ends with the same bytes, and half a child is never seen."""

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import time

import pytest

from fusion_slerp import merge, verify
from fusion_slerp.publish.unfinished import find_unfinished
from tests.models import names_in
from tests.safety.trials import N_TENSORS, SHARD_SIZE, many_shards, state_of, trials

SEED = 20261127


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    return many_shards(tmp_path_factory.mktemp("killed"))


@pytest.fixture(scope="module")
def processes():
    """Processes that begin with everything imported, so that they are killed inside the merge."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fusion_slerp.merging", "tests.safety.trials"])
    return context


def run_merge(begun, a, b, out, options):
    begun.set()
    merge(a, b, out=out, max_shard_size=SHARD_SIZE, **options)


def started(processes, parents, target, options):
    """A process that has just begun to merge."""
    begun = processes.Event()
    process = processes.Process(target=run_merge, args=(begun, *parents, target, options))
    process.start()
    assert begun.wait(60)
    return process


def duration(processes, parents, target) -> float:
    """How long an undisturbed merge takes."""
    process = started(processes, parents, target, {})
    begun = time.perf_counter()
    process.join()
    assert process.exitcode == 0
    return time.perf_counter() - begun


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "SIGTERM"])
@pytest.mark.parametrize("existing", [False, True], ids=["new", "overwrite"])
def test_killed_at_random_moments(processes, parents, tmp_path, figure, number, existing):
    n = trials(100 if number == signal.SIGKILL else 20, 4)
    rng = random.Random(SEED + existing)
    duration(processes, parents, tmp_path / "warm/child")
    usual_s = duration(processes, parents, tmp_path / "expected/child")
    expected = state_of(tmp_path / "expected/child")
    target = tmp_path / "place/child"
    options = {"overwrite": True} if existing else {}
    n_killed, n_resumed, old = 0, [], None
    for _ in range(n):
        if existing:
            merge(*parents, out=target, t=1, overwrite=True, max_shard_size="5GB")
            old = state_of(target)
        for attempt in itertools.count(1):
            process = started(processes, parents, target, options)
            process.join(rng.uniform(0, usual_s) if attempt <= rng.choice((1, 1, 2)) else None)
            if process.is_alive():
                os.kill(process.pid, number)
                process.join()
            # Whatever happened: what is there is complete, and what was there stays until it is replaced.
            state = state_of(target)
            assert state in (old, expected)
            if process.exitcode == 0:
                break
            assert process.exitcode == -number
            n_killed += 1
            left = find_unfinished(target)
            n_resumed.append(len(left.finished) if left else 0)
            if state == expected:  # killed between the rename and its end
                break
        assert state_of(target) == expected
        assert verify(target).ok
        for path in (target, target.with_name(".child.partial")):
            shutil.rmtree(path, ignore_errors=True)
    assert names_in(tmp_path / "place") == []
    assert N_TENSORS >= 20
    some = sum(0 < found < N_TENSORS for found in n_resumed)
    name, kind = signal.Signals(number).name, "overwriting" if existing else "new"
    figure(
        f"{name}, {kind}: {n} merges of {usual_s:.2f} s, {n_killed} kills, {some} of them with some of "
        f"{N_TENSORS} files finished, {n_resumed.count(N_TENSORS)} with all; {n} outputs, all byte-identical"
    )
    assert n_killed >= n / 2
