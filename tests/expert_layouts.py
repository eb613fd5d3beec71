"""Writes the same experts in every layout: plain numpy, nothing of fusion_slerp."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from tests.models import write_checkpoint

EXPERTS, INNER, HIDDEN = 3, 6, 4
MODULE = "model.layers.{}.mlp.experts"

Matrices = Mapping[str, Sequence[np.ndarray]]
"""gate, up (inner by hidden), down (hidden by inner) and their biases, each of every expert."""

Tensors = dict[str, np.ndarray]


def experts(seed: int, dtype: str = "float32", inner: int = INNER, hidden: int = HIDDEN) -> Matrices:
    """Returns random matrices of one layer; expert 1 of every seed is the same."""
    shapes = {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    own, common = np.random.default_rng(seed), np.random.default_rng(99)
    matrices = {}
    for name, shape in shapes.items():
        for kind, of in ((name, shape), (f"{name}_bias", shape[:1])):
            matrices[kind] = [
                (common if e == 1 else own).standard_normal(of).astype(dtype) for e in range(EXPERTS)
            ]
    return matrices


def separate(m: Matrices, module: str) -> Tensors:
    return _of_each(m, module, {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"})


def separate_w123(m: Matrices, module: str) -> Tensors:
    return _of_each(m, module, {"gate": "w1", "up": "w3", "down": "w2"})


def _of_each(m: Matrices, module: str, names: Mapping[str, str]) -> Tensors:
    return {f"{module}.{e}.{names[n]}.weight": m[n][e] for e in range(EXPERTS) for n in names}


def separate_with_biases(m: Matrices, module: str) -> Tensors:
    biases = {
        f"{module}.{e}.{name}_proj.bias": m[f"{name}_bias"][e]
        for e in range(EXPERTS)
        for name in ("gate", "up", "down")
    }
    return separate(m, module) | biases


def rows(m: Matrices, module: str) -> Tensors:
    both = [np.concatenate(pair) for pair in zip(m["gate"], m["up"], strict=True)]
    return {f"{module}.gate_up_proj": np.stack(both), f"{module}.down_proj": np.stack(m["down"])}


def transposed(m: Matrices, module: str) -> Tensors:
    return {name: each.transpose(0, 2, 1) for name, each in rows(m, module).items()}


def interleaved(m: Matrices, module: str) -> Tensors:
    """As gpt-oss: transposed, columns of gate and up in turn, with biases."""
    gate_up, bias = _in_turn(m["gate"], m["up"]), _in_turn(m["gate_bias"], m["up_bias"])
    return {
        f"{module}.gate_up_proj": gate_up.transpose(0, 2, 1),
        f"{module}.gate_up_proj_bias": bias,
        f"{module}.down_proj": np.stack([each.T for each in m["down"]]),
        f"{module}.down_proj_bias": np.stack(m["down_bias"]),
    }


def rows_in_turn(m: Matrices, module: str) -> Tensors:
    return {f"{module}.w13_weight": _in_turn(m["gate"], m["up"]), f"{module}.w2_weight": np.stack(m["down"])}


def _in_turn(gate: Sequence[np.ndarray], up: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of both, one by one."""
    pairs = zip(gate, up, strict=True)
    return np.stack([np.stack(pair, axis=1).reshape(-1, *pair[0].shape[1:]) for pair in pairs])


def flat(m: Matrices, module: str) -> Tensors:
    """As DBRX: one below the other, down transposed."""
    down = [each.T for each in m["down"]]
    named = {"w1": m["gate"], "v1": m["up"], "w2": down}
    return {f"{module}.mlp.{name}": np.concatenate(each) for name, each in named.items()}


Layout = Callable[[Matrices, str], Tensors]

LAYOUTS: dict[str, list[Layout]] = {
    "qwen3_moe": [separate, rows],
    "mixtral": [separate_w123, rows],
    "qwen3_vl_moe_text": [separate, rows, transposed],
    "llama4_text": [separate, transposed],
    "gpt_oss": [separate_with_biases, interleaved],
    "inkling_text": [separate, rows, rows_in_turn],
    "dbrx": [separate, flat],
}
"""By model type: the layouts of its experts."""

CONFIG = {"num_local_experts": EXPERTS, "hidden_size": HIDDEN, "num_hidden_layers": 2}


def write_experts(
    folder: Path, seed: int, model_type: str, layout: Layout, dtype: str = "float32", **sizes: int
) -> Path:
    """Writes a checkpoint of two layers with experts and a router each; returns its folder."""
    tensors: Tensors = {}
    for layer in range(2):
        router = np.random.default_rng(seed + layer).standard_normal((EXPERTS, HIDDEN)).astype(dtype)
        tensors[f"model.layers.{layer}.mlp.gate.weight"] = router
        tensors |= layout(experts(seed + 10 * layer, dtype, **sizes), MODULE.format(layer))
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    config = CONFIG | {"model_type": model_type, "architectures": None}
    return write_checkpoint(folder, tensors=tensors, config=config, tokens=None)
