"""The number of bytes that a merge will read, tensor by tensor, computed from the plan."""

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
    """Returns the minimum and the maximum number of bytes read of a tensor's sources.

    They differ only if the values may require further passes.

    Args:
        tensor: The tensor.
        settings: The options of the merge.
        kept_chunks: The number of chunks kept in memory between the passes.
    """
    if not tensor.is_large or (not tensor.is_merged and tensor.rows is None):
        return tensor.nbytes_in, tensor.nbytes_in
    least = most = _nbytes_unmerged(tensor, settings)
    for merged, again, (certain, possible) in _units(tensor, settings, kept_chunks):
        least += merged + certain * again
        most += merged + possible * again
    return least, most


MEASURING, MERGING, COPYING = "measuring", "merging", "copying"
"""The passes of a merge, as progress names them."""


def nbytes_processed(tensor: TensorPlan, settings: MergeSettings) -> int:
    """Returns the number of a tensor's bytes that are measured and written, see `nbytes_by_pass`."""
    return sum(nbytes_by_pass(tensor, settings).values())


def writing(tensor: TensorPlan) -> str:
    """Returns the pass that writes a tensor. Small copies are made together with merged neighbours."""
    return MERGING if tensor.is_merged or not tensor.is_large else COPYING


def nbytes_by_pass(tensor: TensorPlan, settings: MergeSettings) -> dict[str, int]:
    """Returns the number of a tensor's bytes that are measured and written, by pass, for the progress.

    Passes that the values may require are rare, and not counted, unless the method counts elements.
    """
    measured, as_a_rule = 0, 0 if settings.how.is_in_span else 1
    if tensor.is_large:
        for merged, _, passes in _units(tensor, settings, 0, is_dense=True):
            measured += passes[as_a_rule] * merged
    return {**({MEASURING: measured} if measured else {}), writing(tensor): tensor.out.nbytes}


def _units(
    tensor: TensorPlan, settings: MergeSettings, kept_chunks: int, is_dense: bool = False
) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Yields each unit's bytes, those that every further pass reads again, and the passes that measure it."""
    work: Any = tensor.work
    if not tensor.is_merged:
        return
    groups = None if tensor.rows is None or is_dense else tensor.rows.groups()
    is_kept = len(work.units) == 1 and work.granularity != "box"  # boxes are measured in another order
    boundary = sum(count for _, count in tensor.chunks[:kept_chunks]) if is_kept else 0
    for owners, parameters in work.units.items():
        itemsize = sum(tensor.sources[label].words.itemsize for label in owners)
        n, n_kept = tensor.out.n_elements, min(boundary, tensor.out.n_elements)
        if groups is not None:
            n = int(groups[owners].sum()) * tensor.width
            n_kept = _elements_before(groups[owners], tensor.width, boundary)
        yield n * itemsize, (n - n_kept) * itemsize, _passes(work, parameters, settings)


def _passes(work: Merge, parameters: Any, settings: MergeSettings) -> tuple[int, int]:
    """The minimum and maximum number of measuring passes, before the pass that writes."""
    certain, possible = settings.how.n_passes(parameters)
    if work.granularity == "row":
        return 0, 0
    return certain, possible


def _elements_before(mask: np.ndarray, width: int, boundary: int) -> int:
    """The number of elements of the masked rows that precede an element of the merged model's tensor."""
    whole, part = divmod(boundary, width or 1)
    inside = part if whole < len(mask) and mask[whole] else 0
    return int(mask[:whole].sum()) * width + inside


def _nbytes_unmerged(tensor: TensorPlan, settings: MergeSettings) -> int:
    """The bytes of rows that are not merged: copied rows, and those that are read to fill others."""
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
    """The number of each source's rows that are read as neighbours of filled rows."""
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
