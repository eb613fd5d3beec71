"""Digests of the output: right for any threads and budget, and no thread waits for bytes that never come."""

import threading
from itertools import permutations

import numpy as np
import pytest
import xxhash
from blake3 import blake3

from fusion_slerp import MismatchError, OutputError, plan_merge
from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.dtypes import BF16, F32
from fusion_slerp.engine.aborting import AbortedError
from fusion_slerp.engine.executor import execute
from fusion_slerp.engine.memory_sink import MemorySink
from fusion_slerp.engine.output_digests import OutputDigests
from fusion_slerp.engine.report import WeightFile
from fusion_slerp.engine.steps import Large
from fusion_slerp.output.shard_writer import ShardWriter
from fusion_slerp.planning.layout import Tensor, lay_out
from fusion_slerp.planning.plan import MergePlan
from tests.engine.test_executor import LEAST, FailingSink, finished
from tests.models import write_checkpoint


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    """Large and small tensors, empty ones, a scalar, integers; in several files when merged."""
    folder = tmp_path_factory.mktemp("models")
    made = []
    for seed, name in enumerate("ab"):
        rng = np.random.default_rng(seed)
        sizes = {"0": 2.5, "1": 0.1, "2": 1, "3": 0, "4": 1.001, "5": 0.4, "6": 0}
        tensors = {
            key: (rng.standard_normal(int(size * CHUNK_ELEMENTS), np.float32) * 0.02).astype("float16")
            for key, size in sizes.items()
        }
        tensors |= {"7": np.arange(1000, dtype=np.int32), "8": np.array(seed + 1.0, np.float16)}
        tensors["9"] = (rng.standard_normal((700, 1500), np.float32) * 0.02).astype("float16")
        made.append(write_checkpoint(folder / name, tensors=tensors, tokens=None))
    return made


def digests_of(plan: MergePlan) -> OutputDigests:
    return OutputDigests(plan.slots, plan.shards, "blake3")


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("granularity", ["tensor", "row", "column"])
def test_they_are_those_of_the_files_and_tensors(tmp_path, parents, threads, granularity):
    plan = plan_merge(
        *parents, t=0.3, threads=threads, memory_budget="110MB", max_shard_size="4MB", granularity=granularity
    )
    files: list[WeightFile] = []
    writer = ShardWriter(tmp_path, plan.shards)
    with writer:
        execute(plan, writer, files.append, digests=digests_of(plan))
    files.sort(key=lambda file: file.name)
    assert [report.name for file in files for report in file.reports] == [slot.name for slot in plan.slots]
    assert [file.name for file in files] == [shard.file_name for shard in plan.shards]
    assert len(plan.shards) > 2
    by_name = {report.name: report.digest for file in files for report in file.reports}
    for i, (file, shard) in enumerate(zip(files, plan.shards, strict=True)):
        data = (tmp_path / shard.file_name).read_bytes()
        assert file.digest == blake3(data).hexdigest()
        assert file.nbytes == len(data) == shard.nbytes
        for slot in plan.slots:
            if slot.shard == i:
                part = data[len(shard.header) + slot.offset :][: slot.nbytes]
                assert by_name.pop(slot.name) == xxhash.xxh3_128(part).hexdigest()
    assert not by_name


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("threads", LEAST)
def test_failing_writes_end_the_merge(parents, n, threads):
    plan = plan_merge(*parents, t=0.3, threads=threads, memory_budget=LEAST[threads])
    sink = FailingSink(plan, n)
    with pytest.raises(OutputError, match="full"):
        finished(lambda: execute(plan, sink, digests=digests_of(plan)))


@pytest.mark.parametrize("threads", LEAST)
@pytest.mark.parametrize("n", [3 * CHUNK_ELEMENTS, 200_000])
def test_the_first_failure_is_told_and_not_that_others_waited(tmp_path, threads, n):
    """One chunk overflows while its neighbours wait for it."""
    words = np.full(4 * n, 1.0, np.float32)
    words[n + 5] = 1e5
    tensors = {str(i): part for i, part in enumerate(np.split(words, 4))}
    folders = [write_checkpoint(tmp_path / name, tensors=tensors, tokens=None) for name in "ab"]
    plan = plan_merge(*folders, t=0.5, threads=threads, dtype="float16", memory_budget=LEAST[threads])
    sink = MemorySink(plan)
    for _ in range(5):
        with pytest.raises(OutputError, match="overflow to infinity") as caught:
            finished(lambda: execute(plan, sink, digests=digests_of(plan)))
        assert "tensor: 1" in str(caught.value)


def test_an_interrupt_in_the_calling_thread_releases_all(parents, monkeypatch):
    plan = plan_merge(*parents, t=0.3, threads=2)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Large, "decide", interrupt)
    sink = MemorySink(plan)
    with pytest.raises(KeyboardInterrupt):
        finished(lambda: execute(plan, sink, digests=digests_of(plan)))


