"""Tensors that transformers keeps in float32 in a model of 16 bits: routing biases, state matrices."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from fusion_slerp.planning.tables.float32_tensors import ALWAYS, IN_FLOAT16

MAX_PARTS = 8
"""Nested parts of a config that may name model types of their own; real ones are two or three deep."""


def float32_pattern(config: Mapping[str, Any], dtype: str) -> re.Pattern[str] | None:
    """Returns the pattern that `search` finds in the names of tensors that stay float32; None if none does.

    Source: transformers' `core_model_loading.build_glob_alternation`, which searches the same patterns.

    Args:
        config: The model's config.json.
        dtype: The type of the merged model, such as "bfloat16".
    """
    tables = {"float16": (ALWAYS, IN_FLOAT16), "bfloat16": (ALWAYS,)}.get(dtype, ())
    types = dict.fromkeys(_model_types(config, MAX_PARTS)) if tables else {}
    patterns = [each for table in tables for model_type in types for each in table.get(model_type, ())]
    if not patterns:
        return None
    return re.compile("|".join(pattern.replace("*", ".*") for pattern in dict.fromkeys(patterns)))


def _model_types(config: Mapping[str, Any], depth: int) -> Iterator[str]:
    """The model types of a config and of its parts."""
    model_type = config.get("model_type")
    if isinstance(model_type, str):
        yield model_type
    for part in config.values():
        if isinstance(part, Mapping) and depth:
            yield from _model_types(part, depth - 1)
