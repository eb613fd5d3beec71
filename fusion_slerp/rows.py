"""Which parent's row feeds each row of the child's embedding and head, when the vocabularies differ.

Rows of tokens that both parents have are merged. A row that only one parent has is copied, not
interpolated: SLERP's coefficients sum to more than one. Rows beyond every token (padding) keep
parent a's number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from fusion_slerp.checkpoint.header import TensorEntry
from fusion_slerp.checkpoint.shards import Slot

Vocabulary = Mapping[str, int]
"""From token to row."""

Source = Literal["both", "a", "b"]
TokensOf = Literal["a", "b", "union"]

_MIRRORED: dict[Source, Source] = {"both": "both", "a": "b", "b": "a"}


@dataclass(frozen=True, slots=True)
class RowRun:
    """Consecutive rows of the child, at the same place in the parents, with one source.

    Attributes:
        first: Index of the first row.
        count: How many.
        source: `"both"` are merged; `"a"` or `"b"` gives them alone.
    """

    first: int
    count: int
    source: Source


def align_rows(
    a: Vocabulary, b: Vocabulary, n_rows_a: int, n_rows_b: int, tokens_of: TokensOf = "union"
) -> tuple[RowRun, ...] | None:
    """Returns the runs of the child's rows, from the first.

    Args:
        a: Parent a's vocabulary.
        b: Parent b's vocabulary.
        n_rows_a: Rows of its embedding.
        n_rows_b: Rows of b's.
        tokens_of: Whose tokens the child has.

    Returns:
        None where no such runs exist: a shared token has two rows; each parent has tokens of its
        own, and the child is to have them all; or shared tokens come after the first that only
        one parent has.
    """
    if tokens_of == "b":
        mirrored = align_rows(b, a, n_rows_b, n_rows_a, "a")
        return mirrored and tuple(replace(run, source=_MIRRORED[run.source]) for run in mirrored)
    if any(b[token] != row for token, row in a.items() if token in b):
        return None
    only_a = {row for token, row in a.items() if token not in b}
    only_b = {row for token, row in b.items() if token not in a}
    if only_a and only_b and tokens_of == "union":
        return None
    n_both = min([*only_a, *only_b, n_rows_a, n_rows_b])
    shared = [row for token, row in a.items() if token in b]
    if any(n_both <= row < min(n_rows_a, n_rows_b) for row in shared):
        return None
    taken_from_b = only_b if tokens_of == "union" else set[int]()
    n_tokens = max([*a.values(), *taken_from_b], default=-1) + 1
    n_rows = max(n_rows_a, min(n_tokens, n_rows_b))
    sources: list[Source] = [
        "b" if row >= n_rows_a or (row in taken_from_b and row < n_rows_b) else "a"
        for row in range(n_both, n_rows)
    ]
    return tuple(_runs(n_both, sources))


def _runs(n_both: int, sources: list[Source]) -> list[RowRun]:
    runs = [RowRun(0, n_both, "both")] if n_both else []
    for row, source in enumerate(sources, start=n_both):
        if runs and runs[-1].source == source:
            runs[-1] = replace(runs[-1], count=runs[-1].count + 1)
        else:
            runs.append(RowRun(row, 1, source))
    return runs


def rows_of_entry(entry: TensorEntry, run: RowRun) -> TensorEntry:
    """The place of some rows of a stored tensor."""
    n_rows, *others = entry.shape
    row_nbytes = entry.nbytes // n_rows if n_rows else 0
    name, shape = _named(entry.name, run), (run.count, *others)
    return replace(
        entry,
        name=name,
        shape=shape,
        offset=entry.offset + run.first * row_nbytes,
        nbytes=run.count * row_nbytes,
    )


def rows_of_slot(slot: Slot, run: RowRun) -> Slot:
    """The place of some rows of a tensor of the child."""
    others = slot.shape[1:]
    row_nbytes = prod(others) * slot.dtype.itemsize
    return replace(
        slot,
        name=_named(slot.name, run),
        shape=(run.count, *others),
        offset=slot.offset + run.first * row_nbytes,
        nbytes=run.count * row_nbytes,
    )


def _named(name: str, run: RowRun) -> str:
    """The tensor's name for the rows that are merged; with their range for those that are copied."""
    return name if run.source == "both" else f"{name}[{run.first}:{run.first + run.count}]"
