"""How a merge ends early: no thread waits for what never comes, and every task is begun."""

import itertools
import os
import signal
import threading
import time
from contextlib import closing, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fusion_slerp import plan_merge
from fusion_slerp.engine.aborting import AbortedError
from fusion_slerp.engine.buffers import BufferPool
from fusion_slerp.engine.chunk_work import Making, produce
from fusion_slerp.engine.executor import execute
from fusion_slerp.engine.many import all_digests
from fusion_slerp.engine.measuring import measure
from fusion_slerp.engine.memory_sink import MemorySink
from fusion_slerp.engine.threads import BEFORE_ALL, Threads
from fusion_slerp.planning.layout import Position
from fusion_slerp.planning.memory import MemoryPlan
from fusion_slerp.sources.open_files import OpenFiles
from tests.engine.test_executor import LEAST
from tests.engine.test_units import CHUNKS, Counting, unit_with
from tests.models import write_checkpoint
from tests.processes import HANG_S


class Stopped(Exception):
    """Ends a merge in the calling thread."""


def within_time(work):
    """Runs work in a thread, so that it may be seen to hang."""
    ended = []
    thread = threading.Thread(target=lambda: ended.append(work()), daemon=True)
    thread.start()
    thread.join(HANG_S)
    assert ended, "it hangs"
    return ended[0]


