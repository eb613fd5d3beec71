"""Every class of the installed transformers that generates text, built without memory for its weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

TASKS = ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "SEQ_TO_SEQ_CAUSAL_LM", "MULTIMODAL_LM", "MASKED_LM")


@dataclass(frozen=True, slots=True)
class ModelClass:
    """A class, and what a model of it with the default config shows.

    Attributes:
        model_type: The `model_type` of its config.json.
        config_class: The class of its config.
        tying: The keys from its config to each part whose `tie_word_embeddings` decides on a head.
        strict: Patterns of tensors that stay float32 where the model is loaded as float16 or bfloat16.
        halves: Patterns of tensors that stay float32 where the model is loaded as float16.
        in_float32: Tensors, and modules of nothing else, that the model creates in float32 whatever its type;
            numbers are `*`.
    """

    model_type: str
    config_class: type[PreTrainedConfig]
    tying: tuple[tuple[str, ...], ...]
    strict: tuple[str, ...]
    halves: tuple[str, ...]
    in_float32: tuple[str, ...]


@cache
def model_classes() -> tuple[ModelClass, ...]:
    """Returns the classes of all model types, those that generate text first."""
    transformers.logging.set_verbosity_error()
    return tuple(_looked_at(model_type, name) for model_type, name in _names())


def _names() -> Iterator[tuple[str, str]]:
    seen = set()
    for task in TASKS:
        for model_type, names in getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES").items():
            for name in [names] if isinstance(names, str) else names:
                if (model_type, name) not in seen:
                    seen.add((model_type, name))
                    yield model_type, name


def _looked_at(model_type: str, name: str) -> ModelClass:
    cls = getattr(transformers, name)
    config_class = cls.config_class or CONFIG_MAPPING[model_type]
    try:
        config = config_class()
        with torch.device("meta"):
            model = cls._from_config(config, dtype=torch.bfloat16)
    except Exception:  # a default config that transformers itself cannot build
        return ModelClass(
            model_type, config_class, ((),) if cls._tied_weights_keys else (), *_patterns(cls), ()
        )
    return ModelClass(model_type, config_class, _tying(model, config), *_patterns(model), _in_float32(model))


def _patterns(model: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    strict, halves = model._keep_in_fp32_modules_strict, model._keep_in_fp32_modules
    return tuple(sorted(strict or ())), tuple(sorted(halves or ()))


def _tying(model: PreTrainedModel, config: PreTrainedConfig) -> tuple[tuple[str, ...], ...]:
    parts = {id(part): path for path, part in _parts(config)}
    deciding = {
        parts.get(id(module.config), ())
        for module in model.modules()
        if isinstance(module, PreTrainedModel)
        and module._tied_weights_keys
        and module.get_output_embeddings()
    }
    return tuple(sorted(deciding))


def _parts(config: PreTrainedConfig, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, config
    for key in type(config).sub_configs:
        part = getattr(config, key, None)
        if isinstance(part, PreTrainedConfig):
            yield from _parts(part, (*path, key))


def _in_float32(model: PreTrainedModel) -> tuple[str, ...]:
    """Names of such tensors, or of modules that hold no others."""
    names = {True: set[str](), False: set[str]()}
    for name, tensor in model.state_dict().items():
        names[tensor.dtype == torch.float32].add(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name))
    others = {start for name in names[False] for start in _starts(name)}
    return tuple(sorted({next(each for each in _starts(name) if each not in others) for name in names[True]}))


def _starts(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]
