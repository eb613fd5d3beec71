"""Elements that are drawn: keys, thresholds, pieces, and statistics."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from blake3 import blake3

from fusion_slerp.passes import draws
from fusion_slerp.passes.chances import Draw, key_of, threshold
from fusion_slerp.passes.draws import Drawn
from tests.methods import drawing_reference as reference
from tests.methods.selection_reference import differences, fine_tunes
from tests.reference import BF16, F32

named = pytest.mark.parametrize

# Keys and thresholds.


def test_a_key_is_the_start_of_the_hash_of_all_parts_with_their_lengths():
    framed = "1:7,15:lm_head.wéight,6:plays2,".encode()
    assert key_of(7, "lm_head.wéight", "plays2") == int.from_bytes(blake3(framed).digest()[:8], "little")
    assert key_of(7, "w", "a") == reference.key_of(7, "w", "a")


def test_no_two_lists_of_parts_have_one_key():
    parts = [
        (0, "ab", "c"),
        (0, "a", "bc"),
        (0, "abc", ""),
        (0, "", "abc"),
        (0, "a,1:b", "c"),
        (0, "a", "b,1:c"),
    ]
    parts += [(1, "ab", "c"), (0, "c", "ab"), (0, "ab"), (0, "ab", "c", "")]
    assert len({key_of(*each) for each in parts}) == len(parts)


def test_names_that_are_not_unicode_have_keys():
    assert key_of(0, "w", "\udcff") != key_of(0, "w", "\udcfe")


@named(
    ("probability", "expected"),
    [
        (0.0, 0),
        (1.0, 1 << 32),
        (0.5, 1 << 31),
        (2**-33, 0),
        (1.5 * 2**-32, 2),
        (1 - 2**-34, 1 << 32),
        (0.3, 1288490189),
    ],
)
def test_thresholds_are_rounded(probability, expected):
    assert threshold(probability) == expected


@named(
    ("density", "spread", "is_random", "is_ranked", "is_in_range"),
    [
        (0.5, 0.15, True, True, True),
        (0.5, 0.0, True, False, True),
        (0.0, 0.15, False, False, True),
        (1.0, 0.15, False, False, True),
        (0.1, 0.15, True, True, False),
        (0.15, 0.15, True, True, False),
        (0.9, 0.15, True, True, False),
        (0.5, 0.5, True, True, False),
        (0.5, 0.4999, True, True, True),
        (1e-12, 0.15, False, False, True),
    ],
)
def test_the_range_of_probabilities(density, spread, is_random, is_ranked, is_in_range):
    draw = Draw(1, density, spread)
    assert (draw.is_random, draw.is_ranked, draw.is_in_range) == (is_random, is_ranked, is_in_range)


# Masks.

DRAWS = (Draw(11, 0.5, 0.15), Draw(12, 0.3), Draw(13, 1.0, 0.1), Draw(14, 0.0), Draw(15, 0.7, 0.25))


def words(n: int) -> list[np.ndarray]:
    return fine_tunes(BF16, len(DRAWS), n)


def masks_in_pieces(drawn, of: list[np.ndarray], size: int, offset: int = 0) -> np.ndarray:
    n = of[0].size
    pieces = [range(n)[start : start + size] for start in range(0, n, size)]
    return np.concatenate(
        [drawn.masks([each[p.start : p.stop] for each in of], offset + p.start) for p in pieces]
    )


def expected_masks(of: list[np.ndarray], width: int, start: int = 0) -> np.ndarray:
    masks = np.zeros(of[0].size, np.int64)
    for k, (draw, d) in enumerate(zip(DRAWS, differences(of, BF16), strict=True)):
        if width > 1 and draw.spread and 0 < draw.density < 1:
            chosen = reference.drawn_by_rank(draw.key, d, width, draw.density, draw.spread, start)
        else:
            chosen = reference.drawn(draw.key, d.size, draw.density, start)
        masks[list(chosen)] |= 1 << k
    return masks


@named("width", [1, 2, 50, 250])
@named("start", [0, 1500])
def test_masks_of_models_with_chances_of_each_kind(width, start):
    of = words(1500)
    drawn = Drawn(DRAWS, width)
    assert drawn.is_random
    assert drawn.is_ranked == (width > 1)
    assert drawn.counter() is None
    expected = expected_masks(of, width, start)
    for size in (1500, 750, 500):
        np.testing.assert_array_equal(masks_in_pieces(drawn, of, size, start), expected)


def test_rows_that_are_longer_than_a_chunk_are_ranked_in_parts(monkeypatch):
    """Rows of 250 in chunks of 100: parts end at multiples of 100, and where rows end."""
    monkeypatch.setattr(draws, "CHUNK_ELEMENTS", 100)
    of = words(751)
    ends = [0, *sorted({*range(100, 751, 100), *range(250, 751, 250)}), 751]
    parts = [slice(*pair) for pair in pairwise(ends)]
    assert [part.stop - part.start for part in parts][:4] == [100, 100, 50, 50]
    assert parts[-1] == slice(750, 751), "one element"
    expected = [
        expected_masks([each[part] for each in of], part.stop - part.start, part.start) for part in parts
    ]
    for size in (751, 100):
        found = masks_in_pieces(Drawn(DRAWS, 250), of, size)
        np.testing.assert_array_equal(found, np.concatenate(expected))


def test_nothing_is_random_where_all_is_taken_or_nothing():
    drawn = Drawn((Draw(1, 1.0, 0.15), Draw(2, 0.0)), 10)
    assert not drawn.is_random
    assert not drawn.is_ranked
    assert set(drawn.masks(words(40), 0).tolist()) == {0b01}


# Statistics: fixed keys, bounds of five standard deviations.

N = 200_000


def bits(key: int, density: float) -> np.ndarray:
    return Drawn((Draw(key, density),)).masks([np.zeros(N, np.float32)] * 2, 0).astype(bool)


@named("density", [0.01, 0.1, 0.5, 0.9])
def test_the_mean_is_the_density(density):
    for model in "abc":
        share = bits(key_of(0, "w", model), density).mean()
        assert abs(share - density) < 5 * (density * (1 - density) / N) ** 0.5


def test_models_tensors_and_seeds_are_independent():
    parts = [(0, "w", "a"), (0, "w", "b"), (0, "v", "a"), (1, "w", "a")]
    masks = [bits(key_of(*each), 0.5) for each in parts]
    for one, other in combinations(masks, 2):
        assert abs((one == other).mean() - 0.5) < 5 * 0.5 / N**0.5


@named("distance", [1, 2, 3, 4, 5, 64, 4096])
def test_neighbours_are_independent(distance):
    mask = bits(key_of(0, "w", "a"), 0.5)
    assert abs((mask[distance:] == mask[:-distance]).mean() - 0.5) < 5 * 0.5 / (N - distance) ** 0.5


def test_probabilities_follow_the_rank():
    rng = np.random.default_rng(3)
    width, rows = 500, 400
    model = rng.normal(0, 1e-3, width * rows).astype(np.float32)
    masks = Drawn((Draw(key_of(0, "w", "a"), 0.5, 0.3),), width).masks([model, np.zeros_like(model)], 0)
    order = np.argsort(np.abs(model).reshape(rows, width), axis=1)
    by_rank = np.take_along_axis(masks.reshape(rows, width), order, axis=1)
    for i, share in enumerate(by_rank.reshape(rows, 10, -1).mean(axis=(0, 2))):
        assert abs(share - (0.2 + 0.6 * (i + 0.5) / 10)) < 5 * 0.5 / (rows * width / 10) ** 0.5
    assert abs(masks.mean() - 0.5) < 5 * 0.5 / (rows * width) ** 0.5


def test_all_differences_are_finite_numbers_of_the_reference():
    """So that the comparisons above mean something: many are equal, some are zero."""
    difference = differences(words(1500), BF16)[0]
    assert (difference == 0).any()
    assert np.unique(np.abs(difference)).size < 500
    assert F32.largest > np.abs(difference).max()
