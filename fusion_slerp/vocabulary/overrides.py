"""Gives single tokens the rows that the user wants for them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fusion_slerp.errors import MismatchError, Problem, nearest
from fusion_slerp.settings.token_sources import EXAMPLE, TokenSource
from fusion_slerp.vocabulary.rows import NOBODY, ZERO, RowMap
from fusion_slerp.vocabulary.tokens import Vocabulary


def apply_token_sources(
    rows: RowMap,
    sources: Mapping[str, TokenSource],
    child: Vocabulary,
    parents: Mapping[str, tuple[Vocabulary, int]],
    names: Mapping[str, str],
) -> RowMap:
    """Returns the map with the rows that the user wants elsewhere.

    Without `force`, a token keeps the rows that the parents have of it; a source in the parent that
    lacks it is merged with them.

    Args:
        rows: The map from the parents' tokens alone.
        sources: By token.
        child: The child's vocabulary.
        parents: Vocabulary and number of rows of `"a"` and `"b"`.
        names: From what the user calls the parents to `"a"` and `"b"`.

    Raises:
        MismatchError: A source names another model, or a row that its model does not have.
    """
    of = {"a": rows.a.copy(), "b": rows.b.copy()}
    for token, source in sources.items():
        if token not in child:
            continue
        row = child[token]
        has = {label for label, found in of.items() if found[row] >= 0}
        if has and not source.force and source.kind == "zero":
            continue
        if source.kind == "zero":
            of["a"][row] = of["b"][row] = ZERO
            continue
        label = _label(token, source, names)
        there = _row(token, source, *parents[label])
        if source.force:
            of["a"][row] = of["b"][row] = NOBODY
        if source.force or label not in has:
            of[label][row] = there
    return RowMap(np.asarray(of["a"]), np.asarray(of["b"]))


def _label(token: str, source: TokenSource, names: Mapping[str, str]) -> str:
    if source.model is not None and source.model in names:
        return names[source.model]
    found = f"{source.model!r}{nearest(str(source.model), names)}"
    raise _no_row(token, found, "a, b, or the name of a parent")


def _row(token: str, source: TokenSource, vocabulary: Vocabulary, n_rows: int) -> int:
    wanted = token if source.token is None else source.token
    row = wanted if isinstance(wanted, int) else vocabulary.get(wanted, NOBODY)
    if 0 <= row < n_rows:
        return row
    raise _no_row(token, f"{wanted!r} of {source.model}", "a token or row that this model has")


def _no_row(token: str, found: str, needed: str) -> Exception:
    fields = (("token", repr(token)), ("found", found), ("needed", needed))
    fix = f"correct the source of this token; for example tokens: {EXAMPLE}"
    return Problem(MismatchError, "tokens names a row that is not there", fields, fix).error()
