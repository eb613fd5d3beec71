"""Many pieces of a file in one call: all are read to their offsets, and none outside the buffer."""

import os

import numpy as np
import pytest

from fusion_slerp.sources.piece_reads import read_many


def columns(*pieces):
    return [np.array(column, np.int64) for column in zip(*pieces, strict=True)]


@pytest.mark.skipif(not hasattr(os, "pread"), reason="the system has no positioned reads")
def test_pieces_are_read_to_their_places(tmp_path):
    content = np.random.default_rng(0).integers(0, 256, 5000, np.uint8)
    (tmp_path / "file").write_bytes(content.tobytes())
    out = np.zeros(300, np.uint8)
    places, counts, offsets = columns((0, 100, 4900), (250, 50, 0), (100, 0, 17), (120, 1, 4999))
    with (tmp_path / "file").open("rb") as stream:
        assert read_many(stream.fileno(), places, counts, offsets, out) == 4
        expected = np.zeros(300, np.uint8)
        expected[:100], expected[250:], expected[120] = content[4900:], content[:50], content[4999]
        assert np.array_equal(out, expected)
        for late in (4901, 6000):  # the second of three ends after the file
            pieces = columns((0, 100, 0), (100, 100, late), (200, 100, late))
            assert read_many(stream.fileno(), *pieces, out) == 1
    assert read_many(-1, places, counts, offsets, out) == 0  # not open: no byte comes


@pytest.mark.parametrize(
    "pieces", [[(0, 11, 0)], [(8, 3, 0)], [(-1, 2, 0)]], ids=["longer", "beyond the end", "before the start"]
)
def test_no_piece_is_read_outside_the_buffer(pieces):
    with pytest.raises(ValueError, match="read_many: pieces end at byte"):
        read_many(0, *columns(*pieces), np.zeros(10, np.uint8))
