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
    KEYS,
    MASKS,
    PACKED,
    UNPACKED,
    Form,
    fast_selected_sum,
    is_fast,
)
from fusion_slerp.kernels.selecting import Part, factors_of_limits, masks_by_key
from fusion_slerp.kernels.table_factors import are_alike, are_simple, can_vote, factors_of


class SetSums(NamedTuple):
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

    def fast(self, words: Words, out: np.ndarray, by: str) -> tuple[Kernel, list[float]] | None:
        """The fast kernel and its factors, without limits; None if there is none, or it does not pay.

        Args:
            words: As for `sum_by_mask`.
            out: As there.
            by: What says which models are selected, see `Form`.
        """
        can_be_fast = are_many(out.size) and is_fast(types_of([*words, out]))
        factors = factors_of(self.rows) if can_be_fast else None
        if factors is None:
            return None
        scales, has_halves = factors.scales, factors.has_simple_shares
        if self.votes is None:
            return fast_selected_sum(Form(by, False, has_halves, False)), [*scales, *factors.shares]
        if not can_vote(self.votes, scales):
            return None
        is_simple = are_simple(self.votes)
        form = Form(by, True, has_halves or is_simple, has_own_votes=not are_alike(self.votes, scales))
        return fast_selected_sum(form), [*self.votes, float(is_simple), *scales, *factors.shares]


def sum_by_mask(words: Words, masks: np.ndarray, table: SetSums, out: np.ndarray) -> int:
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
    fast = table.fast(words, out, MASKS)
    if fast is not None:
        return call(fast[0], arrays, dtypes, fast[1])
    if votes is not None:
        call(selection.elect, [*words, masks], [*types[:-1], MASK], votes)
    return call(selection.selected_sum, arrays, dtypes)


def sum_by_key(words: Words, parts: Sequence[Part], table: SetSums, out: np.ndarray) -> int:
    """`sum_by_mask` with the masks of `masks_by_key`.

    Args:
        words: As there.
        parts: As there.
        table: As there.
        out: As there.
    """
    table.check(words, sum(part.stop - part.start for part, _ in parts), out)
    fast = table.fast(words, out, KEYS)
    if fast is None:
        return sum_by_mask(words, masks_by_key(words, parts), table, out)
    kernel, factors = fast
    types = (*types_of([*words, out]), "float64")
    tables = [table_with([*(each[part] for each in (*words, out)), table.rows], types) for part, _ in parts]
    rows = kernels.Table(np.concatenate([each.rows for each in tables]), types)
    given = np.array([[*factors_of_limits(limits), *factors] for _, limits in parts])
    return int(run(kernel, rows, given, np.empty(len(parts), np.int64)).sum())


def sum_of_packed(words: Words, packed: np.ndarray, table: SetSums, out: np.ndarray) -> int:
    """`sum_by_mask` with masks that were packed.

    Args:
        words: As there.
        packed: What `drawing.packed` returned.
        table: As there.
        out: As there.
    """
    fast = table.fast(words, out, PACKED) if 2 * packed.size == out.size else None
    if fast is None:
        return sum_by_mask(words, unpacked(packed, out.size), table, out)
    table.check(words, 2 * packed.size, out)
    types = types_of([*words, out])
    arrays = [*words, packed, np.empty(UNPACKED, np.uint16), out, table.rows]
    return call(fast[0], arrays, [*types[:-1], "uint8", MASK, types[-1], "float64"], fast[1])
