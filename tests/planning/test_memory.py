"""How the memory budget is divided, and that the plan keeps to it."""

import pytest

from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.errors import SettingsError
from fusion_slerp.planning.memory import KEPT_CHUNKS, MAX_NBYTES, MemoryPlan, plan_memory
from fusion_slerp.settings.merge_settings import make_settings

BF16_PAIR = 4
"""Bytes per element of two bfloat16 parents together."""


def plan(longest=10**6, width=BF16_PAIR, out=2, n_models=2, **settings) -> MemoryPlan:
    return plan_memory(make_settings(**settings), {width}, {out}, longest, n_models)


@pytest.mark.parametrize("budget", ["50MB", "200MB", "1GB", 3 * 10**9])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_budget_is_used_and_never_exceeded(budget, threads):
    memory = plan(threads=threads, memory_budget=budget)
    asked = make_settings(memory_budget=budget).memory_nbytes
    assert asked - memory.in_nbytes < memory.nbytes <= asked
    assert memory.workers > threads
    assert memory.n_ins > memory.kept_chunks + memory.workers
    assert memory.n_outs > memory.workers


def test_without_a_budget_little_is_kept_and_every_type_has_room():
    assert plan(threads=2).kept_chunks == KEPT_CHUNKS
    assert plan(threads=2).nbytes < 70e6
    assert plan(width=16, out=8, threads=4).nbytes > MAX_NBYTES  # four threads were asked for


def test_no_more_is_kept_than_the_longest_tensor_has():
    assert plan(longest=3, threads=2, memory_budget="1GB").kept_chunks == 3
    assert plan(longest=1, threads=2).kept_chunks == 1


def test_wider_elements_need_longer_buffers_and_the_widest_counts():
    narrow, wide = plan(threads=1), plan(width=16, out=8, threads=1)
    assert wide.in_nbytes > 3.9 * narrow.in_nbytes
    assert wide.out_nbytes >= CHUNK_ELEMENTS * 8
    mixed = plan_memory(make_settings(threads=1), {2, 16, 4}, {1, 8}, 10**6, 2)
    assert mixed == wide


def test_with_many_cpus_there_are_as_many_threads_as_the_budget_has_buffers_for(monkeypatch):
    monkeypatch.setattr("fusion_slerp.settings.merge_settings.available_cpus", lambda: 256)
    memory = plan()
    assert memory == plan(memory_budget="200MB", longest=memory.kept_chunks)
    assert 15 <= memory.threads < 40
    assert memory.nbytes <= 200e6
    assert plan(memory_budget="4GB").threads == 256


def test_a_budget_too_small_for_the_threads_asked_for(monkeypatch):
    with pytest.raises(SettingsError) as caught:
        plan(memory_budget="100MB", threads=64)
    lines = str(caught.value).splitlines()
    assert lines[0] == "memory_budget is too small"
    assert lines[1] == "  found: 100MB for 64 threads"
    assert lines[-1].startswith("Fix: use memory_budget='")
    enough = lines[-1].removeprefix("Fix: use memory_budget='").removesuffix("'")
    assert plan(memory_budget=enough, threads=64).kept_chunks == 0
    with pytest.raises(SettingsError, match="for 1 thread\n"):
        plan(memory_budget="1MB")


def test_a_model_without_tensors():
    assert plan_memory(make_settings(threads=1), [], [], 0, 2).kept_chunks == 0
