"""Reads a tensor's name: its layer and depth, and whether it belongs to an embedding, a head or a norm."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable

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
    """Returns the depth of every tensor in [0, 1], within its own stack; 0 outside the layers."""
    layers = {name: layer_of(name) for name in names}
    n_layers: dict[str, int] = {}
    for layer in layers.values():
        if layer is not None:
            n_layers[layer[0]] = max(n_layers.get(layer[0], 0), layer[1] + 1)
    return {
        name: 0.0 if layer is None else depth_of(layer[1], n_layers[layer[0]])
        for name, layer in layers.items()
    }


EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings")
"""Names of the input embedding's module, by architecture."""

HEADS = ("lm_head", "embed_out", "output")
"""Names of the output head's module, at the top level of the model."""

BEFORE_LAYERS = (*EMBEDDINGS, "wpe", "embed_positions")
"""Modules outside the layers that come before them."""

PREFIXES = ("model.", "transformer.", "base_model.model.")
"""Prefixes that transformers adds or omits, depending on the class that saved the model."""

_OF_HEAD = frozenset(f"{head}.{kind}" for head in HEADS for kind in ("weight", "bias"))
_OF_EMBEDDING = tuple(f"{module}.weight" for module in EMBEDDINGS)

MODULES = ("attention", "mlp", "norm", "other")
_PARTS = {
    "norm": ("norm", "ln_", "ln1", "ln2"),  # before attention: `post_attention_layernorm`
    "attention": ("attn", "attention", "mixer"),
    "mlp": ("mlp", "ffn", "feed_forward", "moe", "expert"),
}


def follows_vocabulary(name: str) -> bool:
    """Whether each row of a tensor belongs to a token: in an embedding, a head, or a head's bias."""
    return name in _OF_HEAD or is_embedding(name)


def head_of(names: Container[str]) -> str | None:
    """Returns the name of the output head's weight, or None."""
    return next((f"{head}.weight" for head in HEADS if f"{head}.weight" in names), None)


def embedding_of(names: Iterable[str]) -> str | None:
    """Returns the name of the input embedding; None unless there is exactly one."""
    embeddings = [name for name in names if is_embedding(name)]
    return embeddings[0] if len(embeddings) == 1 else None


def is_embedding(name: str) -> bool:
    """Whether a tensor is the weight of an input embedding."""
    return name.endswith(_OF_EMBEDDING) and name.split(".")[-2] in EMBEDDINGS


def is_of_head(name: str) -> bool:
    """Whether a tensor belongs to the output head."""
    return name.split(".")[0] in HEADS


def is_before_layers(name: str) -> bool:
    """Whether a tensor outside the layers comes before them."""
    return any(part in BEFORE_LAYERS for part in name.split("."))


def module_of(name: str) -> str:
    """Returns the one of `MODULES` that a tensor belongs to."""
    parts = name.lower().split(".")
    own = parts[-2] if len(parts) > 1 else parts[-1]
    if any(part in own for part in _PARTS["norm"]):
        return "norm"
    kinds = (kind for kind in ("attention", "mlp") for p in parts for word in _PARTS[kind] if word in p)
    return next(kinds, "other")
