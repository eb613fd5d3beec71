"""Which parent's row feeds each row of the child's embedding and head.

Rows of tokens that both parents have are merged. A row that only one parent has is copied, not
interpolated: SLERP's coefficients sum to more than one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fusion_slerp.vocabulary.tokens import Vocabulary

NOBODY = -1
"""In place of a row's index: this parent does not give it."""

ZERO = -2
"""In place of a row's index in both parents: the child's row is zero."""


@dataclass(frozen=True, slots=True)
class RowCounts:
    """How many rows of a tensor were made in which way.

    Attributes:
        merged: From both parents.
        from_a: Copied from parent a.
        from_b: Copied from parent b.
        filled: Of no parent: made as `vocab_fill` says, or zero because `tokens` says so.
    """

    merged: int
    from_a: int
    from_b: int
    filled: int

    def __str__(self) -> str:
        parts = (
            (self.merged, "merged"),
            (self.from_a, "copied from a"),
            (self.from_b, "copied from b"),
            (self.filled, "filled"),
        )
        return ", ".join(f"{count} {what}" for count, what in parts if count) or "no rows"


@dataclass(frozen=True, slots=True, eq=False)
class RowMap:
    """Where each row of the child comes from.

    Attributes:
        a: int64 of shape (rows of the child,): the row of parent a, `NOBODY` or `ZERO`.
        b: As `a`, of parent b. A row that both give is merged.
    """

    a: np.ndarray
    b: np.ndarray

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RowMap) and bool(
            np.array_equal(self.a, other.a) and np.array_equal(self.b, other.b)
        )

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.a)

    def __getitem__(self, part: slice) -> RowMap:
        """Some consecutive rows."""
        return RowMap(self.a[part], self.b[part])

    @property
    def merged(self) -> np.ndarray:
        """Which rows both parents give: bool of shape (rows of the child,)."""
        return (self.a >= 0) & (self.b >= 0)

    @property
    def counts(self) -> RowCounts:
        """How many rows come from where."""
        of_a, of_b = int((self.a >= 0).sum()), int((self.b >= 0).sum())
        merged = int(self.merged.sum())
        return RowCounts(merged, of_a - merged, of_b - merged, len(self) - of_a - of_b + merged)

    def is_in_place(self, n_rows: tuple[int, int]) -> bool:
        """Whether every row is merged with the same row of the other parent, and none is left over."""
        return set(n_rows) == {len(self)} and all(
            np.array_equal(rows, np.arange(len(self))) for rows in (self.a, self.b)
        )

    def without_shared(self, t: float) -> RowMap:
        """At an end of t, the rows of that end's parent alone where both give one; else itself."""
        if t not in (0, 1):
            return self
        a = np.where(self.merged, NOBODY, self.a) if t == 1 else self.a
        b = np.where(self.merged, NOBODY, self.b) if t == 0 else self.b
        return RowMap(a, b)

    def only_shared(self, named: Sequence[int] = ()) -> RowMap:
        """The rows of a single parent given up, to be filled like those of none; except named ones."""
        kept = self.merged | (self.a == ZERO)
        kept[list(named)] = True
        return RowMap(np.where(kept, self.a, NOBODY), np.where(kept, self.b, NOBODY))


def align(child: Vocabulary, a: Vocabulary, b: Vocabulary, n_rows: tuple[int, int], n_child: int) -> RowMap:
    """Maps the child's rows to the parents', token by token.

    A row of the child that holds no token (padding) takes the same row of each parent in which it
    holds none either.

    Args:
        child: The child's vocabulary.
        a: Parent a's; tokens beyond its matrix have no row there.
        b: Parent b's.
        n_rows: Rows of the parents' matrices.
        n_child: Rows of the child's.
    """
    of_a, of_b = (_find(child, rows, count, n_child) for rows, count in zip((a, b), n_rows, strict=True))
    return RowMap(of_a, of_b)


def _find(child: Vocabulary, parent: Vocabulary, n_rows: int, n_child: int) -> np.ndarray:
    found = np.full(n_child, NOBODY, np.int64)
    n_both = min(n_rows, n_child)
    padding = np.flatnonzero(~_used(child, n_both) & ~_used(parent, n_both))
    found[padding] = padding
    rows = _rows(child)
    places = (parent.get(token, n_rows) for token in child)
    there = rows if parent is child else np.fromiter(places, np.int64, len(child))
    fits = (there < n_rows) & (rows < n_child)
    found[rows[fits]] = there[fits]
    return found


def _rows(vocabulary: Vocabulary) -> np.ndarray:
    return np.fromiter(vocabulary.values(), np.int64, len(vocabulary))


def _used(vocabulary: Vocabulary, n_rows: int) -> np.ndarray:
    """Which of the first rows hold a token."""
    used = np.zeros(n_rows, bool)
    rows = _rows(vocabulary)
    used[rows[rows < n_rows]] = True
    return used


def runs(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the runs of consecutive rows: indices of the first, numbers, first rows in the parent.

    What a parent does not give is left out.
    """
    is_first = np.ones(len(rows), bool)
    is_first[1:] = (np.diff(rows) != 1) | (rows[:-1] < 0)
    starts = np.flatnonzero(is_first)
    counts = np.diff(starts, append=len(rows))
    given = rows[starts] >= 0
    return starts[given], counts[given], rows[starts[given]]
