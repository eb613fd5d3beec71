"""Killed at random moments: the same call ends with the same bytes, and no partial model is ever seen."""

import os
import random
import shutil
import signal
import time

import pytest

from fusion_slerp import merge, verify
from fusion_slerp.output.unfinished import find_unfinished
from tests.models import names_in
from tests.processes import HANG_S, context, wait_for_end
from tests.safety.trials import N_TENSORS, SHARD_SIZE, Moments, many_shards, state_of, trials

pytestmark = pytest.mark.trial

SEED = 20261127


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    return many_shards(tmp_path_factory.mktemp("killed"))


@pytest.fixture(scope="module")
def processes():
    """Processes that begin with everything imported, so that they are killed inside the merge."""
    return context()


def run_merge(begun, a, b, out, options):
    """Merges; Ctrl-C raises meanwhile, kills before, and is ignored afterwards."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    begun.set()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        merge(a, b, out=out, max_shard_size=SHARD_SIZE, **options)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:  # ends as Python does, but says nothing
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)


def started(processes, parents, target, options):
    """A process that has just begun to merge."""
    begun = processes.Event()
    process = processes.Process(target=run_merge, args=(begun, *parents, target, options))
    process.start()
    assert begun.wait(HANG_S)
    return process


def duration(processes, parents, target, options=None) -> float:
    """How long an undisturbed merge takes."""
    process = started(processes, parents, target, options or {})
    begun = time.perf_counter()
    wait_for_end(process)
    assert process.exitcode == 0
    return time.perf_counter() - begun


def killed(process, number, moments) -> bool:
    """Kills a process at a moment; returns whether it was still at work."""
    begun = time.perf_counter()
    process.join(moments.draw())
    took_s = time.perf_counter() - begun
    if process.is_alive():
        os.kill(process.pid, number)
        wait_for_end(process)
    assert process.exitcode in (0, -number)
    if process.exitcode == 0:
        moments.was_late(took_s)
    return process.exitcode != 0


def remove(target):
    for path in (target, target.with_name(".child.partial")):
        shutil.rmtree(path, ignore_errors=True)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=["kill -9", "SIGTERM", "Ctrl-C"]
)
@pytest.mark.parametrize("existing", [False, True], ids=["new", "overwrite"])
def test_killed_at_random_moments(processes, parents, tmp_path, figure, number, existing):
    n, n_resumed = trials(100 if number == signal.SIGKILL else 20, 4), []
    duration(processes, parents, tmp_path / "warm/child")
    usual_s = duration(processes, parents, tmp_path / "expected/child")
    moments = Moments(random.Random(SEED + existing), usual_s)
    expected = state_of(tmp_path / "expected/child")
    target, options, old = tmp_path / "place/child", {"overwrite": existing}, None
    while len(n_resumed) < n:
        remove(target)
        if existing:
            merge(*parents, out=target, t=1, max_shard_size="5GB")
            old = state_of(target)
        if not killed(started(processes, parents, target, options), number, moments):
            continue  # it was done before: no trial
        # What is there is complete, and what was there stays until it is replaced.
        assert state_of(target) in (old, expected)
        left = find_unfinished(target)
        n_resumed.append(len(left.finished) if left else 0)
        if state_of(target) != expected:  # not killed between the rename and its end
            duration(processes, parents, target, options)
        assert state_of(target) == expected
        assert verify(target).ok
    remove(target)
    assert names_in(tmp_path / "place") == []
    some = sum(0 < n < N_TENSORS for n in n_resumed)
    name, kind = signal.Signals(number).name, "overwriting" if existing else "new"
    figure(
        f"{name}, {kind}: {n} merges of {usual_s:.2f} s killed and resumed, {n_resumed.count(0)} with "
        f"nothing finished, {some} with some of {N_TENSORS} files, {n_resumed.count(N_TENSORS)} with all; "
        f"{n} outputs, all byte-identical"
    )
    assert N_TENSORS >= 20
