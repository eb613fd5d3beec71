"""Loads the models and tokenizers that are evaluated along with the merged model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from fusion_slerp.errors import CheckpointError, Problem, listed
from fusion_slerp.evaluation.settings import located
from fusion_slerp.sources.opening import resolve
from fusion_slerp.vocabulary.child_tokenizer import tokenizer_files

PLAIN_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def open_tokenizer(source: str) -> Any:
    """Returns the tokenizer of a folder or Hub id."""
    return AutoTokenizer.from_pretrained(_folder(source, weights=False))


def own_tokenizer(source: str) -> Any:
    """Returns the tokenizer in a model's folder, or None if there is none."""
    folder = _folder(source, weights=False)
    return AutoTokenizer.from_pretrained(folder) if tokenizer_files(folder) else None


def load_config(source: str) -> Any:
    """Returns the transformers config of a model."""
    return AutoConfig.from_pretrained(_folder(source, weights=False))


def _folder(source: str, weights: bool) -> Path:
    # Links may lead anywhere: nothing that is evaluated is copied.
    return resolve(located(source) or source, weights, follow_links=True)[0]


def weights_dtype(model: nn.Module) -> torch.dtype | None:
    """Returns the type of most of a model's weights that are not quantised; None if all are."""
    counts: Counter[torch.dtype] = Counter()
    for parameter in model.parameters():
        if parameter.dtype in PLAIN_DTYPES:
            counts[parameter.dtype] += parameter.numel()
    return max(counts, key=counts.__getitem__, default=None)


def load_model(source: str, dtype: torch.dtype | None = None) -> Any:
    """Returns the model in a type, by default its own.

    Models are compared in one type: rounding alone changes a loss.

    Raises:
        CheckpointError: There is no such model; or its files lack weights, which transformers would fill with
            random numbers.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        _folder(source, weights=True), dtype=dtype or "auto", output_loading_info=True
    )
    model, loading = loaded
    if missing := sorted(loading["missing_keys"]):
        fields = (("source", source), ("missing", listed(missing)))
        fix = "use a folder that contains the whole model"
        raise Problem(CheckpointError, "a model lacks weights", fields, fix).error()
    return model
