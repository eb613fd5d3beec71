"""Calls of the kernels that add up, for each element, the models that are selected for it.

Each takes a chunk's words, of which the last vector is the base's, and a table of coefficients. They differ
in how they are told which models these are, and store the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fusion_slerp import kernels
from fusion_slerp.kernels import Kernel, Words, are_many, call, run, selection, table_with, types_of
from fusion_slerp.kernels.drawing import unpacked
from fusion_slerp.kernels.elements import MASK
from fusion_slerp.kernels.fast_selection import (
    STRETCH,
    fast_elected_sum,
    fast_elected_sum_by_key,
    fast_elected_sum_of_packed,
    fast_selected_sum,
    fast_sum_by_key,
    fast_sum_of_packed,
    is_fast,
)
from fusion_slerp.kernels.selecting import Part, factors_of_limits, masks_by_key
from fusion_slerp.kernels.table_factors import are_simple, can_vote, factors_of


class Table(NamedTuple):
    """The coefficients of each set of models, and how a sign is elected.

    Attributes:
        rows: float64 of shape (2**models, models + 1), contiguous: for each set of models, by mask, the
            coefficients of the models and the base.
        votes: The models' weights in the election of a sign for each element: a set loses the models whose
            weighted difference has not the sign of the sum. None for no election.
    """

    rows: np.ndarray
    votes: Sequence[float] | None = None

    def check(self, words: Words, n_masks: int, out: np.ndarray) -> None:
        """Raises ValueError unless every set has coefficients: the compiled code trusts its pointers."""
        n = len(words) - 1
        if self.rows.shape != (1 << n, n + 1) or n_masks != out.size:
            raise ValueError(f"{self.rows.shape}, {n_masks} masks; needed: {1 << n} rows of {n + 1}")

    def fast_factors(self, words: Words, out: np.ndarray) -> list[float] | None:
        """The factors of the fast kernels; None if they cannot be used, or do not pay."""
        can_be_fast = are_many(out.size) and is_fast(types_of([*words, out]))
        factors = factors_of(self.rows) if can_be_fast else None
        if factors is None:
            return None
        if self.votes is None:
            return [*factors.scales, *factors.shares]
        if not can_vote(self.votes, factors.scales):
            return None
        return [*self.votes, float(are_simple(self.votes)), *factors.scales, *factors.shares]


def sum_by_mask(words: Words, masks: np.ndarray, table: Table, out: np.ndarray) -> int:
    """Writes, for each element, the sum of coefficient times source with its mask's row of coefficients.

    Args:
        words: The models' words, then the base's.
        masks: uint16 of the words' length; an election may change them.
        table: The coefficients.
        out: As many words; overwritten.

    Returns:
        The number of elements of `out` that are infinite or NaN.
    """
    table.check(words, masks.size, out)
    types, votes = types_of([*words, out]), table.votes
    dtypes, arrays = [*types[:-1], MASK, types[-1], "float64"], [*words, masks, out, table.rows]
    factors = table.fast_factors(words, out)
    if factors is not None:
        return call(fast_selected_sum if votes is None else fast_elected_sum, arrays, dtypes, factors)
    if votes is not None:
        call(selection.elect, [*words, masks], [*types[:-1], MASK], votes)
    return call(selection.selected_sum, arrays, dtypes)


def sum_by_key(words: Words, parts: Sequence[Part], table: Table, out: np.ndarray) -> int:
    """`sum_by_mask` with the masks of `masks_by_key`.

    Args:
        words: As there.
        parts: As there.
        table: As there.
        out: As there.
    """
    table.check(words, sum(part.stop - part.start for part, _ in parts), out)
    factors = table.fast_factors(words, out)
    if factors is None:
        return sum_by_mask(words, masks_by_key(words, parts), table, out)
    types = (*types_of([*words, out]), "float64")
    tables = [table_with([*(each[part] for each in (*words, out)), table.rows], types) for part, _ in parts]
    rows = kernels.Table(np.concatenate([each.rows for each in tables]), types)
    given = np.array([[*factors_of_limits(limits), *factors] for _, limits in parts])
    kernel = fast_sum_by_key if table.votes is None else fast_elected_sum_by_key
    return int(run(kernel, rows, given, np.empty(len(parts), np.int64)).sum())


def sum_of_packed(words: Words, packed: np.ndarray, table: Table, out: np.ndarray) -> int:
    """`sum_by_mask` with masks that were packed.

    Args:
        words: As there.
        packed: What `drawing.packed` returned.
        table: As there.
        out: As there.
    """
    factors = table.fast_factors(words, out) if 2 * packed.size == out.size else None
    if factors is None:
        return sum_by_mask(words, unpacked(packed, out.size), table, out)
    table.check(words, 2 * packed.size, out)
    types = types_of([*words, out])
    arrays = [*words, packed, np.empty(STRETCH, np.uint16), out, table.rows]
    kernel: Kernel = fast_sum_of_packed if table.votes is None else fast_elected_sum_of_packed
    return call(kernel, arrays, [*types[:-1], "uint8", MASK, types[-1], "float64"], factors)
