"""The tokens with which a chat template ends a turn: generation has to stop at them.

A base model ends texts with one token, a chat model of it turns with another, and either file may know only
one of the two. The merged model has the template of one and perhaps the generation_config.json of another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from fusion_slerp.errors import listed, quoted
from fusion_slerp.planning.config_paths import Path, text_path, value_at, with_value
from fusion_slerp.vocabulary.child_tokenizer import ChildTokenizer
from fusion_slerp.vocabulary.special_tokens import as_ids
from fusion_slerp.vocabulary.tokens import Vocabulary, special_tokens

EOS = "eos_token_id"

MARKS = ("<", "[")
"""Beginnings of tokens that are no ordinary text, which a template may contain as well."""


def ends_of(config: Mapping[str, Any], generation: Mapping[str, Any], vocabulary: Vocabulary) -> set[str]:
    """Returns the tokens at which a model's generation stops.

    Args:
        config: Its config.json.
        generation: Its generation_config.json; empty if it has none.
        vocabulary: Its tokens.
    """
    ids = set(as_ids(generation.get(EOS)) or as_ids(value_at(config, _place(config))))
    return {token for token, row in vocabulary.items() if row in ids} if ids else set()


def with_turn_ends(
    target: Mapping[str, Any], config: Mapping[str, Any], tokenizer: ChildTokenizer, ends: Iterable[str]
) -> tuple[dict[str, Any], list[str]]:
    """Returns a config of the merged model with the ends of the chat template's turns, and warnings.

    Args:
        target: Its generation_config.json, or its config.json if it has no other.
        config: Its config.json.
        tokenizer: Its tokenizer.
        ends: The tokens at which the generation of any source model stops.
    """
    rows = tokenizer.rows or {}
    template = tokenizer.chat_template or ""
    own_end = special_tokens(tokenizer.config).get("eos_token")
    is_named = re.search(r"\beos_token\b", template) is not None
    used = [
        token
        for token in ends
        if token in rows
        and ((token in template and token.startswith(MARKS)) or (is_named and token == own_end))
    ]
    known = next((ids for each in (target, config) if (ids := as_ids(value_at(each, _place(each))))), [])
    if not known and own_end is not None and own_end in rows:
        known = [rows[own_end]]
    new = {rows[token]: token for token in used if rows[token] not in known}
    if not new:
        return dict(target), []
    named = listed([f"{quoted(new[row])} ({row})" for row in sorted(new)], 3)
    remark = f"the chat template ends a turn with {named}, which is added to {EOS}"
    return with_value(target, _place(target), [*known, *sorted(new)]), [remark]


def _place(config: Mapping[str, Any]) -> Path:
    """Where a config has the ids: at its top, or in the part that describes its language model."""
    return (EOS,) if config.get(EOS) is not None else (*text_path(config), EOS)
