"""Reading elements that are scattered over a file, in any piece, without reading much else."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_slerp.dtypes import BF16, BY_CODE, F32
from fusion_slerp.errors import CheckpointError
from fusion_slerp.sources import elements
from fusion_slerp.sources.elements import read_elements
from fusion_slerp.sources.file_state import state_of
from fusion_slerp.sources.header import TensorEntry
from fusion_slerp.sources.open_files import OpenFiles
from fusion_slerp.sources.stored_bytes import equal_bytes

HEAD = 24
"""Bytes before the data of the files here."""


def store(file: Path, base: np.ndarray) -> Path:
    file.write_bytes(b"\xaa" * HEAD + base.tobytes())
    return file


def entry_of(file: Path, base: np.ndarray, view: np.ndarray, name: str = "w") -> TensorEntry:
    """The entry of a view of the stored array."""
    dtype = {2: BF16, 4: F32, 8: BY_CODE["I64"]}[base.itemsize]
    offset = view.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    strides = tuple(step // base.itemsize for step in view.strides)
    return TensorEntry(name, dtype, view.shape, file, HEAD + offset, view.size * base.itemsize, strides)


def read(entry: TensorEntry, start: int, count: int) -> np.ndarray:
    raw = np.full(count * entry.dtype.itemsize, 0xEE, np.uint8)
    with entry.file.open("rb") as stream:
        read_elements(stream.fileno(), entry, start, raw)
    return raw


VIEWS = {
    "transposed": lambda x: x.T,
    "columns": lambda x: x[:, 1:4],
    "steps": lambda x: x[::2, ::3],
    "permuted": lambda x: x.reshape(3, 2, 7).transpose(2, 0, 1),
    "expanded": lambda x: np.broadcast_to(x[2:3, 4:5], (5, 4)),
    "rows repeated": lambda x: np.broadcast_to(x[1], (3, 7)),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64"])
def test_every_piece_of_a_view(tmp_path, view, dtype):
    base = np.arange(42, dtype=dtype).reshape(6, 7)
    expected = view(base).reshape(-1)
    entry = entry_of(store(tmp_path / "w", base), base, view(base))
    for start in range(expected.size + 1):
        for stop in range(start, expected.size + 1):
            assert np.array_equal(read(entry, start, stop - start).view(dtype), expected[start:stop])


@given(data=st.data())
def test_any_permutation_with_steps(tmp_path_factory, data):
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    base = np.arange(np.prod(shape), dtype=np.uint32).reshape(shape)
    steps = tuple(slice(None, None, data.draw(st.integers(1, 3))) for _ in shape)
    view = base[steps].transpose(data.draw(st.permutations(range(len(shape)))))
    start = data.draw(st.integers(0, view.size))
    count = data.draw(st.integers(0, view.size - start))
    entry = entry_of(store(tmp_path_factory.getbasetemp() / "any", base), base, view)
    assert np.array_equal(read(entry, start, count).view("uint32"), view.reshape(-1)[start : start + count])


@pytest.mark.parametrize("shape", [(700, 900), (40_000, 30), (30, 40_000), (3, 400_000)])
@pytest.mark.parametrize("window", [2, 4096, 1 << 20])
def test_a_matrix_larger_than_the_mapped_window(tmp_path, monkeypatch, shape, window):
    base = np.random.default_rng(0).integers(0, 2**16, shape, np.uint16)
    entry = entry_of(store(tmp_path / "w", base), base, base.T)
    lengths = []
    mapped = elements._mapped

    def noting(descriptor, offset, count, dtype):
        lengths.append(count * dtype.itemsize)
        return mapped(descriptor, offset, count, dtype)

    monkeypatch.setattr(elements, "_mapped", noting)
    monkeypatch.setattr(elements, "WINDOW_NBYTES", window)
    count = 3000
    for start in range(0, base.size, 1 + base.size // 3):
        assert np.array_equal(
            read(entry, start, count).view(np.uint16), base.T.reshape(-1)[start : start + count]
        )
    assert max(lengths) <= window
    assert len(lengths) <= 3 * count


def test_reads_whole_tensors_that_are_neighbours_only_by_their_numbers(tmp_path):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    file = store(tmp_path / "w", base)
    views = [base[0], base[1], base[2:].T, base[2:, :2], base[3]]
    entries = [entry_of(file, base, view) for view in views]
    plain = [
        TensorEntry(e.name, e.dtype, e.shape, e.file, e.offset, e.nbytes) if e.strides == (1,) else e
        for e in entries
    ]
    buffer, piece = np.empty(400, np.uint8), np.empty(20, np.uint8)
    with OpenFiles({file: state_of(file)}) as files:
        offsets = files.read_together(plain, buffer)
        assert files.nbytes_read == sum(entry.nbytes for entry in plain)
        files.read(plain[2], [(0, 5, 3)], piece)
        assert files.nbytes_read == sum(entry.nbytes for entry in plain) + 20
    for offset, view in zip(offsets, views, strict=True):
        words = buffer[offset : offset + view.nbytes].view(np.float32)
        assert np.array_equal(words, view.reshape(-1))
    assert np.array_equal(piece.view(np.float32), views[2].reshape(-1)[3:8])


def test_a_file_that_became_shorter(tmp_path):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    entry = entry_of(store(tmp_path / "w", base), base, base.T)
    os.truncate(entry.file, 100)
    with pytest.raises(
        CheckpointError, match=r"reading failed\n  file: .*/w\n  tensor: w\n  found: the file ends"
    ):
        read(entry, 0, 24)


# --- comparing ------------------------------------------------------------------------------------------


def test_equal_bytes_of_a_view_and_a_copy(tmp_path):
    base = np.arange(1_200_000, dtype=np.float32).reshape(1000, 1200)
    view = entry_of(store(tmp_path / "view", base), base, base.T)
    copy = np.ascontiguousarray(base.T)
    same = entry_of(store(tmp_path / "copy", copy), copy, copy)
    copy[-1, -1] += 1
    other = entry_of(store(tmp_path / "other", copy), copy, copy)
    assert equal_bytes(view, same)
    assert not equal_bytes(view, other)


def test_the_same_place_is_equal_unread_and_another_view_of_it_is_not(tmp_path):
    base = np.arange(25, dtype=np.float32).reshape(5, 5)
    gone = entry_of(tmp_path / "gone", base, base, "head")
    assert equal_bytes(gone, entry_of(tmp_path / "gone", base, base, "embedding"))
    file = store(tmp_path / "w", base)
    assert not equal_bytes(entry_of(file, base, base), entry_of(file, base, base.T))


def test_comparing_with_a_file_that_is_gone(tmp_path):
    base = np.arange(4, dtype=np.float32)
    there = entry_of(store(tmp_path / "w", base), base, base)
    with pytest.raises(CheckpointError, match=r"cannot open a weight file\n  file: .*/gone\n  tensor: w\n"):
        equal_bytes(there, entry_of(tmp_path / "gone", base, base))
