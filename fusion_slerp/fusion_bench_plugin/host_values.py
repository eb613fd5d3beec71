"""What a FusionBench configuration holds, as plain values and absolute paths."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from fusion_bench.utils.instantiate_utils import instantiate
from hydra.utils import to_absolute_path
from omegaconf import OmegaConf

from fusion_slerp.evaluation.models import open_tokenizer


def plain(value: Any) -> Any:
    """The value without OmegaConf's containers, interpolations resolved."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def absolute(path: Any) -> Any:
    """A path from the folder that the program was started in, which Hydra may have left; others unchanged."""
    return to_absolute_path(os.path.expanduser(path)) if isinstance(path, (str, os.PathLike)) else path


def source_of(value: Any) -> Any:
    """The absolute path of a folder that is there, also in an entry of a model pool; others unchanged."""
    if isinstance(value, Mapping) and "pretrained_model_name_or_path" in value:
        key = "pretrained_model_name_or_path"
        return {**value, key: source_of(value[key])}
    folder = absolute(value)
    return folder if isinstance(value, str) and os.path.isdir(folder) else value


def by_name(change: Any, values: Any) -> Any:
    """A mapping with its values changed; what is none is left to the checks."""
    values = plain(values)
    return {name: change(each) for name, each in values.items()} if isinstance(values, Mapping) else values


def load_tokenizer(source: Any) -> Any:
    """Returns the tokenizer of a folder, a hub id or a mapping with `_target_`; or the one given."""
    if isinstance(source, str):
        return open_tokenizer(source_of(source))
    return instantiate(source) if isinstance(plain(source), dict) else source
