"""Calls of the kernels that draw masks at random: `random_masks` and `ranked_masks`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from fusion_slerp.kernels import call, run, table_with, types_of
from fusion_slerp.kernels.elements import MASK
from fusion_slerp.kernels.packed_masks import HALF_BITS, pack, unpack
from fusion_slerp.kernels.random_masks import draw_masks
from fusion_slerp.kernels.ranked_limits import MOST_ELEMENTS
from fusion_slerp.kernels.ranked_masks import bins_for, rank_and_measure, rank_masks
from fusion_slerp.kernels.ranked_rows import COUNTERS, PADDING, is_narrow

BITS_OF_BYTE = 8

CERTAIN = 2.0**32
"""The threshold of a probability of 1."""


def drawn_masks(n: int, start: int, chances: Sequence[tuple[int, int, int]], always: int) -> np.ndarray:
    """Returns masks that are drawn element by element.

    Args:
        n: Number of elements.
        start: The index of the first.
        chances: For each model that is drawn: its number, the key of its random words, in [0, 2^64), and the
            threshold, in [1, 2^32): words below it select.
        always: The mask of the models that take part in every element.

    Returns:
        Fresh uint16 of shape (n,).
    """
    if not chances:
        return np.full(n, always, np.uint16) if always else np.zeros(n, np.uint16)
    masks = np.empty(n, np.uint16)
    numbers = np.array([start, len(chances), always], np.int64)
    keys = np.array([key for _, key, _ in chances], np.uint64)
    thresholds = np.array([threshold for *_, threshold in chances], np.uint32)
    bits = np.array([1 << k for k, *_ in chances], np.uint16)
    dtypes = (MASK, "int64", "uint64", "uint32", MASK)
    call(draw_masks, [masks, numbers, keys, thresholds, bits], dtypes)
    return masks


class Ranked(NamedTuple):
    """How elements of a model are drawn by rank.

    Attributes:
        model: Its number.
        key: The key of its random words, in [0, 2^64).
        density: The mean probability.
        spread: By how much the probability of the largest key in a row is higher, and that of the smallest
            lower. All probabilities times 2^32, rounded, are in [1, 2^32).
    """

    model: int
    key: int
    density: float
    spread: float


def add_ranked(
    masks: np.ndarray,
    words: Sequence[np.ndarray],
    rows: tuple[int, int],
    drawn: Sequence[Ranked],
    is_fresh: bool = False,
) -> None:
    """Sets bits in the masks of elements that are drawn by the rank of their difference in the row.

    Elements without a difference are not drawn.

    Args:
        masks: uint16; modified.
        words: Those of the models that are drawn, then the base's, of whole rows.
        rows: The index of the first element, and the elements of a row, 2 to MOST_ELEMENTS, which divide the
            number of words.
        drawn: For each of these models.
        is_fresh: Whether the masks are uninitialised; they are then cleared first.
    """
    arrays, dtypes = _drawing("add_ranked", words, rows, drawn, masks.size, is_fresh)
    call(rank_masks, [*words, masks, *arrays], (*types_of(words), MASK, *dtypes))


def can_rank_and_measure(words: Sequence[np.ndarray], width: int) -> bool:
    """Whether rows of this length of all models can be drawn by `rank_and_measure`."""
    return len(words) - 1 <= HALF_BITS and not width % 2


def ranked_and_measured(
    words: Sequence[np.ndarray], rows: tuple[int, int], drawn: Sequence[Ranked]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what `packed` makes of the masks of `add_ranked`, and the sums of `sums_of_magnitudes`.

    The sums are added up row by row, so their last digits may differ.

    Args:
        words: As for `add_ranked`; see `can_rank_and_measure`.
        rows: As there.
        drawn: As there, in the order of the words; model i has number i.
    """
    n, width = words[0].size, rows[1]
    assert can_rank_and_measure(words, width), (len(words), width)
    arrays, kinds = _drawing("ranked_and_measured", words, rows, drawn, n, True)
    packed, masks = np.empty(n // 2, np.uint8), np.empty(width, np.uint16)
    magnitudes = np.empty(len(drawn) * width, np.float32)
    dtypes = [*types_of(words), "uint8", MASK, "float32", *kinds]
    table = table_with([*words, packed, masks, magnitudes, *arrays], dtypes)
    sums = run(rank_and_measure, table, np.empty((1, 0)), np.empty((1, 2 * len(drawn))))
    return packed, sums[0]


def _drawing(
    name: str,
    words: Sequence[np.ndarray],
    rows: tuple[int, int],
    drawn: Sequence[Ranked],
    n_masks: int,
    is_fresh: bool,
) -> tuple[list[np.ndarray], list[str]]:
    """The arrays of `rank_masks` after its masks, and their types."""
    start, width = rows
    sizes = {n_masks, *(each.size for each in words)}
    if not 2 <= width <= MOST_ELEMENTS or n_masks % width or len(sizes) > 1 or len(words) != len(drawn) + 1:
        raise ValueError(f"{name}: {n_masks} masks, rows of {width}, {[w.size for w in words]} words")
    types = types_of(words)
    bins = [bins_for(width, is_narrow((kind, types[-1]))) for kind in types[:-1]]
    of_models = [(each.key, 1 << each.model, *of_model) for each, of_model in zip(drawn, bins, strict=True)]
    numbers = np.array([start, width, is_fresh, *chain.from_iterable(of_models)], np.uint64)
    chances = np.array([_chance(each, width) for each in drawn])
    kinds = [MASK, MASK, "uint32", "uint64", "uint8"]
    of_row = [np.empty(width + PADDING, "uint16" if kind == MASK else kind) for kind in kinds]
    n_bins = max(n for n, _ in bins)
    of_bins = [np.zeros(COUNTERS * n_bins, np.uint32), *(np.empty(n_bins, np.uint32) for _ in range(3))]
    dtypes = ["int64", "float64", *kinds, *["uint32"] * len(of_bins)]
    return [numbers, chances, *of_row, *of_bins], dtypes


def _chance(ranked: Ranked, width: int) -> tuple[float, float]:
    """The threshold of the rank sum 0, not rounded, and how much it rises for each further one."""
    lowest, rise = ranked.density - ranked.spread, ranked.spread / (width - 1)
    return lowest * CERTAIN, rise * CERTAIN


def packed(masks: np.ndarray, n_models: int) -> np.ndarray:
    """Returns the masks in less memory, if there are eight models or fewer: fresh, for `unpacked`."""
    if n_models > BITS_OF_BYTE:
        return masks.copy()
    if n_models > HALF_BITS or masks.size % 2:
        return masks.astype(np.uint8)
    halves = np.empty(masks.size // 2, np.uint8)
    call(pack, [halves, masks], ("uint8", MASK))
    return halves


def unpacked(packed: np.ndarray, n: int) -> np.ndarray:
    """Returns n masks that were packed: fresh uint16."""
    if packed.size == n:
        return packed.astype(np.uint16)
    masks = np.empty(n, np.uint16)
    call(unpack, [packed, masks], ("uint8", MASK))
    return masks
