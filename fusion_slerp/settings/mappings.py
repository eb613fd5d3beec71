"""Settings that are mappings: the values that they accept, and their form in Python's own types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from fusion_slerp.options import Check


def plain(value: Any) -> Any:
    """Returns a value in Python's own numbers, lists and mappings: the card's YAML cannot hold numpy's."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, Real) and type(value) not in (int, float, bool):
        return int(value) if isinstance(value, Integral) else float(value)
    return value


def _is_key(key: object) -> bool:
    """Whether a key has no empty part."""
    return isinstance(key, str) and all(key.split("."))


def _is_json(value: object) -> bool:
    try:
        json.dumps(plain(value), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


VOCABULARY_TENSORS = Check(
    lambda value: isinstance(value, Mapping) and set(map(str, value.values())) <= {"follow", "stay"},
    "follow or stay by the name of a tensor",
)

CONFIG_OVERRIDES = Check(
    lambda value: isinstance(value, Mapping) and all(map(_is_key, value)) and _is_json(value),
    "values that JSON has, by key, such as {max_position_embeddings: 8192}",
)
