"""Files written past the page cache: the same bytes as through it, and the fallback where that fails."""

import errno
import itertools
import logging
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_slerp.chunks import PAGE_NBYTES
from fusion_slerp.engine.buffers import BufferPool
from fusion_slerp.output import output_file
from fusion_slerp.output.output_file import OutputFile

MODES = ["auto", "on", "off"]


@pytest.fixture
def written(monkeypatch):
    """The writes that reached the system, as (through the cache?, bytes, offset)."""
    calls, real = [], output_file.write_at

    def write_at(descriptor, data, offset):
        cached = not _is_direct(descriptor)
        calls.append((cached, data.nbytes, offset))
        real(descriptor, data, offset)

    monkeypatch.setattr(output_file, "write_at", write_at)
    return calls


def _is_direct(descriptor: int) -> bool:
    import fcntl

    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)


def placed(data: bytes, offset: int) -> memoryview:
    """A copy of the data that lies in its memory page as it will in the file's."""
    buffer = BufferPool(len(data) + PAGE_NBYTES, 1).take()
    view = buffer[offset % PAGE_NBYTES :][: len(data)]
    view[:] = np.frombuffer(data, np.uint8)
    return view.data


pieces = st.lists(st.sampled_from([1, 7, 4095, 4096, 4097, 8192, 12345, 50_000]), min_size=1, max_size=8)


@settings(max_examples=40)
@given(pieces, st.randoms(use_true_random=False), st.sampled_from(MODES), st.booleans())
def test_pieces_in_any_order_make_the_file(has_direct_io, tmp_path_factory, sizes, random, mode, aligned):
    folder = tmp_path_factory.mktemp("file")
    mode = mode if has_direct_io else "off"
    data = np.random.default_rng(len(sizes)).bytes(sum(sizes))
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    order = list(zip(starts, sizes, strict=True))
    random.shuffle(order)
    file = OutputFile(folder / "file", len(data), mode)
    for start, size in order:
        piece = data[start : start + size]
        file.write(placed(piece, start) if aligned else memoryview(bytearray(piece)), start)
    file.close()
    assert (folder / "file").read_bytes() == data


@pytest.mark.usefixtures("direct")
@pytest.mark.parametrize("mode", ["auto", "on"])
def test_whole_pages_go_past_the_cache_and_the_ends_through_it(tmp_path, written, mode):
    file = OutputFile(tmp_path / "file", 20_000, mode)
    file.write(placed(b"x" * 15_000, 4000), 4000)
    file.close()
    assert sorted(written) == [(False, 12288, 4096), (True, 96, 4000), (True, 2616, 16384)]


@pytest.mark.usefixtures("direct")
def test_off_writes_all_through_the_cache(tmp_path, written):
    file = OutputFile(tmp_path / "file", 8192, "off")
    file.write(placed(b"x" * 8192, 0), 0)
    file.close()
    assert written == [(True, 8192, 0)]


@pytest.mark.usefixtures("direct")
def test_memory_that_lies_otherwise_goes_through_the_cache(tmp_path, written):
    file = OutputFile(tmp_path / "file", 8192, "on")
    file.write(placed(b"x" * 4096, 8), 0)
    file.write(memoryview(b"read-only" * 10), 4096)
    file.close()
    assert [cached for cached, _, _ in written] == [True, True]


def refusing_open(monkeypatch, code):
    real = os.open

    def refuse(path, flags, *arguments):
        if flags & os.O_DIRECT:
            raise OSError(code, os.strerror(code))
        return real(path, flags, *arguments)

    monkeypatch.setattr(os, "open", refuse)


def refusing_write(monkeypatch, code):
    real = output_file.write_at

    def refuse(descriptor, data, offset):
        if _is_direct(descriptor):
            raise OSError(code, os.strerror(code))
        real(descriptor, data, offset)

    monkeypatch.setattr(output_file, "write_at", refuse)


@pytest.mark.usefixtures("direct")
@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
@pytest.mark.parametrize("refuse", [refusing_open, refusing_write])
def test_where_it_cannot_be_auto_falls_back_and_says_so_and_on_fails(
    tmp_path, monkeypatch, caplog, refuse, code
):
    refuse(monkeypatch, code)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with caplog.at_level(logging.DEBUG, "fusion_slerp"):
        file = OutputFile(tmp_path / "auto", 12288, "auto")
        for start in (0, 4096, 8192):
            file.write(placed(bytes([start >> 12]) * 4096, start), start)
        file.close()
    assert (tmp_path / "auto").read_bytes() == b"\0" * 4096 + b"\1" * 4096 + b"\2" * 4096
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert f"no direct I/O for {tmp_path / 'auto'} ({os.strerror(code)})" in record.message
    with pytest.raises(OSError, match=os.strerror(code)):
        OutputFile(tmp_path / "on", 4096, "on").write(placed(b"x" * 4096, 0), 0)
    if before and refuse is refusing_open:
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_system_without_o_direct(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_DIRECT", raising=False)
    file = OutputFile(tmp_path / "file", 4096, "auto")
    file.write(placed(b"x" * 4096, 0), 0)
    file.close()
    assert (tmp_path / "file").read_bytes() == b"x" * 4096
    with pytest.raises(OSError, match="no O_DIRECT"):
        OutputFile(tmp_path / "other", 4096, "on")


@pytest.mark.usefixtures("direct")
@pytest.mark.parametrize("mode", MODES)
def test_a_failing_disk_is_never_taken_for_a_missing_feature(tmp_path, monkeypatch, mode):
    def fail(descriptor, data, offset):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    file = OutputFile(tmp_path / "file", 4096, mode)
    monkeypatch.setattr(output_file, "write_at", fail)
    with pytest.raises(OSError, match="Input/output error"):
        file.write(placed(b"x" * 4096, 0), 0)
    file.close()


def test_many_threads_write_neighbouring_pieces(tmp_path):
    rng = np.random.default_rng(0)
    data = rng.bytes(3_000_001)
    starts = [0, *sorted(rng.integers(1, len(data), 60).tolist()), len(data)]
    file = OutputFile(tmp_path / "file", len(data), "auto")
    with ThreadPoolExecutor(8) as pool:
        spans = list(itertools.pairwise(starts))
        list(pool.map(lambda span: file.write(placed(data[slice(*span)], span[0]), span[0]), spans))
    file.close()
    assert (tmp_path / "file").read_bytes() == data
