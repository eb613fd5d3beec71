"""What the system is asked to read ahead: each part once, in order, and not for small reads."""

import os
from itertools import pairwise

import pytest

from fusion_slerp import merge, verify
from fusion_slerp.sources import read_ahead
from fusion_slerp.sources.read_ahead import AHEAD_NBYTES, LEAST_NBYTES, ReadAhead

CHUNK = 2 << 20


@pytest.fixture
def asked(monkeypatch) -> list[tuple[int, int, int]]:
    """What the system is asked for: descriptor, first byte, number of bytes."""
    found = []

    def fadvise(descriptor, first, nbytes, advice):
        assert advice == os.POSIX_FADV_WILLNEED
        found.append((descriptor, first, nbytes))

    if not hasattr(os, "posix_fadvise"):
        pytest.skip("this system cannot be asked")
    monkeypatch.setattr(os, "posix_fadvise", fadvise)
    return found


def test_a_file_is_asked_for_in_order_and_each_part_once(asked):
    ahead = ReadAhead()
    for start in range(0, 100 * CHUNK, CHUNK):
        ahead.before(3, start, CHUNK)
        last = asked[-1][1] + asked[-1][2]
        assert start + CHUNK + AHEAD_NBYTES // 2 <= last <= start + CHUNK + AHEAD_NBYTES
    assert asked[0][1] == CHUNK
    for (_, first, nbytes), (_, following, _) in pairwise(asked):
        assert first + nbytes == following
    assert len(asked) <= 100 * CHUNK / (AHEAD_NBYTES // 2) + 1


def test_what_is_read_again_is_not_asked_for_again(asked):
    ahead = ReadAhead()
    ahead.before(3, 50 * CHUNK, CHUNK)
    del asked[:]
    for start in (0, 20 * CHUNK, 50 * CHUNK):
        ahead.before(3, start, CHUNK)
    assert not asked
    ahead.before(4, 0, CHUNK)  # another file
    assert asked == [(4, CHUNK, AHEAD_NBYTES)]


def test_after_a_gap_what_follows_is_asked_for(asked):
    ahead = ReadAhead()
    ahead.before(3, 0, CHUNK)
    ahead.before(3, 500 * CHUNK, CHUNK)
    assert asked[1] == (3, 501 * CHUNK, AHEAD_NBYTES)


def test_small_reads_ask_for_nothing(asked):
    ReadAhead().before(3, 0, LEAST_NBYTES - 1)
    assert not asked


@pytest.mark.parametrize("is_known", [True, False])
def test_a_merge_does_not_need_it(is_known, tmp_path, parents, monkeypatch):
    """The system refuses the advice, or cannot be asked."""

    def refused(*advice):
        calls.append(advice)
        raise OSError("Illegal seek")

    calls = []
    monkeypatch.setattr(read_ahead, "LEAST_NBYTES", 1)
    if is_known:
        monkeypatch.setattr(os, "posix_fadvise", refused, raising=False)
        monkeypatch.setattr(os, "POSIX_FADV_WILLNEED", 3, raising=False)
    else:
        monkeypatch.delattr(os, "posix_fadvise", raising=False)
    merge(*parents, out=tmp_path / "merged")
    assert bool(calls) == is_known
    assert verify(tmp_path / "merged").ok
