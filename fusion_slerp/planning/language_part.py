"""A language model as part of a larger model, such as one that also reads pictures.

A text model can be merged into the language model of a larger one: the other parts are then copied. The
larger model comes first, so that the merged model has its class, config and processor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fusion_slerp.errors import MismatchError, Problem, listed
from fusion_slerp.planning.config_paths import text_part, text_path
from fusion_slerp.planning.view import View
from fusion_slerp.sources.source import Source
from fusion_slerp.tensor_names.vocabulary import ends, is_of_head

TEXT_MODELS = {
    "qwen2_vl": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_omni": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
    "qwen3_omni_moe": "qwen3_moe",
    "glm4v": "glm4",
    "glm4v_moe": "glm4_moe",
    "ernie4_5_vl_moe": "ernie4_5_moe",
}
"""Model types of language models within larger models, without `_text`, whose weights are those of another
type. Source: the `modular_*.py` files of transformers 5.23, which derive the one from the other.
"""

PARTS_OF_TYPES = ("_text_model", "_text", "_thinker")
"""Endings of the model types of parts."""


OTHER_PARTS = ("vision_config", "audio_config", "visual", "vision_tower")
"""Keys of other parts in configs that describe the language model at their top, as the first of Qwen2-VL."""


def is_larger(config: Mapping[str, Any]) -> bool:
    """Whether a config describes a model with more parts than a language model."""
    return bool(text_path(config)) or any(isinstance(config.get(key), Mapping) for key in OTHER_PARTS)


def comparable(views: Mapping[str, View]) -> dict[str, View]:
    """Returns the models with the configs of their language models, where only some models have other parts.

    Raises:
        MismatchError: The first of them is a text model.
    """
    larger = [label for label, view in views.items() if is_larger(view.config)]
    if not larger or len(larger) == len(views):
        return dict(views)
    if not is_larger(next(iter(views.values())).config):
        raise _larger_first(views, larger[0]).error()
    return {label: replace(view, config=_of_text(view.config)) for label, view in views.items()}


def _of_text(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the language model, with the model type of the text model that has the same weights."""
    part = {key: value for key, value in text_part(config).items() if key not in ("model_type", *OTHER_PARTS)}
    kind = text_part(config).get("model_type")
    if isinstance(kind, str):
        for ending in PARTS_OF_TYPES:
            kind = kind.removesuffix(ending)
        part["model_type"] = TEXT_MODELS.get(kind, kind)
    return part


def _larger_first(views: Mapping[str, View], larger: str) -> Problem:
    first = next(iter(views.values()))
    fields = (
        (first.label, f"{first.source}: a text model"),
        (larger, f"{views[larger].source}: a language model and other parts"),
        ("needed", "the model with more parts first: the merged model gets its class and its other parts"),
    )
    fix = f"name {views[larger].source} first; t then counts from it: use 1 - t"
    return Problem(MismatchError, "a text model comes before a model with more parts", fields, fix)


def other_parts(
    views: Mapping[str, View], by_label: Mapping[str, Mapping[str, Source]]
) -> tuple[frozenset[str], list[str]]:
    """Returns the first model's tensors outside its language model, if another model is a text model.

    Args:
        views: The models by label.
        by_label: Their tensors under the first model's names.

    Returns:
        The names, and a remark.
    """
    (first, of_first), *others = by_label.items()
    texts = [label for label, _ in others if not is_larger(views[label].config)]
    if not is_larger(views[first].config) or not texts:
        return frozenset(), []
    _, embedding = ends({name: None for label in texts for name in by_label[label]})
    if embedding is None:
        return frozenset(), []
    start = embedding.rpartition("embed_tokens")[0]
    outside = [name for name in of_first if not name.startswith(start) and not is_of_head(name)]
    alone = [name for name in outside if any(name not in by_label[label] for label in texts)]
    if not alone:
        return frozenset(), []
    names = " and ".join(views[label].source for label in texts)
    remark = (
        f"{names}: a text model, merged into the language model of {views[first].source}, whose other parts"
    )
    return frozenset(alone), [f"{remark} are copied: {len(alone)} tensors, such as {listed(alone, 2)}"]
