"""Schedules: any memory budget gives the same bytes, reads as the plan predicts, and never deadlocks."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from itertools import groupby

import numpy as np
import pytest

from fusion_slerp import CheckpointError, MismatchError, OutputError, plan_merge
from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.engine import batches, chunk_work
from fusion_slerp.engine.executor import Child, execute, execute_all
from fusion_slerp.engine.many import all_digests
from fusion_slerp.engine.memory_sink import MemorySink
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.engine.threads import Threads
from fusion_slerp.planning.amounts import nbytes_processed
from fusion_slerp.planning.memory import MAX_BATCH
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.sources import elements
from fusion_slerp.sources.positioned_io import read_at
from tests.models import write_checkpoint

LEAST = {1: "68MB", 2: "81MB", 3: "93MB"}
"""Hardly more than the buffers that this number of threads needs for a float32 and a float16 parent."""


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    """Tensors of 1 to 6 chunks between small ones, integers, and types that differ."""
    folder = tmp_path_factory.mktemp("models")
    made = []
    for seed, name in enumerate("ab"):
        rng = np.random.default_rng(seed)
        sizes = {"0": 6.2, "1": 0.1, "2": 3, "3": 1, "4": 1.001, "5": 0.6, "6": 0.6, "7": 2.5}
        kinds = {"2": ("float32", "float16"), "4": ("float16", "float32"), "5": ("float32", "float32")}
        tensors = {
            key: (rng.standard_normal(int(size * CHUNK_ELEMENTS), np.float32) * 0.02).astype(
                kinds.get(key, ("float16", "float16"))[seed]
            )
            for key, size in sizes.items()
        }
        tensors["8"] = np.arange(CHUNK_ELEMENTS + 17, dtype=np.int32)
        made.append(write_checkpoint(folder / name, tensors=tensors, tokens=None, n_shards=2))
    return made


def finished(run: Callable[[], object]) -> None:
    """Runs it in a thread, so that a deadlock fails the test instead of hanging it."""
    failure: list[BaseException] = []

    def guarded():
        try:
            run()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(300)
    assert not thread.is_alive(), "it hangs"
    if failure:
        raise failure[0]


def child_bytes(plan: MergePlan) -> dict[str, bytes]:
    sink = MemorySink(plan)
    finished(lambda: execute(plan, sink))
    return {name: tensor.numpy().tobytes() for name, tensor in sink.state_dict().items()}


@pytest.mark.parametrize("t", [0.3, 1])
def test_the_bytes_depend_neither_on_the_budget_nor_on_the_threads(parents, t):
    results = [
        child_bytes(plan_merge(*parents, t=t, threads=threads, memory_budget=budget))
        for threads, least in LEAST.items()
        for budget in (least, "110MB", "1GB")
    ]
    assert len(results[0]) == 9
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize(("budget", "kept"), [(LEAST[2], 0), ("110MB", 3), ("1GB", 7)])
@pytest.mark.parametrize("t", [0, 0.3])
def test_exactly_the_bytes_are_read_that_the_plan_foresees(parents, monkeypatch, budget, kept, t):
    plan = plan_merge(*parents, t=t, threads=2, memory_budget=budget)
    nbytes = []

    def counting(descriptor, buffer, offset):
        nbytes.append(buffer.nbytes)
        read_at(descriptor, buffer, offset)

    monkeypatch.setattr(elements, "read_at", counting)
    child_bytes(plan)
    assert plan.memory.kept_chunks == (kept if t else 0)
    assert sum(nbytes) == plan.nbytes_read
    assert (plan.nbytes_read > plan.nbytes_in) == (t != 0 and kept < 7)


@pytest.mark.parametrize("budget", [LEAST[2], "110MB"])
def test_few_tasks_overtake_a_tensors_combining_so_that_no_thread_waits(parents, monkeypatch, budget):
    """One batch, and as many chunks of the next tensor as there are threads: more could take all buffers."""
    plan = plan_merge(*parents, t=0.3, threads=2, memory_budget=budget)
    submitted: list[str] = []

    def spying(threads, position, task, *arguments):
        if task is chunk_work.measure:
            submitted.append(f"measure {arguments[1].out.name}")
            if submitted.count(submitted[-1]) == 1:
                left = [future for future in combining if not future.done()]
                assert not left, "it would take a buffer that they need"
        elif task is chunk_work.produce:
            submitted.append(f"combine {arguments[1][0].tensor.out.name}")
        elif task is batches.make:
            submitted.append(f"make {[in_each[0].out.name for in_each in arguments[1]]}")
        future = submit(threads, position, task, *arguments)
        if task is chunk_work.produce:
            combining.append(future)
        return future

    combining: list[Future] = []
    submit = Threads.submit
    monkeypatch.setattr(Threads, "submit", spying)
    child_bytes(plan)
    runs = [f"{run}: {len([*each])}" for run, each in groupby(submitted)]
    assert runs == [
        "measure 2: 3",
        "combine 2: 3",
        "combine 8: 2",
        "make ['5']: 1",
        "measure 0: 7",
        "measure 4: 2",
        "combine 0: 7",
        "make ['6', '1']: 1",
        "combine 4: 2",
        "make ['3']: 1",
        "measure 7: 3",
        "combine 7: 3",
    ]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_several_rounds_of_measuring_end_with_the_least_memory(parents, threads):
    """Counts of upper bits, then of lower ones: the second round finds the next tensor's chunks kept."""
    how = {"method": "ties", "density": 0.37, "base": parents[0], "threads": threads}
    results = [
        child_bytes(plan_merge(parents[1], **how, memory_budget=budget))
        for budget in (LEAST[threads], "110MB", "1GB")
    ]
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_more_models_than_there_are_buffers_for_results_are_made_together(parents, threads):
    """The results of a batch that comes early wait in all of them, except one for each worker."""
    plans = [plan_merge(*parents, t=t, threads=threads) for t in np.linspace(0.1, 0.9, 16).tolist()]
    assert len(plans) > plans[0].memory.n_outs
    children = [Child(plan, MemorySink(plan), lambda file: None, plan.tensors) for plan in plans]
    finished(lambda: execute_all(children, digests=all_digests(plans)))
    for child, plan in (children[0], plans[0]), (children[-1], plans[-1]):
        found = {name: tensor.numpy().tobytes() for name, tensor in child.sink.state_dict().items()}
        assert found == child_bytes(plan)


