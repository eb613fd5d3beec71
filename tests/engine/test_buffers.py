"""Buffers: aligned, disjoint, and reused."""

import itertools
import threading

from fusion_slerp.chunks import PAGE_NBYTES
from fusion_slerp.engine.buffers import BufferPool
from fusion_slerp.engine.threads import Threads
from fusion_slerp.planning.memory import MemoryPlan
from fusion_slerp.sources.open_files import OpenFiles


def test_buffers_start_at_pages_and_do_not_overlap():
    pool = BufferPool(5000, 4)
    buffers = [pool.take() for _ in range(4)]
    starts = sorted(buffer.ctypes.data for buffer in buffers)
    assert all(start % PAGE_NBYTES == 0 for start in starts)
    assert all(buffer.size >= 5000 for buffer in buffers)
    assert all(after - before >= 5000 for before, after in itertools.pairwise(starts))


def test_the_last_one_given_back_goes_out_first():
    pool = BufferPool(100, 3)
    first, second = pool.take(), pool.take()
    pool.give(first)
    assert pool.take() is first
    pool.give(first)
    pool.give(second)
    assert pool.take() is second


def test_taking_waits_until_one_is_free(somebody_waits):
    pool = BufferPool(100, 1)
    buffer = pool.take()
    taken = threading.Event()

    def take():
        pool.take()
        taken.set()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    assert somebody_waits.wait(300)
    assert not taken.is_set()
    pool.give(buffer)
    assert taken.wait(300)


def test_there_are_as_many_as_the_plan_says():
    memory = MemoryPlan(threads=2, kept_chunks=3, in_nbytes=10, out_nbytes=20)
    with Threads(memory, OpenFiles({})) as threads:
        assert threads.ins._free.qsize() == memory.n_ins
        assert threads._outs._free.qsize() == memory.n_outs
