"""Reads a tensor's name: its layer and depth, and its kind of module."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LAYER = re.compile(r"(?:^|(?<=\.))(\d{1,9})(?=\.)")
"""The first part of a name that is a number: `model.layers.3.mlp...`, `transformer.h.3.attn...`.

A number with thousands of digits, which Python refuses to parse, is not a layer.
"""


def layer_of(name: str) -> tuple[str, int] | None:
    """Returns the stack of a tensor's layer (the name before the number) and the layer's index."""
    match = _LAYER.search(name)
    return (name[: match.start()], int(match[1])) if match else None


def renamed(name: str, layer: int) -> str:
    """Returns the name of the same tensor in another layer of its stack."""
    return _LAYER.sub(str(layer), name, count=1)


def depth_of(index: int, n: int) -> float:
    """Returns a layer's depth among `n`: 0 for the first, 1 for the last, and 1 if there is only one."""
    return index / (n - 1) if n > 1 else 1.0


def depths(names: Iterable[str]) -> dict[str, float]:
    """Returns the depth of every tensor in [0, 1], within its own stack; 0 outside the layers.

    Layers for multi-token prediction come after the last layer and have its depth.
    """
    layers = {name: layer_of(name) for name in names}
    beyond = mtp_layers(layers)
    n_layers: dict[str, int] = {}
    for layer in layers.values():
        if layer is not None and layer not in beyond:
            n_layers[layer[0]] = max(n_layers.get(layer[0], 0), layer[1] + 1)
    return {
        name: 0.0 if layer is None else min(depth_of(layer[1], n_layers.get(layer[0], 1)), 1.0)
        for name, layer in layers.items()
    }


def mtp_layers(names: Iterable[str]) -> frozenset[tuple[str, int]]:
    """Returns the layers for multi-token prediction that are numbered after a model's own, as `layer_of`.

    Source: the names of DeepSeek-V3's checkpoints, and of those that follow them.
    """
    own = (name for name in names if ".eh_proj." in name or ".shared_head." in name)
    return frozenset(layer for name in own if (layer := layer_of(name)) is not None)


OLD_BUFFERS = ("rotary_emb.inv_freq", "rotary_pos_emb.inv_freq", ".masked_bias", "embeddings.position_ids")
"""Endings of the names of buffers that older releases of transformers stored."""

OLD_MASKS = (".attn.bias", ".attention.bias")
"""Endings of the names of stored causal masks, which have four dimensions."""


def is_old_buffer(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is a buffer that older releases stored and today's compute."""
    return name.endswith(OLD_BUFFERS) or (name.endswith(OLD_MASKS) and len(shape) == 4)


MODULES = ("attention", "mlp", "norm", "other")
_PARTS = {
    "norm": ("norm", "ln_", "ln1", "ln2"),  # before attention: `post_attention_layernorm`
    "attention": ("attn", "attention", "mixer"),
    "mlp": ("mlp", "ffn", "feed_forward", "moe", "expert"),
}


def module_of(name: str) -> str:
    """Returns the one of `MODULES` that a tensor belongs to."""
    parts = name.lower().split(".")
    own = parts[-2] if len(parts) > 1 else parts[-1]
    if any(part in own for part in _PARTS["norm"]):
        return "norm"
    kinds = (kind for kind in ("attention", "mlp") for p in parts for word in _PARTS[kind] if word in p)
    return next(kinds, "other")
