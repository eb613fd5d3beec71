"""The merged model as an object: loaded from its folder, or built from tensors in memory.

Where a model says that it came from (`config._name_or_path`), trainers load it again: DPO trainers take their
reference model from there. So a merged model names its own folder, or nothing, and never a source model.
"""

from __future__ import annotations

import platform
import shlex
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from fusion_slerp.errors import CheckpointError, OutputError, Problem, listed
from fusion_slerp.fusion_bench_plugin.loaders import AUTOMATIC, PATH
from fusion_slerp.fusion_bench_plugin.pool_models import PoolModel
from fusion_slerp.output.side_files import write_side_files
from fusion_slerp.planning.child_config import GENERATION_CONFIG
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.planning.side_files import side_files
from fusion_slerp.vocabulary.child_tokenizer import ChildTokenizer

TOKENIZER = "_fusion_slerp_tokenizer"
"""The attribute of a model that has no folder of its own: which tokenizer belongs to it."""


def load_model(like: PoolModel, folder: Path) -> nn.Module:
    """Loads the merged model from its folder, as the pool loads its first model.

    Raises:
        CheckpointError: The class that loads it has weights that the folder lacks.
        OutputError: The folder is not on this machine.
    """
    if not folder.is_dir():  # written by a process on another one
        fields = (("folder", folder), ("machine", platform.node()))
        fix = "use a method.model_save_path on a disk that all machines share"
        raise Problem(OutputError, "the merged model is not on this machine", fields, fix).error()
    return _complete(like.loader.from_pretrained(folder, output_loading_info=True, **like.load_kwargs), like)


def model_from_state_dict(a: PoolModel, plan: MergePlan, state_dict: dict[str, Tensor]) -> nn.Module:
    """Builds the model of a merge into memory.

    Takes the way of transformers' own loading, with its renaming and fusing of weights.

    Args:
        a: The pool's first model, with the class and the arguments for loading.
        plan: What was merged; gives the config and generation config.
        state_dict: The merged tensors under the names of the files.

    Raises:
        CheckpointError: The class has weights that the merged tensors lack.
    """
    kwargs = dict(a.load_kwargs)
    # False unless the user says so: without it, transformers would ask on the terminal.
    trust = {"trust_remote_code": bool(kwargs.pop("trust_remote_code", False))}
    with TemporaryDirectory() as folder:  # transformers reads configs, and the code they name, from files
        write_side_files(
            side_files(next(iter(plan.parents.values())), plan.tokenizer, plan.configs), Path(folder)
        )
        config = AutoConfig.from_pretrained(folder, **trust)
        model_class = a.loader
        if a.loader in AUTOMATIC:
            with torch.device("meta"):
                model_class = type(a.loader.from_config(config, **trust))
        loaded = model_class.from_pretrained(
            None, config=config, state_dict=state_dict, output_loading_info=True, **kwargs
        )
        model = _complete(loaded, a)
        if GENERATION_CONFIG in plan.configs:
            model.generation_config = GenerationConfig.from_pretrained(folder)
    name_origin(model, "")
    setattr(model, TOKENIZER, replace(plan.tokenizer, rows=None))  # a model may be copied and saved
    return model


def _complete(loaded: Any, like: PoolModel) -> Any:
    """The model, if none of its weights is one that transformers made up."""
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        fields = (("missing", listed(missing, 5)),)
        entry = f"{{_target_: transformers.AutoModel, {PATH}: {like.source}}}"
        fix = f"use {shlex.quote(f'modelpool.models.{like.name}={entry}')}"
        headline = f"the merged model lacks weights that {type(model).__name__} has"
        raise Problem(CheckpointError, headline, fields, fix).error()
    return model


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
