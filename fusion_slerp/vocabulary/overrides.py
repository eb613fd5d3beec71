"""Gives single tokens the rows that the user wants for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fusion_slerp.errors import SHOWN_PROBLEMS, MismatchError, Problem, listed, nearest, raise_all, setting
from fusion_slerp.settings.token_sources import TokenSource
from fusion_slerp.vocabulary.rows import NOBODY, ZERO, RowMap
from fusion_slerp.vocabulary.tokens import Vocabulary

Models = Mapping[str, tuple[Vocabulary, int]]
"""The models' vocabularies and numbers of rows, by label."""


def apply_token_sources(
    rows: RowMap,
    sources: Mapping[str, TokenSource],
    child: Vocabulary,
    models: Models,
    names: Mapping[str, str],
) -> RowMap:
    """Returns the map with the user's sources for single tokens.

    Without `force`, a token keeps the rows that the models have for it; a source in a model that
    lacks the token is merged with them.

    Args:
        rows: The map derived from the models' tokens alone.
        sources: By token.
        child: The merged model's vocabulary.
        models: Theirs.
        names: From the user's name for a model to its label.

    Raises:
        MismatchError: Sources name another model, or a row that their model lacks; all of them are named.
    """
    of = {label: each.copy() for label, each in rows.of.items()}
    wrong: list[str] = []
    for token, source in sources.items():
        if token not in child:
            continue
        row = child[token]
        has = {label for label, each in of.items() if each[row] >= 0}
        if source.kind == "zero":
            if source.force or not has:
                _give(of, row, ZERO)
            continue
        label = names.get(str(source.model), "")
        there = _row(token, source, *models[label]) if label else NOBODY
        if there == NOBODY:
            wrong.append(token)
            continue
        if source.force:
            _give(of, row, NOBODY)
        if source.force or label not in has:
            of[label][row] = there
    raise_all(list(_problems(wrong, sources, models, names)))
    return RowMap(of)


def _give(of: Mapping[str, np.ndarray], row: int, value: int) -> None:
    """Sets the row in every model."""
    for rows in of.values():
        rows[row] = value


def _row(token: str, source: TokenSource, vocabulary: Vocabulary, n_rows: int) -> int:
    wanted = token if source.token is None else source.token
    row = wanted if isinstance(wanted, int) else vocabulary.get(wanted, NOBODY)
    return row if 0 <= row < n_rows else NOBODY


def _problems(
    wrong: Sequence[str], sources: Mapping[str, TokenSource], models: Models, names: Mapping[str, str]
) -> Iterator[Problem]:
    """A problem for each token whose source is wrong; the fix of each mends all of them."""
    shown = list(sources) if len(sources) <= SHOWN_PROBLEMS else wrong[:SHOWN_PROBLEMS]
    mended = {
        token: _mended(token, source, models, names) if token in wrong else source
        for token, source in sources.items()
        if token in shown
    }
    value = {token: _as_given(source) for token, source in mended.items()}
    whole = "" if len(shown) == len(sources) else ", and the other tokens as they are"
    for token in wrong:
        source = sources[token]
        found = f"{(token if source.token is None else source.token)!r} of {source.model}"
        needed = "a token or row that this model has"
        if str(source.model) not in names:
            found = f"{source.model!r}{nearest(str(source.model), names)}"
            needed = f"{listed(list(models))}, or the path or id of a source model"
        fields = (("token", repr(token)), ("found", found), ("needed", needed))
        fix = f"use a row that there is: {setting('tokens', value)}{whole}"
        yield Problem(MismatchError, "`tokens` refers to a missing row", fields, fix)


def _mended(token: str, source: TokenSource, models: Models, names: Mapping[str, str]) -> TokenSource:
    """The token's own row in the model named, else in the first that has one, else zeros."""
    named = names.get(str(source.model), "")
    for label in sorted(models, key=lambda label: label != named):
        own = TokenSource("model", label, None, source.force)
        if _row(token, own, *models[label]) != NOBODY:
            return own
    return TokenSource("zero", force=source.force)


def _as_given(source: TokenSource) -> dict[str, Any]:
    """A source as the setting `tokens` spells it."""
    given: Any = source.model
    if source.kind == "zero":
        given = {"kind": "zero"}
    elif source.kind == "model_token":
        key = "token_id" if isinstance(source.token, int) else "token"
        given = {"kind": "model_token", "model": source.model, key: source.token}
    return {"source": given, **({"force": True} if source.force else {})}