def test_a_file_that_cannot_be_brought_to_the_disk_ends_the_merge(parents):
    plan = plan_merge(*parents, t=0.3, max_shard_size="1MB")

    class FailingFinish(MemorySink):
        def finish(self, shard):
            if shard == 1:
                raise OutputError("failing disk")

    files = []
    sink = FailingFinish(plan)
    with pytest.raises(OutputError, match="failing disk"):
        execute(plan, sink, files.append, digests=digests_of(plan))
    assert plan.shards[1].file_name not in {file.name for file in files}


# --- turns ----------------------------------------------------------------------------------------------


def three_pieces(most_early: int = 2) -> OutputDigests:
    slots, shards = lay_out([Tensor("x", F32, (3,), 12), Tensor("y", BF16, (2,), 4)], 100)
    return OutputDigests(slots, shards, "sha256", most_early)


def digests_of_bytes(data: np.ndarray) -> dict[str, str]:
    return {
        "x": xxhash.xxh3_128(data[:12].tobytes()).hexdigest(),
        "y": xxhash.xxh3_128(data[12:].tobytes()).hexdigest(),
    }


@pytest.mark.parametrize("order", list(permutations(range(4))), ids=str)
def test_pieces_come_in_any_order_and_may_end_inside_a_tensor(order):
    data, added = np.arange(16, dtype=np.uint8), []
    digests, borders = three_pieces(most_early=3), [0, 2, 10, 13, 16]
    for i in order:
        digests.add(
            0, borders[i], data[borders[i] : borders[i + 1]], lambda error, i=i: added.append((i, error))
        )
    assert added == [(i, None) for i in range(4)]
    assert digests.tensors(0) == digests_of_bytes(data)


def test_nothing_may_come_before_what_follows_at_the_same_offset():
    """An empty tensor's bytes: they must not take the place of the bytes that come early."""
    data, added = np.arange(16, dtype=np.uint8), []
    digests = three_pieces(most_early=3)
    for start, end in (2, 16), (2, 2), (0, 2):
        digests.add(
            0, start, data[start:end], lambda error, start=start, end=end: added.append((start, end, error))
        )
    assert added == [(2, 2, None), (0, 2, None), (2, 16, None)]
    assert digests.tensors(0) == digests_of_bytes(data)


def test_only_so_many_may_be_early(somebody_waits):
    data, added = np.arange(16, dtype=np.uint8), []

    def add(start, end):
        digests.add(0, start, data[start:end], lambda error: added.append((start, error)))

    digests = three_pieces(most_early=1)
    add(10, 16)
    late = threading.Thread(target=add, args=(2, 10))
    late.start()
    assert somebody_waits.wait(300)
    assert added == []
    add(0, 2)
    late.join(300)
    assert not late.is_alive()
    assert added == [(0, None), (2, None), (10, None)]
    assert digests.tensors(0) == digests_of_bytes(data)


@pytest.mark.parametrize("most_early", [0, 2])
def test_a_failure_releases_those_behind_it_and_no_others(most_early):
    digests, ended = three_pieces(most_early), []

    def add(offset):
        digests.add(0, offset, np.zeros(4, np.uint8), lambda error: ended.append((offset, type(error))))

    threads = [threading.Thread(target=add, args=(offset,)) for offset in (12, 4)]
    for thread in threads:
        thread.start()
    if most_early:
        for thread in threads:
            thread.join(300)
        assert ended == []
    digests.abort((0, 8))
    threads[0].join(300)
    assert ended == [(12, AbortedError)]
    add(0)
    threads[1].join(300)
    assert ended == [(12, AbortedError), (0, type(None)), (4, type(None))]
    add(8)
    add(12)
    assert ended[3:] == [(8, type(None)), (12, AbortedError)]


def test_of_several_failures_the_first_in_order_is_told(tmp_path):
    """Chunk by chunk, whichever thread is faster."""
    values = np.arange(5 * CHUNK_ELEMENTS, dtype=np.int32)
    other = values.copy()
    other[[3, CHUNK_ELEMENTS + 8, 2 * CHUNK_ELEMENTS + 1]] += 1
    small = {"a": np.ones(5, np.float32)}
    folders = [
        write_checkpoint(tmp_path / name, tensors={**small, "ids": each}, tokens=None)
        for name, each in (("a", values), ("b", other))
    ]
    plan = plan_merge(*folders, t=0.5, threads=3)
    sink = MemorySink(plan)
    for _ in range(30):
        with pytest.raises(MismatchError, match="first at element 3\n"):
            finished(lambda: execute(plan, sink, digests=digests_of(plan)))
