"""Where a config.json describes the language model: at its top, or in a part of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Path = tuple[str, ...]
"""Keys from a config to a value or a part in it, outermost first; () is the config itself."""

TEXT_PARTS = (
    "thinker_config",
    "text_config",
    "language_config",
    "llm_config",
    "vlm_config",
    "decoder",
    "generator",
)
"""Keys of the part that describes the language model, or holds the part that does.

`text_config`, `decoder` and `generator` are those of transformers' `PreTrainedConfig.get_text_config`, in the
order in which a file that has several is read; `thinker_config` (Qwen-Omni) and `vlm_config` (ColPali) hold a
`text_config`. The others are those of models whose code comes with the checkpoint: `language_config`
(DeepSeek-VL2, Janus), `llm_config` (InternVL).
"""

OWN_PARTS = {"canary": "decoder_config", "dia": "decoder_config"}
"""Parts that other model types have as well, for something else; from their own `get_text_config`."""


def text_path(config: Mapping[str, Any]) -> Path:
    """Returns the keys from a config to the part that describes its language model; () if it is the whole."""
    model_type = config.get("model_type")
    own = OWN_PARTS.get(model_type) if isinstance(model_type, str) else None
    for key in (*TEXT_PARTS, *([own] if own else [])):
        part = config.get(key)
        if isinstance(part, Mapping):
            return (key, *text_path(part))
    return ()


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the part of a config that describes its language model."""
    return value_at(config, text_path(config))


def value_at(config: Mapping[str, Any], path: Path) -> Any:
    """Returns what a config has at a path; None if it has nothing there."""
    value: Any = config
    for key in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def with_value(config: Mapping[str, Any], path: Path, value: object) -> dict[str, Any]:
    """Returns a copy of a config with a value at a path; parts on the way are copied, or made if absent."""
    key, *rest = path
    if not rest:
        return {**config, key: value}
    inner = config.get(key)
    part = inner if isinstance(inner, Mapping) else {}
    return {**config, key: with_value(part, tuple(rest), value)}