def test_a_closed_pool_releases_all_that_wait_now_or_later(somebody_waits):
    pool, ends = BufferPool(100, 1), []
    buffer = pool.take()

    def take():
        with pytest.raises(AbortedError):
            pool.take()
        ends.append("released")

    threads = [threading.Thread(target=take, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert somebody_waits.wait(HANG_S)
    pool.close()
    for thread in threads:
        thread.join(HANG_S)
    take()
    pool.give(buffer)  # by a task that had it
    take()
    assert ends == ["released"] * 5


@pytest.mark.parametrize("kind", ["ins", "_outs"])
def test_after_a_failure_tasks_get_no_buffer_and_none_is_cancelled(kind):
    memory = MemoryPlan(threads=2, kept_chunks=1, in_nbytes=10, out_nbytes=10)
    tasks = []

    def fail(threads):
        buffers, count = getattr(threads, kind), {"ins": memory.n_ins, "_outs": memory.n_outs}[kind]
        for _ in range(count):  # kept for tasks that would have followed
            buffers.take()
        tasks.extend(threads.submit(BEFORE_ALL, buffers.take) for _ in range(20))
        raise Stopped

    def run():
        with pytest.raises(Stopped), Threads(memory, OpenFiles({})) as threads:
            fail(threads)
        return True

    assert within_time(run)
    assert [type(task.exception()) for task in tasks] == [AbortedError] * 20


def test_a_chunk_that_gets_no_buffer_releases_the_next_which_waits_for_its_counts(parents):
    tensor, unit = plan_merge(*parents).tensors[0], unit_with(Counting())
    memory = MemoryPlan(threads=1, kept_chunks=0, in_nbytes=10, out_nbytes=10)
    with Threads(memory, OpenFiles({})) as threads:
        threads.ins.close()
        with pytest.raises(AbortedError):
            produce(threads, [Making(tensor, [unit], None)], tensor.sources, CHUNKS[0], None, None)
    with pytest.raises(AbortedError):
        unit.counted([np.array([1])], CHUNKS[1], nullcontext())


def test_after_a_failure_those_that_wait_for_their_turn_in_a_digest_are_released():
    aborted: list[Position] = []
    memory = MemoryPlan(threads=1, kept_chunks=0, in_nbytes=10, out_nbytes=10)
    digests: Any = SimpleNamespace(abort=aborted.append)
    with pytest.raises(Stopped), Threads(memory, OpenFiles({}), digests=digests):
        raise Stopped
    assert aborted == [BEFORE_ALL]


@pytest.mark.parametrize("method", ["slerp", "ties"])
def test_a_merge_that_is_stopped_at_any_step_ends(tmp_path, method):
    """Of large tensors, whose chunks are kept or wait for the counts of those before them."""
    parents = []
    for seed, name in enumerate("abc"):
        rng = np.random.default_rng(seed)
        tensors = {
            f"{k}.weight": rng.standard_normal((8, 1 << 19), np.float32).astype(np.float16) for k in range(3)
        }
        parents.append(write_checkpoint(tmp_path / name, tensors=tensors))
    models, base = (parents[:2], None) if method == "slerp" else (parents[1:], parents[0])
    plan = plan_merge(*models, base=base, method=method, threads=3)
    steps = []
    execute(plan, MemorySink(plan), on_bytes=lambda *done: steps.append(done), digests=all_digests([plan]))

    def stopped_after(n):
        left = iter(range(n))

        def on_bytes(*done):
            if next(left, None) is None:
                raise Stopped

        def run():
            with pytest.raises(Stopped):
                execute(plan, MemorySink(plan), on_bytes=on_bytes, digests=all_digests([plan]))
            return True

        return run

    assert len(steps) > 10
    assert all(within_time(stopped_after(n)) for n in range(len(steps)))


# --- signals --------------------------------------------------------------------------------------------

LARGE = (5, 1 << 19)
"""Several chunks."""


def merged(plan):
    execute(plan, MemorySink(plan))


def is_done(plan, work):
    """Whether the work comes to its end."""
    try:
        work(plan)
    except KeyboardInterrupt:
        return False
    return True


def measured(plan):
    with closing(measure(plan)) as found:
        list(found)


WORK = {
    "small tensors": ([(2, 3)], {"t": 0.5}, merged),
    "large tensors that are measured": ([LARGE] * 3, {"t": 0.5}, merged),
    "those, of which nothing is kept": ([LARGE] * 3, {"t": 0.5, "memory_budget": LEAST[1]}, merged),
    "large tensors that are not": ([LARGE], {"method": "linear"}, merged),
    "angles of small tensors": ([(2, 3)], {"t": 0.5}, measured),
    "angles of large tensors": ([LARGE], {"t": 0.5}, measured),
}


@pytest.mark.parametrize(("shapes", "options", "work"), WORK.values(), ids=WORK.keys())
def test_ctrl_c_at_every_read_and_write_that_is_waited_for(
    tmp_path, monkeypatch, ctrl_c_raises, shapes, options, work
):
    tensors = {f"model.layers.{k}.norm.weight": np.ones(shape, np.float32) for k, shape in enumerate(shapes)}
    parents = [write_checkpoint(tmp_path / name, tensors=tensors) for name in "ab"]
    plan, end = plan_merge(*parents, threads=1, **options), Threads._end
    has_ended, waited, n_calls, n_waited = threading.Event(), [], itertools.count(), 0

    def blocked(real):
        def call(*args, **kwargs):
            if next(n_calls) == n_waited:
                time.sleep(0.05)  # so that the main thread is likely to wait for this
                os.kill(os.getpid(), signal.SIGINT)
                waited.append(has_ended.wait(HANG_S))
            return real(*args, **kwargs)

        return call

    def ending(threads):
        has_ended.set()
        end(threads)

    for owner, name in ((OpenFiles, "read"), (OpenFiles, "read_together"), (MemorySink, "write")):
        monkeypatch.setattr(owner, name, blocked(getattr(owner, name)))
    monkeypatch.setattr(Threads, "_end", ending)
    while not is_done(plan, work):
        assert all(waited)
        has_ended.clear()
        n_calls, n_waited = itertools.count(), n_waited + 1
    assert len(waited) >= len(shapes)


def test_ctrl_c_does_not_disturb_what_is_told_of_progress(parents, ctrl_c_raises):
    plan, told = plan_merge(*parents, threads=1), []

    def on_bytes(*done):
        signal.raise_signal(signal.SIGINT)
        told.append(done)

    with pytest.raises(KeyboardInterrupt):
        execute(plan, MemorySink(plan), on_bytes=on_bytes)
    assert told


def test_what_waits_for_the_angles_of_models_may_fail(parents, ctrl_c_raises):
    def fail():
        with closing(measure(plan_merge(*parents, t=0.5))) as found:
            next(found)
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
            raise Stopped

    with pytest.raises(Stopped):
        fail()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
