"""The tensors that have a row for each token, and the sources of their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType

import numpy as np

from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.errors import MismatchError, Problem, raise_all, setting
from fusion_slerp.planning.config_paths import Path
from fusion_slerp.planning.heads import is_tied
from fusion_slerp.planning.matching import Match
from fusion_slerp.planning.view import View
from fusion_slerp.planning.vocabulary_sizes import child_sizes
from fusion_slerp.planning.vocabulary_tensors import Counts, VocabularyTensors, lookalikes
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.vocabulary.alignment import Alignment, align_vocabularies
from fusion_slerp.vocabulary.rows import NOBODY, ZERO, Owners, RowMap


@dataclass(frozen=True, slots=True)
class RowsOfTensors:
    """The rows of every tensor that has a row for each token.

    Attributes:
        alignment: The aligned vocabularies.
        by_name: The row maps by tensor name, without tensors whose rows are all merged in place.
        sizes: The values that change in the config, by key in the part of the language model, or by path:
            `vocab_size` and its kin.
        remarks: Warnings for the user.
        notes: How the rows are made, in numbers.
    """

    alignment: Alignment
    by_name: Mapping[str, RowMap]
    sizes: Mapping[str | Path, int]
    remarks: tuple[str, ...]
    notes: tuple[str, ...] = ()


def rows_of_tensors(
    views: Mapping[str, View],
    settings: MergeSettings,
    matches: Sequence[Match],
    tensors: VocabularyTensors,
    makers: Mapping[str, Owners] = MappingProxyType({}),
) -> RowsOfTensors:
    """Returns the sources of all tensors' rows.

    Args:
        views: The models by label.
        settings: The options.
        matches: All tensors.
        tensors: Those with a row for each token.
        makers: The models that a tensor is made from, by name, where slices do not name all models. Other
            models give it the rows of tokens that these lack.

    Raises:
        MismatchError: Rows of different tokens would be mixed.
    """
    alignment = align_vocabularies({label: view.checkpoint for label, view in views.items()}, settings)
    usual = tensors.usual
    if usual is None:
        if not alignment.are_equal:
            raise _unknown_embedding(views).error()
        return RowsOfTensors(alignment, {}, {}, alignment.remarks)
    if settings.strict and not alignment.is_certain and len(set(usual.values())) > 1:
        raise _rows_without_tokens(views, usual).error()
    of_child, sizes = child_sizes(alignment, tensors, next(iter(views.values())))
    following = [match for match in matches if match.name in tensors.counts]
    by_name, odd, notes = _row_maps(following, tensors.counts, usual, of_child, makers, alignment)
    remarks = dict.fromkeys([*alignment.remarks, *odd])
    if not by_name:
        return RowsOfTensors(alignment, {}, {}, tuple(remarks), tuple(notes))
    raise_all(lookalikes(matches, tensors))
    if not tensors.has_embedding and not is_tied(next(iter(views.values())).config):
        raise _unknown_embedding(views).error()
    return RowsOfTensors(alignment, by_name, sizes, tuple(remarks), (*notes, *tensors.notes))


def _row_maps(
    matches: Sequence[Match],
    counts: Mapping[str, Counts],
    usual: Counts,
    of_child: Mapping[str, int],
    makers: Mapping[str, Owners],
    alignment: Alignment,
) -> tuple[dict[str, RowMap], list[str], list[str]]:
    """The row map of each tensor whose rows move, remarks on them, and how they are made."""
    by_name: dict[str, RowMap] = {}
    remarks, notes = list[str](), list[str]()
    known: dict[tuple[object, ...], RowMap | None] = {}
    for match in matches:
        full, own = counts[match.name], makers.get(match.name)
        key = (of_child[match.name], own, *full.values())
        if key not in known:
            rows = alignment.rows(full, of_child[match.name], own)
            known[key] = rows = rows and _with_extra_rows(rows, full, usual, alignment)
            if rows is not None:
                numbers, *odd = alignment.describe(rows, full)
                remarks += odd
                if own is not None:
                    known[key] = rows = _of_makers(rows, own, full)
                    numbers = alignment.numbers(rows, full) if rows else ""
                notes += [numbers] if numbers else []
        rows = known[key]
        if rows is not None:
            _check(match)
            by_name[match.name] = _without_absent(rows, match)
    return by_name, remarks, list(dict.fromkeys(notes))


def _with_extra_rows(rows: RowMap, counts: Counts, usual: Counts, alignment: Alignment) -> RowMap:
    """The row map in which rows after the vocabulary's are those after the models' vocabularies.

    Some models keep rows there that are no tokens: Moshi's start of a sequence, CPM-Ant's prompts.
    """
    extra = counts[alignment.first] - usual[alignment.first]
    if extra <= 0:
        return rows
    start, used = len(rows) - extra, set(alignment.child.values())
    free = [i for i in range(extra) if start + i not in used]
    of = {label: each.copy() for label, each in rows.of.items()}
    for label, n in counts.items():
        with_tokens = set(alignment.vocabularies[label].values())
        for i in free:
            row = usual[label] + i
            of[label][start + i] = row if row < n and row not in with_tokens else NOBODY
    return RowMap(of)


def _of_makers(rows: RowMap, makers: Owners, counts: Counts) -> RowMap | None:
    """The row map in which other models give only rows that the makers lack, the first of them that can.

    None if each row is that of all makers.
    """
    lacking = np.ones(len(rows), bool)
    for owners in (makers, *((label,) for label in rows.of if label not in makers)):
        own = lacking & np.logical_or.reduce([rows.of[label] >= 0 for label in owners])
        rows = rows.kept(own, owners)
        lacking &= ~own
    alone = RowMap({label: rows.of[label] for label in makers})
    return None if alone.is_in_place({label: counts[label] for label in makers}) else rows


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
    example = setting("vocabulary_tensors", {"model.embedding.weight": "follow"})
    fix = f"name the tensors with a row for each token, such as {example}, or merge models with one tokenizer"
    return Problem(MismatchError, "the tokenizers differ", fields, fix)


def _rows_without_tokens(views: Mapping[str, View], n_rows: Counts) -> Problem:
    fields = tuple((label, f"{n_rows[label]} rows, {view.folder}") for label, view in views.items())
    fix = "add the tokenizer files to each model's folder: they map tokens to rows; "
    fix += f"or use {setting('strict', False)} to match rows by position"
    headline = f"the vocabularies differ: {', '.join(map(str, n_rows.values()))}"
    return Problem(MismatchError, headline, fields, fix)
