"""How a merge ends early: no thread waits for what never comes, and every task is begun."""

import threading
from contextlib import nullcontext

import numpy as np
import pytest

from fusion_slerp import plan_merge
from fusion_slerp.engine.aborting import AbortedError
from fusion_slerp.engine.buffers import BufferPool
from fusion_slerp.engine.chunk_work import Making, produce
from fusion_slerp.engine.executor import execute
from fusion_slerp.engine.many import all_digests
from fusion_slerp.engine.memory_sink import MemorySink
from fusion_slerp.engine.threads import BEFORE_ALL, Threads
from fusion_slerp.planning.memory import MemoryPlan
from fusion_slerp.sources.open_files import OpenFiles
from tests.engine.test_units import CHUNKS, Counting, unit_with
from tests.models import write_checkpoint

HANG_S = 300


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
    assert ends == ["released"] * 4
    pool.give(buffer)  # by a task that had it


def test_after_a_failure_tasks_get_no_buffer_and_none_is_cancelled():
    memory = MemoryPlan(threads=2, kept_chunks=1, in_nbytes=10, out_nbytes=10)
    tasks = []

    def fail(threads):
        for _ in range(memory.n_ins):  # kept for tasks that would have followed
            threads.ins.take()
        tasks.extend(threads.submit(BEFORE_ALL, threads.ins.take) for _ in range(20))
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
