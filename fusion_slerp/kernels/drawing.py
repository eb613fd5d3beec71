"""Calls of the kernels that draw masks at random: `random_masks` and `ranked_masks`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fusion_slerp.kernels import Kernel, Table, run
from fusion_slerp.kernels.elements import MASK
from fusion_slerp.kernels.packed_masks import HALF_BITS, pack, unpack
from fusion_slerp.kernels.random_masks import draw_masks
from fusion_slerp.kernels.ranked_masks import bins_for, rank_masks
from fusion_slerp.kernels.ranked_rows import NARROW, PADDING

BITS_OF_BYTE = 8

NO_FACTORS = np.empty((1, 0))


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
    masks = np.empty(n, np.uint16)
    if not chances:
        masks.fill(always)
        return masks
    numbers = np.array([start, len(chances), always], np.int64)
    keys = np.array([key for _, key, _ in chances], np.uint64)
    thresholds = np.array([threshold for *_, threshold in chances], np.uint32)
    bits = np.array([1 << k for k, *_ in chances], np.uint16)
    dtypes = (MASK, "int64", "uint64", "uint32", MASK)
    _run(draw_masks, [masks, numbers, keys, thresholds, bits], dtypes)
    return masks


def add_ranked(
    masks: np.ndarray,
    words: tuple[np.ndarray, np.ndarray],
    rows: tuple[int, int],
    drawn: tuple[int, int],
    thresholds: np.ndarray,
) -> None:
    """Sets a bit in the masks of elements that are drawn by the rank of their difference in the row.

    Elements without a difference are not drawn.

    Args:
        masks: uint16; modified.
        words: A model's and the base's, of whole rows.
        rows: The index of the first element, and the elements of a row, which divide the number of words.
        drawn: The model's number, and the key of its random words.
        thresholds: By rank, from the smallest difference: words below it select. uint32, rising, not zero.
    """
    (start, width), (k, key) = rows, drawn
    if masks.size % width or thresholds.size != width or len({masks.size, *(w.size for w in words)}) > 1:
        raise ValueError(f"add_ranked: {masks.size} masks, rows of {width}, {thresholds.size} thresholds")
    types = [each.dtype.name for each in words]
    n_bins, n_bits = bins_for(width, set(types) <= set(NARROW))
    numbers = np.array([start, width, key, 1 << k, n_bins, n_bits], np.uint64)
    kinds = ["uint32", "uint32", "uint32", "uint64", MASK, "uint8"]
    of_row = [np.empty(width + PADDING, "uint16" if kind == MASK else kind) for kind in kinds]
    of_bins = [np.empty(size, np.uint32) for size in (n_bins, n_bins)]
    dtypes = (*types, MASK, "int64", "uint32", *kinds, *["uint32"] * len(of_bins))
    _run(rank_masks, [*words, masks, numbers, thresholds, *of_row, *of_bins], dtypes)


def packed(masks: np.ndarray, n_models: int) -> np.ndarray:
    """Returns the masks in less memory, if there are eight models or fewer: fresh, for `unpacked`."""
    if n_models > BITS_OF_BYTE:
        return masks.copy()
    if n_models > HALF_BITS or masks.size % 2:
        return masks.astype(np.uint8)
    halves = np.empty(masks.size // 2, np.uint8)
    _run(pack, [halves, masks], ("uint8", MASK))
    return halves


def unpacked(packed: np.ndarray, n: int) -> np.ndarray:
    """Returns n masks that were packed: fresh uint16."""
    if packed.size == n:
        return packed.astype(np.uint16)
    masks = np.empty(n, np.uint16)
    _run(unpack, [packed, masks], ("uint8", MASK))
    return masks


def _run(kernel: Kernel, arrays: Sequence[np.ndarray], dtypes: Sequence[str]) -> None:
    """Calls a kernel on one set of arrays; its number of words is that of the first."""
    for array in arrays:
        assert array.flags.c_contiguous, "the compiled code trusts its pointers"
    rows = np.array([[arrays[0].size, *(array.ctypes.data for array in arrays)]], np.int64)
    run(kernel, Table(rows, tuple(dtypes)), NO_FACTORS, np.empty(1, np.int64))
