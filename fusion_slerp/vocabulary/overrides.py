"""Gives single tokens the rows that the user wants for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from fusion_slerp.errors import MismatchError, Problem, listed, nearest
from fusion_slerp.settings.token_sources import EXAMPLE, TokenSource
from fusion_slerp.vocabulary.rows import NOBODY, ZERO, RowMap
from fusion_slerp.vocabulary.tokens import Vocabulary


def apply_token_sources(
    rows: RowMap,
    sources: Mapping[str, TokenSource],
    child: Vocabulary,
    models: Mapping[str, tuple[Vocabulary, int]],
    names: Mapping[str, str],
) -> RowMap:
    """Returns the map with the rows that the user wants elsewhere.

    Without `force`, a token keeps the rows that the models have of it; a source in a model that
    lacks it is merged with them.

    Args:
        rows: The map from the models' tokens alone.
        sources: By token.
        child: The merged model's vocabulary.
        models: Their vocabularies and numbers of rows, by label.
        names: From what the user calls a model to its label.

    Raises:
        MismatchError: A source names another model, or a row that its model does not have.
    """
    of = {label: found.copy() for label, found in rows.of.items()}
    for token, source in sources.items():
        if token not in child:
            continue
        row = child[token]
        has = {label for label, found in of.items() if found[row] >= 0}
        if source.kind == "zero":
            if source.force or not has:
                _give(of, row, ZERO)
            continue
        label = _label(token, source, models, names)
        there = _row(token, source, *models[label])
        if source.force:
            _give(of, row, NOBODY)
        if source.force or label not in has:
            of[label][row] = there
    return RowMap(of)


def _give(of: Mapping[str, np.ndarray], row: int, value: int) -> None:
    """Sets the row in every model."""
    for rows in of.values():
        rows[row] = value


def _label(token: str, source: TokenSource, labels: Iterable[str], names: Mapping[str, str]) -> str:
    if source.model is not None and source.model in names:
        return names[source.model]
    found = f"{source.model!r}{nearest(str(source.model), names)}"
    raise _no_row(token, found, f"{listed(list(labels))}, or the name of a parent")


def _row(token: str, source: TokenSource, vocabulary: Vocabulary, n_rows: int) -> int:
    wanted = token if source.token is None else source.token
    row = wanted if isinstance(wanted, int) else vocabulary.get(wanted, NOBODY)
    if 0 <= row < n_rows:
        return row
    raise _no_row(token, f"{wanted!r} of {source.model}", "a token or row that this model has")


def _no_row(token: str, found: str, needed: str) -> Exception:
    fields = (("token", repr(token)), ("found", found), ("needed", needed))
    fix = f"correct the source of this token; for example tokens: {EXAMPLE}"
    return Problem(MismatchError, "`tokens` refers to a missing row", fields, fix).error()
