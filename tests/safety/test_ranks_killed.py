"""Several ranks, of which one is killed, frozen or out of disk space at a random moment: all end in bounded
time and say which, and another number of ranks resumes the merge to the same bytes.
"""

import random
import shutil
import signal
import time

import pytest

from fusion_slerp import OutputError, merge, verify
from fusion_slerp.output.unfinished import find_unfinished
from tests.models import names_in
from tests.processes import context
from tests.rank_processes import Job, Ranks
from tests.safety.trials import N_TENSORS, SHARD_SIZE, Moments, many_shards, state_of, trials

pytestmark = pytest.mark.trial

SEED = 20261129

TIMEOUT_S = 6.0
"""Shorter than usual, so that the trials take minutes."""

OPTIONS = {"max_shard_size": SHARD_SIZE, "threads": 1}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return many_shards(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def expected(models, tmp_path_factory):
    out = tmp_path_factory.mktemp("expected") / "child"
    merge(*models, out=out, max_shard_size=SHARD_SIZE)
    return state_of(out)


@pytest.fixture(scope="module")
def processes():
    return context()


def remove(target):
    for path in (target, target.with_name(".child.partial")):
        shutil.rmtree(path, ignore_errors=True)


def is_at_work(ranks, target, moments):
    """Waits for a moment after all ranks have begun to write; returns whether none has ended by then."""
    if not ranks.wait_until_writing(target):
        moments.was_late()
        return False
    begun, moment = time.monotonic(), moments.draw()
    while not ranks.has_ended:
        if time.monotonic() - begun > moment:
            return True
        time.sleep(0.001)
    moments.was_late(time.monotonic() - begun)
    return False


def resumed(processes, models, target, count):
    """Resumes with some ranks; returns how many files were finished before."""
    left = find_unfinished(target)
    ranks = Ranks(processes, Job(models, target, OPTIONS), count)
    ranks.join()
    assert set(ranks.outcomes().values()) == {""}
    return len(left.finished) if left else 0


@pytest.mark.parametrize(
    ("number", "full"), [(signal.SIGKILL, 50), (signal.SIGSTOP, 20)], ids=["killed", "frozen"]
)
def test_one_rank_is_lost_at_random_moments(processes, models, expected, tmp_path, figure, number, full):
    n, rng, target = trials(full // 5, 3, full), random.Random(SEED + number), tmp_path / "place" / "child"
    finished, ended_s, moments = [], [], {count: Moments(rng) for count in (2, 3, 4)}
    while len(finished) < n:
        remove(target)
        count = rng.choice([2, 3, 4])
        lost = rng.randrange(count)
        ranks = Ranks(processes, Job(models, target, {**OPTIONS, "rank_timeout": TIMEOUT_S}), count)
        try:
            if not is_at_work(ranks, target, moments[count]):
                ranks.join()
                assert set(ranks.outcomes().values()) == {""}
                continue  # the merge was done before: no trial
            ranks.signal(lost, number)
            sent = time.monotonic()
            ranks.join(but=[lost])
            ended_s.append(time.monotonic() - sent)
            messages = ranks.outcomes()
            assert state_of(target) in (None, expected)
            if state_of(target) is None:
                assert all(f"rank: {lost}" in message for message in messages.values() if message)
                if number == signal.SIGSTOP:
                    nobody_resumes_while_it_may_wake_up(models, target)
                    ranks.signal(lost, signal.SIGCONT)
                    ranks.join()  # it ends by itself, or has come to the end after all
        finally:
            ranks.end()
        if state_of(target) is None:
            finished.append(resumed(processes, models, target, rng.choice([1, 2, 3, 4])))
        assert state_of(target) == expected
        assert verify(target).ok
    remove(target)
    assert names_in(tmp_path / "place") == []
    some = sum(0 < each < N_TENSORS for each in finished)
    how = "killed" if number == signal.SIGKILL else "frozen"
    figure(
        f"one of 2 to 4 ranks {how}, {n} times: all others ended within {max(ended_s):.1f} s (rank_timeout "
        f"{TIMEOUT_S:g} s); {finished.count(0)} with nothing finished, {some} with some of {N_TENSORS} "
        f"files; resumed by 1 to 4 ranks, {n} outputs, all byte-identical"
    )


def nobody_resumes_while_it_may_wake_up(models, target):
    """Its lock holds."""
    with pytest.raises(OutputError, match="another process is merging to this folder"):
        merge(*models, out=target, max_shard_size=SHARD_SIZE)


def test_a_disk_that_is_full_for_one_rank(processes, models, expected, tmp_path, figure):
    """Injected: on one machine all ranks write to the same disk."""
    n, rng, target = trials(4, 2, 20), random.Random(SEED), tmp_path / "place" / "child"
    finished = []
    for _ in range(n):
        remove(target)
        count = rng.choice([2, 3, 4])
        after = rng.randrange(2 * N_TENSORS // count)
        job = Job(models, target, OPTIONS, full_for=rng.randrange(count), full_after=after)
        ranks = Ranks(processes, job, count)
        ranks.join()
        messages = ranks.outcomes()
        assert messages.keys() == set(range(count))
        assert all("No space left on device" in message for message in messages.values())
        assert f"rank: {job.full_for}" in messages[0] or job.full_for == 0
        assert state_of(target) is None
        finished.append(resumed(processes, models, target, rng.choice([1, 2, 3, 4])))
        assert state_of(target) == expected
    some = sum(0 < each < N_TENSORS for each in finished)
    figure(
        f"a disk full for one of 2 to 4 ranks, {n} times: all ended with its error, {some} with some of "
        f"{N_TENSORS} files finished; resumed, {n} outputs, all byte-identical"
    )