def test_neighbours_are_read_at_once(tmp_path, monkeypatch):
    tensors = {f"{i:04}": np.full(i % 7, i, np.float32) for i in range(2 * MAX_BATCH + 5)}
    tensors["zz"] = np.ones(3, np.float16)
    folders = [write_checkpoint(tmp_path / name, tensors=tensors, tokens=None) for name in "ab"]
    plan = plan_merge(*folders, t=0.5, threads=1)
    calls = []

    def counting(descriptor, buffer, offset):
        calls.append(offset)
        read_at(descriptor, buffer, offset)

    monkeypatch.setattr(elements, "read_at", counting)
    sink = MemorySink(plan)
    reports: list[TensorReport] = []
    execute(plan, sink, lambda file: reports.extend(file.reports))
    assert [report.name for report in reports] == [tensor.out.name for tensor in plan.tensors]
    child = sink.state_dict()
    assert all(np.array_equal(child[name].numpy(), tensor) for name, tensor in tensors.items())
    assert len(calls) <= 2 * 5


class FailingSink(MemorySink):
    """A disk that is full from the n-th write on."""

    def __init__(self, plan: MergePlan, n: int) -> None:
        super().__init__(plan)
        self._left = n

    def write(self, shard: int, offset: int, data: memoryview) -> None:
        self._left -= 1
        if self._left < 0:
            raise OutputError("full")
        super().write(shard, offset, data)


@pytest.mark.parametrize("n", [0, 1, 7, 14])
@pytest.mark.parametrize("threads", LEAST)
def test_failing_writes_end_the_merge(parents, n, threads):
    plan = plan_merge(*parents, t=0.3, threads=threads, memory_budget=LEAST[threads])
    n_threads = threading.active_count()
    with pytest.raises(OutputError, match="full"):
        finished(lambda: execute(plan, FailingSink(plan, n)))
    assert threading.active_count() == n_threads


@pytest.mark.parametrize("threads", LEAST)
def test_failing_chunks_end_the_merge(tmp_path, threads):
    """Every chunk overflows: more than there are buffers for results."""
    tensors = {"w": np.full(12 * CHUNK_ELEMENTS, 1e5, np.float32)}
    folders = [write_checkpoint(tmp_path / name, tensors=tensors, tokens=None) for name in "ab"]
    plan = plan_merge(*folders, t=0.5, threads=threads, dtype="float16")
    with pytest.raises(OutputError, match="overflow to infinity"):
        finished(lambda: execute(plan, MemorySink(plan)))


@pytest.mark.parametrize("n", [10, CHUNK_ELEMENTS + 1])
@pytest.mark.parametrize("threads", LEAST)
def test_weights_that_are_not_finite_end_the_merge(tmp_path, n, threads):
    """In every tensor, so that several threads look for the element at once."""
    tensors = {str(i): np.full(n, np.nan, np.float32) for i in range(6)}
    folders = [write_checkpoint(tmp_path / name, tensors=tensors, tokens=None) for name in "ab"]
    plan = plan_merge(*folders, t=0.5, threads=threads, memory_budget=LEAST[threads])
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        finished(lambda: execute(plan, MemorySink(plan)))


def test_differing_integers_end_the_merge(tmp_path):
    folders = [
        write_checkpoint(
            tmp_path / name,
            tensors={"w": np.arange(3 * CHUNK_ELEMENTS, dtype=np.int32) + step},
            tokens=None,
        )
        for step, name in enumerate("ab")
    ]
    plan = plan_merge(*folders, t=0.5, threads=2)
    with pytest.raises(MismatchError, match="must be equal"):
        finished(lambda: execute(plan, MemorySink(plan)))


def test_progress_is_told_in_the_calling_thread_and_adds_up(parents):
    plan = plan_merge(*parents, t=0.3, threads=2)
    told: list[tuple[int, int]] = []
    execute(plan, MemorySink(plan), on_bytes=lambda nbytes, *_: told.append((nbytes, threading.get_ident())))
    assert sum(nbytes for nbytes, _ in told) == sum(nbytes_processed(t, plan.settings) for t in plan.tensors)
    assert sum(nbytes for nbytes, _ in told) > sum(tensor.out.nbytes for tensor in plan.tensors)
    assert {thread for _, thread in told} == {threading.get_ident()}
    assert len(told) > 15
