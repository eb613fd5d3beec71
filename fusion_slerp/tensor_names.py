"""Which layer of a model a tensor belongs to, and how deep it lies, from the names alone."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LAYER = re.compile(r"(?:^|(?<=\.))(\d{1,9})(?=\.)")
"""The first part of a name that is a number: `model.layers.3.mlp...`, `transformer.h.3.attn...`.

One of thousands of digits, which Python does not read, is no layer.
"""


def layer_of(name: str) -> tuple[str, int] | None:
    """Returns the stack that a tensor's layer is in (the name before the number) and the layer's index."""
    found = _LAYER.search(name)
    return (name[: found.start()], int(found[1])) if found else None


def renamed(name: str, layer: int) -> str:
    """Returns the name of the same tensor in another layer of its stack."""
    return _LAYER.sub(str(layer), name, count=1)


def depth_of(index: int, n: int) -> float:
    """Returns how deep a layer lies among `n`: 0 for the first, 1 for the last, and 1 for an only one."""
    return index / (n - 1) if n > 1 else 1.0


def depths(names: Iterable[str]) -> dict[str, float]:
    """Returns the depth of every tensor in [0, 1]; 0 outside the layers. Each stack counts for itself."""
    names = list(names)
    found = {name: layer_of(name) for name in names}
    n_layers: dict[str, int] = {}
    for layer in found.values():
        if layer is not None:
            n_layers[layer[0]] = max(n_layers.get(layer[0], 0), layer[1] + 1)
    return {
        name: 0.0 if layer is None else depth_of(layer[1], n_layers[layer[0]])
        for name, layer in found.items()
    }
