"""How many bytes a merge reads, tensor by tensor: what the engine will do, counted beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_slerp.chunks import CHUNK_ELEMENTS

if TYPE_CHECKING:
    from fusion_slerp.planning.plan import Merge, TensorPlan
    from fusion_slerp.settings.merge_settings import MergeSettings


def nbytes_read(tensor: TensorPlan, settings: MergeSettings, kept_chunks: int) -> tuple[int, int]:
    """Returns the bytes that are read of a tensor's sources: the fewest, and the most.

    They differ only where the values decide on further passes.

    Args:
        tensor: The tensor.
        settings: The options of the merge.
        kept_chunks: How many chunks wait in memory between the passes.
    """
    if not tensor.is_large or (not tensor.is_merged and tensor.rows is None):
        return tensor.nbytes_in, tensor.nbytes_in
    least = most = _nbytes_beside(tensor, settings)
    for merged, again, (certain, possible) in _units(tensor, settings, kept_chunks):
        least += merged + certain * again
        most += merged + possible * again
    return least, most


def nbytes_processed(tensor: TensorPlan, settings: MergeSettings) -> int:
    """Returns the bytes that are measured and written of a tensor, for the progress."""
    measured = 0
    if tensor.is_large:
        for merged, _, (certain, _) in _units(tensor, settings, 0, is_dense=True):
            measured += certain * merged
    return tensor.out.nbytes + measured


def _units(
    tensor: TensorPlan, settings: MergeSettings, kept_chunks: int, is_dense: bool = False
) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Of each unit: its bytes, those that every further pass reads again, and the passes that measure it."""
    work: Any = tensor.work
    if not tensor.is_merged:
        return
    groups = None if tensor.rows is None or is_dense else tensor.rows.groups()
    boundary = sum(count for _, count in tensor.chunks[:kept_chunks]) if len(work.units) == 1 else 0
    for owners, parameters in work.units.items():
        itemsize = sum(tensor.sources[label].words.itemsize for label in owners)
        n, n_kept = tensor.out.n_elements, min(boundary, tensor.out.n_elements)
        if groups is not None:
            n = int(groups[owners].sum()) * tensor.width
            n_kept = _elements_before(groups[owners], tensor.width, boundary)
        yield n * itemsize, (n - n_kept) * itemsize, _passes(work, parameters, settings)


def _passes(work: Merge, parameters: Any, settings: MergeSettings) -> tuple[int, int]:
    """That measure before the pass that writes: the certain ones, and the most."""
    certain, possible = settings.how.passes(parameters)
    if work.granularity == "row":
        return 0, 0
    return certain, possible


def _elements_before(mask: np.ndarray, width: int, boundary: int) -> int:
    """How many elements of some rows lie before an element of the merged model's tensor."""
    whole, part = divmod(boundary, width or 1)
    inside = part if whole < len(mask) and mask[whole] else 0
    return int(mask[:whole].sum()) * width + inside


def _nbytes_beside(tensor: TensorPlan, settings: MergeSettings) -> int:
    """Of the rows that are not merged: copied ones, and those that are read to fill others."""
    if tensor.rows is None:
        return 0
    merged, rows = tensor.rows.merged, tensor.rows.of
    row_nbytes = {label: source.words.itemsize * tensor.width for label, source in tensor.sources.items()}
    total = sum(int(((rows[label] >= 0) & ~merged).sum()) * nbytes for label, nbytes in row_nbytes.items())
    if tensor.needs_mean(settings.vocab_fill):
        total += tensor.nbytes_in
    if settings.vocab_fill == "gradient":
        total += sum(row_nbytes[label] * n for label, n in _neighbours(tensor).items())
    return total


def _neighbours(tensor: TensorPlan) -> dict[str, int]:
    """How often each source's rows are read as neighbours of rows that lie between them."""
    assert tensor.rows is not None
    filled, zero = tensor.rows.filled, tensor.rows.zero
    given = np.flatnonzero(~filled)
    counts = dict.fromkeys(tensor.sources, 0)
    if not len(given):
        return counts
    for start in range(0, tensor.out.n_elements, CHUNK_ELEMENTS):
        first = start // tensor.width
        end = -(-min(start + CHUNK_ELEMENTS, tensor.out.n_elements) // tensor.width)
        here = (first + np.flatnonzero(filled[first:end])).tolist()
        for _, run in groupby(enumerate(here), lambda pair: pair[1] - pair[0]):
            rows = [row for _, row in run]
            if zero[rows].all():
                continue
            after = int(np.searchsorted(given, rows[0]))
            for end_row in (given[after - 1], given[after % len(given)]):
                for label in counts:
                    counts[label] += int(tensor.rows.of[label][end_row] >= 0)
    return counts
