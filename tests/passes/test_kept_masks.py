"""Masks that are kept from measuring to writing."""

from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest

from fusion_slerp.kernels import selecting
from fusion_slerp.kernels.selected_sums import SetSums, sum_by_mask
from fusion_slerp.methods.sparse import by_set
from fusion_slerp.passes.chances import Draw
from fusion_slerp.passes.draws import Drawn
from fusion_slerp.passes.kept_masks import Kept, Room
from fusion_slerp.passes.selections import BySpread
from tests.methods.selection_reference import fine_tunes
from tests.reference import BF16

named = pytest.mark.parametrize

SOME_RANKED = (Draw(11, 0.5, 0.15), Draw(12, 0.3), Draw(13, 1.0, 0.1), Draw(14, 0.0), Draw(15, 0.7, 0.25))

ALL_RANKED = (Draw(21, 0.5, 0.15), Draw(22, 0.3, 0.05), Draw(23, 0.6, 0.4))

WIDTH = 30


class Counting(Drawn):
    """Counts how often masks are made."""

    made: ClassVar[list[int]] = []

    def masks(self, words, start, counted=None):
        self.made.append(start)
        return Drawn.masks(self, words, start, counted)


@pytest.fixture
def counting():
    Counting.made.clear()
    return Counting(SOME_RANKED, WIDTH)


def words(n: int, n_models: int = len(SOME_RANKED)) -> list[np.ndarray]:
    return fine_tunes(BF16, n_models, n)


def pieces(of: list[np.ndarray], size: int) -> list[tuple[list[np.ndarray], int]]:
    return [([each[i : i + size] for each in of], i) for i in range(0, of[0].size, size)]


def table(n: int) -> SetSums:
    """In which each set of models has coefficients of its own."""
    return SetSums(np.array(by_set(n, lambda chosen: [0.3 + i / 7 + len(chosen) / 11 for i in chosen])))


def assert_written(selection, plain: Drawn, of: list[np.ndarray], size: int) -> None:
    """The sums are those that belong to the selection's masks."""
    n = len(of) - 1
    for piece, start in pieces(of, size):
        out, expected = np.empty_like(piece[0]), np.empty_like(piece[0])
        selection.sum_into(piece, start, None, table(n), out)
        sum_by_mask(piece, plain.masks(piece, start), table(n), expected)
        np.testing.assert_array_equal(out, expected)


@named(("limit", "n_made"), [(10**6, 4), (2 * 300 + 1, 6), (0, 8)])
def test_what_was_kept_is_not_made_again(counting, limit, n_made):
    of = words(1200)
    kept, plain = Kept(counting, limit), Drawn(SOME_RANKED, WIDTH)
    assert kept.counter() is None
    for piece, start in pieces(of, 300):
        sums = kept.sums_of_magnitudes(piece, start)
        expected = selecting.sums_of_magnitudes(piece, plain.masks(piece, start))
        np.testing.assert_array_equal(sums, expected)
    assert_written(kept, plain, of, 300)
    assert len(counting.made) == n_made
    assert_written(kept, plain, of, 300)
    assert len(counting.made) == n_made + 4, "they are kept until they are needed"


def test_pieces_of_other_sizes_are_not_mixed_up(counting):
    of = words(1200)
    kept = Kept(counting)
    for piece, start in pieces(of, 300):
        kept.masks(piece, start)
    assert_written(kept, Drawn(SOME_RANKED, WIDTH), of, 1200)


def test_from_several_threads(counting):
    of, room = words(6000), Room(10**6)
    kept, plain = Kept(counting, limit=2000, room=room), Drawn(SOME_RANKED, WIDTH)

    def piece(start: int) -> tuple[np.ndarray, np.ndarray]:
        part = [each[start : start + 60] for each in of]
        kept.sums_of_magnitudes(part, start)
        found, expected = np.empty_like(part[0]), np.empty_like(part[0])
        kept.sum_into(part, start, None, table(len(SOME_RANKED)), found)
        sum_by_mask(part, plain.masks(part, start), table(len(SOME_RANKED)), expected)
        return found, expected

    with ThreadPoolExecutor(4) as threads:
        for _ in range(3):
            for found, expected in threads.map(piece, range(0, 6000, 60)):
                np.testing.assert_array_equal(found, expected)
    assert room.take(10**6), "all of it was returned"


def test_units_share_the_room():
    of, room, draws = words(1200, 3), Room(1000), ALL_RANKED
    one, other = (Kept(Drawn(draws, WIDTH), room=room) for _ in range(2))
    one.masks(of, 0)  # 600 bytes: two masks in each
    other.masks(of, 0)
    assert not room.take(401)
    assert_written(other, Drawn(draws, WIDTH), of, 1200)
    assert not room.take(401), "that one kept nothing"
    del one
    assert room.take(1000), "masks that nobody needed"


def test_a_chunk_is_kept_once_and_no_more_than_the_limit():
    of, room = words(1200, 3), Room(5000)
    kept = Kept(Drawn(ALL_RANKED, WIDTH), limit=700, room=room)
    kept.masks(of, 0)
    kept.masks(of, 0)
    kept.masks([each[:600] for each in of], 0)
    assert room.take(5000 - 600)
    copied, limit = kept.__reduce__()[1]
    assert (copied, limit) == (Drawn(ALL_RANKED, WIDTH), 700)


@named("n", [1, 2, 3])
def test_rows_of_all_models_that_are_drawn_by_rank_are_measured_at_once(n, monkeypatch):
    """The sums are those of each row, added up; the masks are the same."""
    of, plain = words(1500, n), Drawn(ALL_RANKED[:n], WIDTH)
    kept = Kept(plain)
    monkeypatch.setattr(Drawn, "masks", None)
    sums = kept.sums_of_magnitudes(of, 600)
    monkeypatch.undo()
    np.testing.assert_allclose(sums, selecting.sums_of_magnitudes(of, plain.masks(of, 600)), rtol=1e-14)
    assert (sums > 0).all()
    out, expected = np.empty_like(of[0]), np.empty_like(of[0])
    monkeypatch.setattr(Drawn, "masks", None)
    kept.sum_into(of, 600, None, table(n), out)
    monkeypatch.undo()
    sum_by_mask(of, plain.masks(of, 600), table(n), expected)
    np.testing.assert_array_equal(out, expected)


@named(
    "draws, width", [(SOME_RANKED, 30), (ALL_RANKED, 25), (ALL_RANKED, 1), ((*ALL_RANKED, Draw(1, 1.0)), 30)]
)
def test_other_masks_are_made_first(draws, width):
    """Not all models are ranked, there are more than four, rows are odd, or of one element."""
    of, plain = words(1500, len(draws)), Drawn(draws, width)
    sums = Kept(plain).sums_of_magnitudes(of, 600)
    np.testing.assert_array_equal(sums, selecting.sums_of_magnitudes(of, plain.masks(of, 600)))


def test_elements_that_differ_most():
    of = words(1500, 3)
    kept, plain = Kept(BySpread(0x2000_0000)), BySpread(0x2000_0000)
    for piece, start in pieces(of, 500):
        np.testing.assert_array_equal(kept.masks(piece, start), plain.masks(piece, start))
    assert_written(kept, plain, of, 500)


def test_equal_selections_are_equal_when_kept():
    """So a measure of one is remembered for the other."""
    one, other, more = (Kept(Drawn(draws, 30)) for draws in (SOME_RANKED, SOME_RANKED, SOME_RANKED[:1]))
    one.masks(words(300), 0)
    assert one == other
    assert hash(one) == hash(other)
    assert one != more
