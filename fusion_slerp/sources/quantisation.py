"""Whether weights are quantised: by the config, at every level, and by the tensors themselves.

A quantised weight is a tensor of codes and, next to it, one of scales. Codes that two models share would be
copied and their scales interpolated, so that the merged model had the weights of neither. Configs do not
always tell: older libraries described the quantisation in a file of its own, or not at all.

Source: the names that these libraries write, from their documentation and their loaders in transformers
(src/transformers/quantizers): GPTQ and AWQ (qweight, scales, qzeros, g_idx), compressed-tensors
(weight_packed, weight_scale), bitsandbytes (weight with SCB, or with weight.absmax and weight.quant_map),
fp8 (weight_scale_inv), MXFP4 (gate_up_proj_blocks, gate_up_proj_scales), BitNet and EETQ (weight,
weight_scale), HQQ (W_q, scale, zero), AQLM (codes, codebooks, scales), ExLlama (q_weight, q_scale; trellis,
suh, svh), MLX (weight, scales, biases).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fusion_slerp.dtypes import EXACT_COPY_CODES, INTEGER_CODES
from fusion_slerp.errors import Problem
from fusion_slerp.sources.conversions import Quantised, quantised
from fusion_slerp.sources.header import TensorEntry

CONFIG_KEYS = ("quantization_config", "compression_config")

CODES = re.compile(r"(?i)weight|blocks$|packed$|codes$|trellis$|^w_q$|idxs$|qdata$|^_data$")
"""Names of tensors of codes, without their modules'."""

SCALES = re.compile(r"(?i)scale|absmax|^scb$|zeros?$|zero_point|quant_map|quant_state|g_idx|^s[uv]h?$")
"""Names of tensors that give codes their meaning."""


def quantisation(
    config_file: Path,
    config: Mapping[str, Any],
    tensors: Collection[TensorEntry],
    source: str | Path | None = None,
) -> Problem | None:
    """Returns the problem with quantised weights; None if neither config nor tensors have any.

    Integers without a scale next to them are no sign: buffers of positions or masks are integers as well.

    Args:
        config_file: The model's config.json.
        config: Its content.
        tensors: All tensors of the model, as far as they can be read.
        source: The Hub id from which the suggested command loads the model; default: the config's folder.
    """
    key, value = next(stated(config), (None, None))
    special = [entry for entry in tensors if not entry.dtype.word]
    found = [
        *(entry for entry in special if entry.dtype.code not in EXACT_COPY_CODES),
        *_codes_with_scales(special, tensors),
    ]
    if key is None and not found:
        return None
    names = [f"{entry.name} ({entry.dtype.code})" for entry in found]
    file = found[0].file if found else None
    method = value.get("quant_method", "unknown") if isinstance(value, dict) else "unknown"
    by_tensors = Quantised(names, file, bool(tensors) and not found)
    model = config_file.parent if source is None else source
    return quantised(config_file, (key, method) if key else None, by_tensors, model)


def stated(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields what a config and all configs in it say of quantisation, outermost first.

    Args:
        config: The config.
        path: What precedes its keys: those of the configs around it, joined by dots.

    Yields:
        The key, with the keys around it, and its value, which is not None.
    """
    if isinstance(config, list):
        for i, each in enumerate(config):
            yield from stated(each, f"{path}{i}.")
    if not isinstance(config, dict):
        return
    yield from ((path + key, config[key]) for key in CONFIG_KEYS if config.get(key) is not None)
    for key, value in config.items():
        if key not in CONFIG_KEYS:
            yield from stated(value, f"{path}{key}.")


def _codes_with_scales(special: Iterable[TensorEntry], tensors: Iterable[TensorEntry]) -> list[TensorEntry]:
    """Matrices of integers that have scales next to them."""
    integers = [entry for entry in special if entry.dtype.code in INTEGER_CODES and len(entry.shape) > 1]
    if not integers:
        return []
    beside: dict[str, list[str]] = {}
    for entry in tensors:
        module, _, own = entry.name.rpartition(".")
        if SCALES.search(own):
            beside.setdefault(module, []).append(own)
    return [entry for entry in integers if _has_scales(entry.name, beside)]


def _has_scales(name: str, beside: Mapping[str, list[str]]) -> bool:
    module, _, own = name.rpartition(".")
    if SCALES.search(own):
        return False
    if name in beside:  # names within its own name, such as weight.absmax
        return True
    scales = beside.get(module, ())
    return bool(scales) if CODES.search(own) else any(scale.startswith(own) for scale in scales)
