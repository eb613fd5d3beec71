"""`tokens`: where the rows of single tokens come from, in the user's words.

The form is that of mergekit's `tokenizer.tokens`; see docs/reference.md for what each does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fusion_slerp.errors import Problem, SettingsError, nearest

_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character, which no file can be written with."""

EXAMPLE = '{"<|im_end|>": {source: b, force: true}}'


@dataclass(frozen=True, slots=True)
class TokenSource:
    """Where a token's row comes from.

    Attributes:
        kind: `"model"`: a model's row of the token; `"model_token"`: a model's row of another
            token; `"zero"`.
        model: A model's label, or what the user calls that model; None for `"zero"`.
        token: Another token, or its id; None for the same.
        force: Whether it also holds for a token that the models have.
    """

    kind: Literal["model", "model_token", "zero"]
    model: str | None = None
    token: str | int | None = None
    force: bool = False


def parse_token_sources(value: object) -> dict[str, TokenSource]:
    """Returns the sources by token.

    Raises:
        SettingsError: It is not of the form that `EXAMPLE` shows.
    """
    if not isinstance(value, Mapping):
        raise _wrong(f"{value!r} ({type(value).__name__})", f"a mapping like {EXAMPLE}")
    return {_token(token): _parse(str(token), given) for token, given in value.items()}


def _token(token: object) -> str:
    if isinstance(token, str) and token and not _SURROGATE.search(token):
        return token
    raise _wrong(f"{token!r} ({type(token).__name__})", "tokens as texts")


def _parse(token: str, given: Any) -> TokenSource:
    known = {"source", "force"}
    if not (isinstance(given, Mapping) and "source" in given):
        given = {"source": given}
    force = given.get("force", False)
    unknown = [key for key in given if key not in known]
    if unknown or not isinstance(force, bool):
        hint = nearest(str(unknown[0]), known) if unknown else ""
        raise _wrong(f"{token!r}: {dict(given)!r}{hint}", "source, and force: true or false")
    source = given["source"]
    if isinstance(source, str) and source:
        return TokenSource("model", source, None, force)
    if isinstance(source, Mapping):
        kind, model = source.get("kind"), source.get("model")
        other = source.get("token", source.get("token_id"))
        if kind == "zero" and set(source) == {"kind"}:
            return TokenSource("zero", force=force)
        keys_fit = set(source) in ({"kind", "model", "token"}, {"kind", "model", "token_id"})
        is_other = type(other) is (str if "token" in source else int)
        if kind == "model_token" and keys_fit and isinstance(model, str) and is_other:
            return TokenSource("model_token", model, other, force)
    needed = (
        "a model (a, b, ...), {kind: zero}, or {kind: model_token, model: a, token: ... or token_id: ...}"
    )
    raise _wrong(f"{token!r}: {source!r}", needed)


def _wrong(found: object, needed: str) -> SettingsError:
    fields = (("found", found), ("needed", needed))
    error = Problem(SettingsError, "tokens is not usable", fields, f"set tokens: {EXAMPLE}").error()
    assert isinstance(error, SettingsError)
    return error
