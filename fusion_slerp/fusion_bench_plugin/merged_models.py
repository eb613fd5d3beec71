"""The merged model as the pool would load it: from its folder, or built from tensors in memory."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fusion_slerp.errors import CheckpointError, OutputError, Problem, listed
from fusion_slerp.evaluation.building import build_model
from fusion_slerp.fusion_bench_plugin.loaders import PATH
from fusion_slerp.fusion_bench_plugin.pool_models import PoolModel
from fusion_slerp.planning.plan import MergePlan


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
    model, info = like.loader.from_pretrained(folder, output_loading_info=True, **like.load_kwargs)
    return complete(model, sorted(info["missing_keys"]), like)


def model_from_state_dict(a: PoolModel, plan: MergePlan, state_dict: dict[str, Tensor]) -> nn.Module:
    """Builds the model of a merge into memory; see `build_model`.

    Args:
        a: The pool's first model, with the class and the arguments for loading.
        plan: What was merged.
        state_dict: The merged tensors under the names of the files.

    Raises:
        CheckpointError: The class has weights that the merged tensors lack.
    """
    return complete(*build_model(plan, state_dict, a.loader, a.load_kwargs), a)


def complete(model: Any, missing: Sequence[str], like: PoolModel) -> Any:
    """Returns the model, if none of its weights is one that transformers made up."""
    if missing:
        fields = (("missing", listed(missing, 5)),)
        entry = f"{{_target_: transformers.AutoModel, {PATH}: {like.source}}}"
        fix = f"use {shlex.quote(f'modelpool.models.{like.name}={entry}')}"
        headline = f"the merged model lacks weights that {type(model).__name__} has"
        raise Problem(CheckpointError, headline, fields, fix).error()
    return model
