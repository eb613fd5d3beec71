"""Units at work: what is counted in a chunk, and in all chunks before it."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest

from fusion_slerp.engine.units import UnitAtWork
from fusion_slerp.passes import ByMagnitude
from fusion_slerp.passes.protocols import Made
from fusion_slerp.passes.ranks import NOTHING, Cut

CHUNKS = [(0, 4), (4, 4), (8, 4)]


class Counting:
    """A combine that counts an element of each chunk, and remembers what was known before."""

    def __init__(self) -> None:
        self.known: list[list[int] | None] = []

    def counter(self):
        return self._count

    def _count(self, words, before):
        self.known.append(None if before is None else before.tolist())
        return np.array([words[0][0]])

    def into(self, words, out, start=0, counted=None):
        raise NotImplementedError


def unit_with(combine) -> UnitAtWork:
    def steps():
        yield from ()
        return Made(combine, "test")

    return UnitAtWork(("a",), [], steps(), CHUNKS)


def count(unit: UnitAtWork, k: int):
    counted = unit.counted([np.array([10**k])], CHUNKS[k], nullcontext())
    assert counted is not None
    return counted.before.tolist(), counted.counts.tolist()


def test_counts_of_earlier_chunks_are_added_up():
    combine = Counting()
    unit = unit_with(combine)
    assert [count(unit, k) for k in range(3)] == [([0], [1]), ([1], [10]), ([11], [100])]
    assert combine.known == [None, [1], [11]]


def test_a_chunk_is_counted_while_the_one_before_is_not_known():
    combine = Counting()
    unit = unit_with(combine)
    with ThreadPoolExecutor(1) as other:
        later = other.submit(count, unit, 1)
        while not combine.known:
            assert not later.done()
        assert combine.known == [None]
        assert count(unit, 0) == ([0], [1])
        assert later.result(timeout=60) == ([1], [10])


def test_a_chunk_that_waits_gets_the_failure_of_the_one_before():
    combine = Counting()
    unit = unit_with(combine)
    with ThreadPoolExecutor(1) as other:
        later = other.submit(count, unit, 1)
        unit.abort(CHUNKS[0], OSError("no such disk"))
        with pytest.raises(OSError, match="no such disk"):
            later.result(timeout=60)


def test_a_cut_in_an_earlier_chunk_is_not_counted(monkeypatch):
    """Of two models, the first has its cut in an earlier chunk."""
    words = [np.float32([1, 1, 2]), np.float32([1, 2, 2]), np.float32([0, 0, 0])]
    one, two = (int(np.float32(x).view(np.uint32)) for x in (1, 2))
    selection = ByMagnitude(((NOTHING, Cut(one, 3, 9)), (NOTHING, Cut(two, 5, 9))))
    counter = selection.counter()
    assert counter is not None
    assert counter(words, None).tolist() == [[0, 0], [2, 2]]
    assert counter(words, np.array([[0, 0], [3, 4]])).tolist() == [[0, 0], [0, 2]]
    monkeypatch.setattr("fusion_slerp.kernels.selecting.count_keys", None)
    assert counter(words, np.array([[0, 0], [3, 5]])).tolist() == [[0, 0], [0, 0]]
