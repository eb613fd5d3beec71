"""`tokens`: where the rows of single tokens come from, as the user states it.

The form is that of mergekit's `tokenizer.tokens`; docs/reference.md describes each kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fusion_slerp.errors import Problem, SettingsError, nearest, setting

_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character, which UTF-8 cannot encode."""

EXAMPLE = {"<|im_end|>": {"source": "b", "force": True}}


@dataclass(frozen=True, slots=True)
class TokenSource:
    """The source of a token's row.

    Attributes:
        kind: `"model"`: a model's row of the token; `"model_token"`: a model's row of another
            token; `"zero"`: zeros.
        model: A model's label, or its path or hub id as the user gave it; None for `"zero"`.
        token: Another token, or its id; None for the same token.
        force: Whether it also applies to a token that the models have.
    """

    kind: Literal["model", "model_token", "zero"]
    model: str | None = None
    token: str | int | None = None
    force: bool = False


def parse_token_sources(value: object) -> dict[str, TokenSource]:
    """Returns the sources by token.

    Raises:
        SettingsError: It does not have the form of `EXAMPLE`.
    """
    if not isinstance(value, Mapping):
        raise _wrong(f"{value!r} ({type(value).__name__})", "a mapping from tokens to their sources")
    return {_token(token): _parse(str(token), given) for token, given in value.items()}


def _token(token: object) -> str:
    if isinstance(token, str) and token and not _SURROGATE.search(token):
        return token
    raise _wrong(f"{token!r} ({type(token).__name__})", "tokens as strings")


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
    fix = f"use the form of {setting('tokens', EXAMPLE)}"
    error = Problem(SettingsError, "invalid tokens", fields, fix).error()
    assert isinstance(error, SettingsError)
    return error
