"""Which model's row feeds each row of the merged model's embedding and head.

Rows of tokens that several models have are merged; those with the same owners form one unit, with its own
measures and coefficients. A row that only one model has is copied, not interpolated: SLERP's coefficients
sum to more than one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fusion_slerp.vocabulary.tokens import Vocabulary

NOBODY = -1
"""In place of a row's index: this model does not provide it."""

ZERO = -2
"""In place of a row's index in every model: the merged model's row is zero."""

MOST_MODELS = 62
"""Sets of owners are bits of an int64."""

Owners = tuple[str, ...]
"""Labels of the models that have a row, in the models' order."""


@dataclass(frozen=True, slots=True)
class RowCounts:
    """How many rows of a tensor were made in which way.

    Attributes:
        merged: From several models.
        copied: From a single one, by label; labels without such rows are left out.
        filled: From no model: made according to `vocab_fill`, or zero according to `tokens`.
    """

    merged: int
    copied: Mapping[str, int] = field(default_factory=dict)
    filled: int = 0

    def __str__(self) -> str:
        parts = [(self.merged, "merged")]
        parts += [(count, f"copied from {label}") for label, count in self.copied.items()]
        parts += [(self.filled, "filled")]
        return ", ".join(f"{count} {what}" for count, what in parts if count) or "no rows"


@dataclass(frozen=True, slots=True, eq=False)
class RowMap:
    """The source of each row of the merged model.

    Attributes:
        of: By label: int64 of shape (rows of the merged model,): the row of that model, `NOBODY` or `ZERO`.
            A row that several models provide is merged.
    """

    of: Mapping[str, np.ndarray]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, RowMap)
            and self.of.keys() == other.of.keys()
            and all(np.array_equal(rows, other.of[label]) for label, rows in self.of.items())
        )

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(next(iter(self.of.values())))

    def __getitem__(self, part: slice) -> RowMap:
        """A range of the rows."""
        return RowMap({label: rows[part] for label, rows in self.of.items()})

    @property
    def n_owners(self) -> np.ndarray:
        """How many models provide each row: int64 of shape (rows of the merged model,)."""
        n_owners = np.zeros(len(self), np.int64)
        for rows in self.of.values():
            n_owners += rows >= 0
        return n_owners

    @property
    def merged(self) -> np.ndarray:
        """Which rows several models provide: bool of shape (rows of the merged model,)."""
        return self.n_owners > 1

    @property
    def filled(self) -> np.ndarray:
        """Which rows no model provides, including those set to zero: bool, as `merged`."""
        return self.n_owners == 0

    @property
    def zero(self) -> np.ndarray:
        """Which rows are set to zero: bool, as `merged`."""
        return next(iter(self.of.values())) == ZERO

    @property
    def counts(self) -> RowCounts:
        """How many rows come from each source."""
        n_owners = self.n_owners
        copied = {label: int(((rows >= 0) & (n_owners == 1)).sum()) for label, rows in self.of.items()}
        return RowCounts(
            int((n_owners > 1).sum()),
            {label: count for label, count in copied.items() if count},
            int((n_owners == 0).sum()),
        )

    def groups(self) -> dict[Owners, np.ndarray]:
        """Returns the rows that are merged, by their owners: bool, as `merged`."""
        labels = list(self.of)
        code = self._owner_codes()
        groups = {}
        for each in np.unique(code[self.merged]).tolist():
            owners = tuple(label for i, label in enumerate(labels) if each >> i & 1)
            groups[owners] = code == each
        return groups

    def _owner_codes(self) -> np.ndarray:
        code = np.zeros(len(self), np.int64)
        for i, rows in enumerate(self.of.values()):
            code |= (rows >= 0).astype(np.int64) << i
        return code

    def is_in_place(self, n_rows: Mapping[str, int]) -> bool:
        """Whether each row is merged with the same row of all other models, and no row is left over."""
        return set(n_rows.values()) == {len(self)} and all(
            np.array_equal(rows, np.arange(len(self))) for rows in self.of.values()
        )

    def kept(self, where: np.ndarray, owners: Sequence[str]) -> RowMap:
        """Returns the map in which some rows have no other owners than these.

        Args:
            where: Which rows: bool of shape (rows of the merged model,).
            owners: Labels.
        """
        return RowMap(
            {
                label: rows if label in owners else np.where(where & (rows >= 0), NOBODY, rows)
                for label, rows in self.of.items()
            }
        )

    def shared(self, makers: Owners | None = None) -> np.ndarray:
        """Which rows several models provide, or the only one of which a tensor is made: bool, as `merged`.

        Args:
            makers: The labels of the models of which it is made; None for all.
        """
        makers = tuple(self.of) if makers is None else makers
        n_owners = np.zeros(len(self), np.int64)
        for label in makers:
            n_owners += self.of[label] >= 0
        return n_owners >= min(2, len(makers))

    def only_shared(self, named: Sequence[int] = (), makers: Owners | None = None) -> RowMap:
        """The map without rows that a single one of several models provides: they are filled instead.

        Args:
            named: Rows that stay nevertheless.
            makers: As for `shared`.
        """
        kept = self.shared(makers) | self.zero
        kept[list(named)] = True
        return RowMap({label: np.where(kept, rows, NOBODY) for label, rows in self.of.items()})


def align(
    child: Vocabulary, models: Mapping[str, Vocabulary], n_rows: Mapping[str, int], n_child: int
) -> RowMap:
    """Maps the merged model's rows to the models', token by token.

    A row of the merged model without a token (padding) gets the same row of each model in which that row
    has no token either.

    Args:
        child: The merged model's vocabulary.
        models: The models' vocabularies, by label; tokens beyond a model's matrix have no row there.
        n_rows: Rows of the models' matrices, by label.
        n_child: Rows of the merged model's.
    """
    return RowMap({label: _find(child, rows, n_rows[label], n_child) for label, rows in models.items()})


def _find(child: Vocabulary, parent: Vocabulary, n_rows: int, n_child: int) -> np.ndarray:
    of_parent = np.full(n_child, NOBODY, np.int64)
    n_both = min(n_rows, n_child)
    padding = np.flatnonzero(~_used(child, n_both) & ~_used(parent, n_both))
    of_parent[padding] = padding
    rows = _rows(child)
    known = (parent.get(token, n_rows) for token in child)
    theirs = rows if parent is child else np.fromiter(known, np.int64, len(child))
    fits = (theirs < n_rows) & (rows < n_child)
    of_parent[rows[fits]] = theirs[fits]
    return of_parent


def _rows(vocabulary: Vocabulary) -> np.ndarray:
    return np.fromiter(vocabulary.values(), np.int64, len(vocabulary))


def _used(vocabulary: Vocabulary, n_rows: int) -> np.ndarray:
    """Which of the first rows have a token."""
    used = np.zeros(n_rows, bool)
    rows = _rows(vocabulary)
    used[rows[rows < n_rows]] = True
    return used


def runs(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the runs of consecutive rows: indices of the first, counts, and first rows in the parent.

    Rows that the parent does not provide are left out.
    """
    is_first = np.ones(len(rows), bool)
    is_first[1:] = (np.diff(rows) != 1) | (rows[:-1] < 0)
    starts = np.flatnonzero(is_first)
    counts = np.diff(starts, append=len(rows))
    given = rows[starts] >= 0
    return starts[given], counts[given], rows[starts[given]]
