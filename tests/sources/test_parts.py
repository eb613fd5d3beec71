"""Parts of stored tensors, and blocks that deliver the elements of several matrices in turn."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from fusion_slerp.sources.file_state import state_of
from fusion_slerp.sources.header import read_header
from fusion_slerp.sources.open_files import OpenFiles
from fusion_slerp.sources.parts import Block, contiguous, part_of, transposed

ROWS, COLUMNS = 4, 3
MATRICES = [np.arange(12, dtype=np.int16).reshape(ROWS, COLUMNS) + 100 * i for i in range(2)]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A file with both matrices as tensors of their own: the entries, and the open file."""
    file = tmp_path_factory.mktemp("parts") / "model.safetensors"
    save_file({"gate": MATRICES[0], "up": MATRICES[1]}, file)
    entries = {entry.name: entry for entry in read_header(file)}
    with OpenFiles({file: state_of(file)}) as files:
        yield (entries["gate"], entries["up"]), files


def read(files, source, pieces):
    out = np.full(sum(count for _, count, _ in pieces), -1, np.int16)
    files.read(source, pieces, out.view(np.uint8))
    return out.tolist()


def whole(files, source):
    return read(files, source, [(0, source.n_elements, 0)])


def test_a_part_is_a_tensor_of_its_own(stored):
    (gate, _), files = stored
    rows = part_of(gate, "rows", COLUMNS, (2, COLUMNS), (COLUMNS, 1))
    column = part_of(gate, "column", 1, (ROWS,), (COLUMNS,))
    assert rows.strides is None
    assert whole(files, rows) == MATRICES[0][1:3].ravel().tolist()
    assert column.strides == (COLUMNS,)
    assert whole(files, column) == MATRICES[0][:, 1].tolist()
    assert whole(files, transposed(gate)) == MATRICES[0].T.ravel().tolist()
    assert transposed(transposed(gate)) == gate
    assert contiguous(()) == ()


BLOCKS = {
    "rows after rows": (ROWS * COLUMNS, False, np.concatenate(MATRICES)),
    "rows in turn": (COLUMNS, False, np.stack(MATRICES, axis=1)),
    "elements in turn": (1, False, np.stack(MATRICES, axis=2)),
    "columns after columns": (ROWS, True, np.stack([each.T for each in MATRICES], axis=1)),
    "columns in turn": (1, True, np.stack([each.T for each in MATRICES], axis=2)),
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_block_is_what_its_layout_says(stored, kind):
    boxes, files = stored
    run, is_transposed, expected = BLOCKS[kind]
    block = Block("block", (2 * ROWS, COLUMNS), boxes, run, is_transposed)
    assert whole(files, block) == expected.ravel().tolist()
    assert (block.n_elements, block.nbytes, block.period) == (24, 48, 2 * run)
    assert block.entries == boxes


@given(
    kind=st.sampled_from(list(BLOCKS)),
    cuts=st.lists(st.integers(0, 24), max_size=4),
    data=st.data(),
)
def test_any_pieces_of_a_block(stored, kind, cuts, data):
    boxes, files = stored
    run, is_transposed, expected = BLOCKS[kind]
    block = Block("block", (2 * ROWS, COLUMNS), boxes, run, is_transposed)
    bounds = sorted({0, 24, *cuts})
    ranges = data.draw(st.permutations(list(pairwise(bounds))))
    pieces, start = [], 0
    for first, end in ranges:
        pieces.append((start, end - first, first))
        start += end - first
    wanted = [element for first, end in ranges for element in expected.ravel()[first:end].tolist()]
    before = files.nbytes_read
    assert read(files, block, pieces) == wanted
    assert files.nbytes_read - before == 48  # no byte twice
