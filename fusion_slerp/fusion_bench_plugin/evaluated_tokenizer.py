"""The tokenizer of a merged model that a task pool evaluates."""

from __future__ import annotations

import os
from typing import Any

from transformers import AutoTokenizer

from fusion_slerp.evaluation.building import tokenizer_of
from fusion_slerp.fusion_bench_plugin.host_values import load_tokenizer


def merged_tokenizer(model: Any, setting: Any, program: Any) -> Any:
    """Returns the tokenizer that is set, else the model pool's, else the one next to the model.

    Args:
        model: The merged model.
        setting: The task pool's setting: folder, hub id, mapping with `_target_`, tokenizer, or None.
        program: The run of FusionBench, which may have a model pool; None outside of one.

    Raises:
        LookupError: None of the three has a tokenizer.
    """
    if setting is not None:
        return load_tokenizer(setting)
    pool = getattr(program, "modelpool", None)
    if pool is not None and getattr(pool, "tokenizer", None) is not None:
        named = isinstance(pool.tokenizer, str)  # FusionBench would not take an `id@revision`
        return load_tokenizer(pool.tokenizer) if named else pool.load_tokenizer()
    if (tokenizer := tokenizer_of(model)) is not None:
        return tokenizer
    folder = getattr(model.config, "_name_or_path", None)
    if folder and os.path.isdir(folder):
        return AutoTokenizer.from_pretrained(folder)
    raise LookupError("the model pool has no tokenizer, and the model was not loaded from a folder")
