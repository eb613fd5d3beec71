"""The tensors that have a row for each token, and the sources of their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.errors import MismatchError, Problem, setting
from fusion_slerp.planning.matching import Match
from fusion_slerp.planning.view import View
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.sources.source import Source
from fusion_slerp.vocabulary.alignment import Alignment, align_vocabularies
from fusion_slerp.vocabulary.rows import NOBODY, ZERO, RowMap

Counts = dict[str, int]
"""Rows of a matrix in each model, by label."""


@dataclass(frozen=True, slots=True)
class RowsOfTensors:
    """The rows of every tensor that has a row for each token.

    Attributes:
        alignment: The aligned vocabularies.
        by_name: The row maps by tensor name, without tensors whose rows are all merged in place.
        n_rows: Number of rows of the merged model's embedding; None if it is unchanged.
        remarks: Warnings for the user.
        notes: How the rows are made, in numbers.
    """

    alignment: Alignment
    by_name: Mapping[str, RowMap]
    n_rows: int | None
    remarks: tuple[str, ...]
    notes: tuple[str, ...] = ()


def rows_of_tensors(
    views: Mapping[str, View], settings: MergeSettings, matches: Sequence[Match]
) -> RowsOfTensors:
    """Returns the sources of all tensors' rows.

    Raises:
        MismatchError: Rows of different tokens would be mixed.
    """
    alignment = align_vocabularies({label: view.checkpoint for label, view in views.items()}, settings)
    following = [match for match in matches if match.follows_vocabulary]
    counts = [{label: _n_rows(match.of.get(label)) for label in views} for match in following]
    usual = next((each for each in counts if all(each.values())), None)
    if usual is None:
        if not alignment.are_equal:
            raise _unknown_embedding(views).error()
        return RowsOfTensors(alignment, {}, None, alignment.remarks)
    if settings.strict and not alignment.is_certain and len(set(usual.values())) > 1:
        raise _rows_without_tokens(views, usual).error()
    by_name: dict[str, RowMap] = {}
    remarks, notes = dict.fromkeys(alignment.remarks), dict[str, None]()
    known: dict[tuple[int, ...], RowMap | None] = {}
    for match, own in zip(following, counts, strict=True):
        full = {label: n or usual[label] for label, n in own.items()}
        key = tuple(full.values())
        if key not in known:
            known[key] = rows = alignment.rows(full)
            if rows is not None:
                numbers, *odd = alignment.describe(rows, full)
                notes[numbers] = None
                remarks |= dict.fromkeys(odd)
        rows = known[key]
        if rows is not None:
            _check(match)
            by_name[match.name] = _without_absent(rows, match)
    n_rows = alignment.n_rows(usual) if by_name else None
    return RowsOfTensors(alignment, by_name, n_rows, tuple(remarks), tuple(notes))


def _n_rows(source: Source | None) -> int:
    return source.shape[0] if source is not None and source.shape else 0


def _without_absent(rows: RowMap, match: Match) -> RowMap:
    """The row map without rows of models that lack the tensor."""
    return RowMap(
        {
            label: of if label in match.of else np.where(of == ZERO, ZERO, NOBODY)
            for label, of in rows.of.items()
        }
    )


def _check(match: Match) -> None:
    """Refuses a tensor whose rows cannot be rearranged.

    Raises:
        MismatchError: It holds integers, or rows that are too long to be averaged.
    """
    if not all(source.dtype.is_mergeable for source in match.of.values()):
        found, needed = match.first.dtype.name, "floating-point rows"
    elif prod(match.first.shape[1:]) > CHUNK_ELEMENTS:
        found, needed = f"rows of {prod(match.first.shape[1:])} elements", f"at most {CHUNK_ELEMENTS}"
    else:
        return
    fields = (("tensor", match.name), ("found", found), ("needed", needed))
    headline = "the tokenizers differ, and this tensor's rows cannot be rearranged"
    raise Problem(MismatchError, headline, fields, "merge models that share one tokenizer").error()


def _unknown_embedding(views: Mapping[str, View]) -> Problem:
    folders = [(label, view.folder) for label, view in views.items()]
    fields = (*folders, ("found", "no embedding with a known name in all of them"))
    fix = "merge models that share one tokenizer: rows of different tokens must not be mixed"
    return Problem(MismatchError, "the tokenizers differ", fields, fix)


def _rows_without_tokens(views: Mapping[str, View], n_rows: Counts) -> Problem:
    fields = tuple((label, f"{n_rows[label]} rows, {view.folder}") for label, view in views.items())
    fix = "add the tokenizer files to each model's folder: they map tokens to rows; "
    fix += f"or use {setting('strict', False)} to match rows by position"
    headline = f"the vocabularies differ: {', '.join(map(str, n_rows.values()))}"
    return Problem(MismatchError, headline, fields, fix)
