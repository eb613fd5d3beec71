"""Whether transformers ties a model's head to its embedding, as its config says or by its type's default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusion_slerp.planning.config_paths import Path, text_part, text_path
from fusion_slerp.planning.tables import tied_in_transformers_4 as four
from fusion_slerp.planning.tables import tied_in_transformers_5 as five

KEY = "tie_word_embeddings"

Config = Mapping[str, Any]


def ties_by_default(config: Config) -> bool | None:
    """Returns whether transformers ties the head of a model with this config to its embedding.

    A key that the config has counts as transformers reads it, whether at the top or in the language model's
    part; one that is absent, by its default. Where transformers 4 and 5 differ, the version counts that wrote
    the config; None if it does not say, or if neither knows the model type.
    """
    in_4, in_5 = ties_in_4(config), ties_in_5(config)
    if in_4 is None or in_5 is None or in_4 == in_5:
        return in_4 if in_5 is None else in_5
    version = config.get("transformers_version")
    major = version.split(".")[0] if isinstance(version, str) else None
    return {"4": in_4, "5": in_5}.get(major or "")


def ties_in_4(config: Config) -> bool | None:
    """Returns whether transformers 4 ties the head; None if it does not know the model type."""
    path = text_path(config)
    part = text_part(config)
    value = part.get(KEY)
    if isinstance(value, bool):
        return value
    own = _default(part, four.TIED, four.UNTIED)
    return _default(config, four.TIED, four.UNTIED) if path and own is None else own


def ties_in_5(config: Config) -> bool | None:
    """Returns whether transformers 5 ties the head; None if it does not know the model type."""
    model_type = _model_type(config)
    if model_type in five.ALWAYS or model_type in five.NEVER:
        return model_type in five.ALWAYS
    top = config.get(KEY)
    path = text_path(config)
    text = text_part(config).get(KEY) if path else None
    if model_type in five.BY_TEXT and path:
        return text if isinstance(text, bool) else _default(text_part(config), five.TIED, five.UNTIED)
    default = _default(config, five.TIED, five.UNTIED)
    if model_type in five.BY_TOP_FIRST and not isinstance(top, bool):
        return text if isinstance(text, bool) else default
    own = top if isinstance(top, bool) else default
    return True if model_type in five.BY_EITHER and text is True else own


def tying_paths(config: Config) -> tuple[Path, ...]:
    """Returns where a config says whether the head is tied: transformers 5 reads the top, 4 the text part."""
    path = text_path(config)
    return ((KEY,), (*path, KEY)) if path else ((KEY,),)


def _default(config: Config, tied: frozenset[str], untied: frozenset[str]) -> bool | None:
    model_type = _model_type(config)
    return model_type in tied or (False if model_type in untied else None)


def _model_type(config: Config) -> str:
    model_type = config.get("model_type")
    return model_type if isinstance(model_type, str) else ""
