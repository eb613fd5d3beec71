"""Cases whose child or parents are in memory: FusionBench's method, and single tensors."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from tests.models import TOKENS
from tests.same_bytes.case import Case
from tests.same_bytes.entries import by_method, by_method_of_loaded, by_method_of_modules, by_slerp
from tests.same_bytes.of_weights import BY_FILTER, LONG, directions
from tests.same_bytes.parents import Make, as_torch, both
from tests.same_bytes.weights import CODES, llama, uniform, weight

REAL = {"num_hidden_layers": 3, "vocab_size": len(TOKENS), "torch_dtype": "bfloat16", "rope_theta": 10000.0}
MODELS: Make = both(partial(llama, code="BF16", n_layers=3), config=REAL)
"""A config that transformers can load."""


def modules(folder: Path) -> tuple[Any, Any]:
    """Two modules with parameters, buffers and an integer, as a script would build them."""
    import torch

    made = []
    for seed in (1, 2):
        module = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7), torch.nn.Linear(7, 3))
        with torch.no_grad():
            for i, tensor in enumerate(module.state_dict().values()):
                if tensor.is_floating_point():
                    tensor.copy_(as_torch(weight(uniform(seed * 50 + i, *tensor.shape))))
        made.append(module)
    return made[0], made[1]


def arrays(folder: Path) -> dict[str, tuple[Any, Any]]:
    """numpy arrays of three types, of all pairs of them, and not contiguous."""
    names = ("float16", "float32", "float64")
    pairs = {
        f"{x}, {y}": (uniform(1, 6, 7).astype(x), uniform(2, 6, 7).astype(y))
        for x, y in product(names, names)
    }
    turned = uniform(3, 40, 30).T, uniform(4, 60, 40)[::2]
    return pairs | {"turned": turned, "empty": (np.empty((0, 3)), np.empty((0, 3)))}


def tensors(folder: Path) -> dict[str, tuple[Any, Any]]:
    """torch tensors of all pairs of types, and views."""
    pairs = {
        f"{x}, {y}": (as_torch(weight(uniform(1, 9, 5), x)), as_torch(weight(uniform(2, 9, 5), y)))
        for x, y in product(CODES, CODES)
    }
    turned = as_torch(weight(uniform(3, 4, 40), "BF16")).t(), as_torch(weight(uniform(4, 40, 8)))[:, ::2]
    return pairs | {"turned": turned}


def odd_directions(folder: Path) -> dict[str, tuple[Any, Any]]:
    """Parallel, opposite and zero vectors."""
    a, b = directions(1, "F64"), directions(2, "F64")
    return {name: (a[name].words, b[name].words) for name in a}


def long_tensors(folder: Path) -> dict[str, tuple[Any, Any]]:
    """Several chunks."""
    return {"long": (as_torch(weight(uniform(1, LONG), "BF16")), as_torch(weight(uniform(2, LONG), "F32")))}


OF_MEMORY = {
    "method: streamed": Case(MODELS, {"t": 0.3}, by_method),
    "method: streamed, filters, columns": Case(MODELS, {"t": BY_FILTER, "granularity": "column"}, by_method),
    "method: streamed, float32": Case(MODELS, {"t": 0.3, "dtype": "float32"}, by_method),
    "method: loaded and saved": Case(MODELS, {"t": [0.2, 0.7]}, by_method_of_loaded),
    "method: loaded and saved, float16": Case(MODELS, {"t": 0.3, "dtype": "float16"}, by_method_of_loaded),
    "method: modules": Case(modules, {"t": 0.3}, by_method_of_modules),
    "method: modules by name": Case(
        modules, {"t": [{"filter": "bias", "value": 1}, {"value": 0.6}]}, by_method_of_modules
    ),
    "slerp: arrays": Case(arrays, {"t": 0.3}, by_slerp),
    "slerp: arrays, t = 1": Case(arrays, {"t": 1}, by_slerp),
    "slerp: tensors": Case(tensors, {"t": 0.3}, by_slerp),
    "slerp: tensors, t = 0": Case(tensors, {"t": 0}, by_slerp),
    "slerp: directions": Case(odd_directions, {"t": 0.3}, by_slerp),
    "slerp: directions, chords": Case(odd_directions, {"t": 0.3, "DOT_THRESHOLD": 1.0}, by_slerp),
    "slerp: long": Case(long_tensors, {"t": 0.7}, by_slerp),
}
