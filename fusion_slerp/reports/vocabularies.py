"""How the vocabularies of models differ, token by token where the differences are few."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.vocabulary.chat_templates import chat_template
from fusion_slerp.vocabulary.tokens import read_tokens

MOST = 200
"""Tokens that are listed; of more, the first ones."""


def vocabularies(models: Mapping[str, Checkpoint]) -> dict[str, Any] | None:
    """Returns how the tokens of models differ; None if fewer than two tokenizers are readable.

    Args:
        models: The models by label, the merged model among them if there is one.
    """
    read = {label: read_tokens(model.folder) for label, model in models.items()}
    rows = {label: tokens.rows for label, tokens in read.items() if tokens is not None}
    if len(rows) < 2:
        return None
    every = dict.fromkeys(token for each in rows.values() for token in each)
    partial = [token for token in every if any(token not in each for each in rows.values())]
    moved = sum(len({each.get(token) for each in rows.values()} - {None}) > 1 for token in every)
    return {
        "tokens": {label: len(each) for label, each in rows.items()},
        "every": len(every),
        "shared": len(every) - len(partial),
        "moved": moved,
        "partial": len(partial),
        "listed": [
            {"token": token, "rows": {label: each.get(token) for label, each in rows.items()}}
            for token in partial[:MOST]
        ],
    }


def chat_templates(models: Mapping[str, Checkpoint]) -> dict[str, str | None]:
    """Returns each model's chat template; None for one that has none."""
    return {label: chat_template(model.folder) for label, model in models.items()}
