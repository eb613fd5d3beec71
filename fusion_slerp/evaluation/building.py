"""A merged model as an object, built from tensors in memory.

Where a model says that it came from (`config._name_or_path`), trainers load it again: DPO trainers take their
reference model from there. So a merged model names its own folder, or nothing, and never a source model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
)

from fusion_slerp.output.side_files import write_side_files
from fusion_slerp.planning.child_config import GENERATION_CONFIG
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.planning.side_files import side_files
from fusion_slerp.vocabulary.child_tokenizer import ChildTokenizer

AUTOMATIC = (AutoModelForCausalLM, AutoModel, AutoModelForImageTextToText)
"""Loaders that choose the model's class by its config."""

TOKENIZER = "_fusion_slerp_tokenizer"
"""The attribute of a model that has no folder of its own: which tokenizer belongs to it."""


def build_model(
    plan: MergePlan,
    state_dict: dict[str, Tensor],
    loader: Any = AutoModelForCausalLM,
    load_kwargs: Mapping[str, Any] | None = None,
) -> tuple[nn.Module, list[str]]:
    """Builds the model of a merge into memory.

    Takes the way of transformers' own loading, with its renaming and fusing of weights. Where it changes
    nothing, the model's parameters are the tensors of the state dict, not copies.

    Args:
        plan: What was merged; gives the config, the generation config and the tokenizer.
        state_dict: The merged tensors under the names of the files.
        loader: The class that loads the model.
        load_kwargs: Its arguments.

    Returns:
        The model, and the weights that its class has and the merged tensors lack.
    """
    kwargs = dict(load_kwargs or {})
    # False unless the user says so: without it, transformers would ask on the terminal.
    trust = {"trust_remote_code": bool(kwargs.pop("trust_remote_code", False))}
    with TemporaryDirectory() as folder:  # transformers reads configs, and the code they name, from files
        write_beside(plan, Path(folder))
        config = AutoConfig.from_pretrained(folder, **trust)
        model_class = loader
        if loader in AUTOMATIC:
            with torch.device("meta"):
                model_class = type(loader.from_config(config, **trust))
        model, info = model_class.from_pretrained(
            None, config=config, state_dict=state_dict, output_loading_info=True, **kwargs
        )
        if GENERATION_CONFIG in plan.configs:
            model.generation_config = GenerationConfig.from_pretrained(folder)
    name_origin(model, "")
    setattr(model, TOKENIZER, replace(plan.tokenizer, rows=None))  # a model may be copied and saved
    return model, sorted(info["missing_keys"])


def write_beside(plan: MergePlan, folder: Path) -> None:
    """Writes the merged model's configs and tokenizer files to a folder."""
    write_side_files(side_files(next(iter(plan.parents.values())), plan.tokenizer, plan.configs), folder)


def name_origin(model: Any, origin: str) -> None:
    """Sets where the model says that it came from: its own folder, or an empty string."""
    config = getattr(model, "config", None)
    parts = [getattr(config, name, None) for name in getattr(config, "sub_configs", {})]
    configs: list[Any] = [config, getattr(model, "generation_config", None), *parts]
    for each in configs:
        if hasattr(each, "_name_or_path"):
            each._name_or_path = origin
    for part in model.modules():
        if isinstance(getattr(part, "name_or_path", None), str):
            part.name_or_path = origin


def with_tokenizer_of(model: nn.Module, folder: Path) -> None:
    """Notes that the model has the tokens of a folder's tokenizer."""
    setattr(model, TOKENIZER, ChildTokenizer(folder, None, None))


def tokenizer_of(model: Any) -> Any:
    """Returns the tokenizer of a merged model that is only in memory; None for any other model."""
    noted: ChildTokenizer | None = getattr(model, TOKENIZER, None)
    if noted is None or not noted.files:
        return None
    if not noted.written:
        return AutoTokenizer.from_pretrained(noted.folder)
    with TemporaryDirectory() as folder:
        write_side_files(noted.files, Path(folder))
        model.config.save_pretrained(folder)  # some tokenizers are chosen by the model's type
        return AutoTokenizer.from_pretrained(folder)
