"""Numbers for the parents, computed from integers, so that they do not depend on library versions.

numpy guarantees its random bits, but not the results of `standard_normal`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from zlib import crc32

import numpy as np

CODES = ("BF16", "F16", "F32", "F64")
"""The types that are merged, by their names in headers of safetensors files."""

WORDS = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8", "I64": "<i8", "I32": "<i4", "BOOL": "?"}


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor as a file holds it.

    Attributes:
        code: Its type, by its name in headers.
        words: Its elements; those of bfloat16 as uint16.
    """

    code: str
    words: np.ndarray


Weights = Mapping[str, Weight]


def bits(seed: int, n: int) -> np.ndarray:
    """A number of uint64 of SplitMix64 (Steele, Lea, Flood 2014): hashes of their index and the seed."""
    with np.errstate(over="ignore"):
        x = (np.arange(1, n + 1, dtype=np.uint64) + np.uint64(seed << 32)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(seed: int, *shape: int) -> np.ndarray:
    """Float64 values in [-1, 1) with all their digits."""
    numbers = (bits(seed, prod(shape)) >> np.uint64(11)).astype(np.float64)
    return (numbers * 2.0**-52 - 1.0).reshape(shape)


def weight(values: np.ndarray, code: str = "F32") -> Weight:
    """Values rounded to a type."""
    if code != "BF16":
        return Weight(code, np.ascontiguousarray(values).astype(WORDS[code]))
    whole = np.ascontiguousarray(values, "<f4").view("<u4")
    odd = (whole >> np.uint32(16)) & np.uint32(1)
    return Weight(code, ((whole + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype("<u2"))


def random_weight(seed: int, name: str, shape: tuple[int, ...], code: str = "F32") -> Weight:
    """A distinct tensor for every seed and name, with values like those of a model."""
    return weight(uniform(seed * 1_000_003 % 99_991 + crc32(name.encode()), *shape) / 16, code)


def random_weights(seed: int, shapes: Mapping[str, tuple[int, ...]], code: str = "F32") -> dict[str, Weight]:
    """One such tensor for every name."""
    return {name: random_weight(seed, name, shape, code) for name, shape in shapes.items()}


def llama(
    seed: int, code: str = "F32", n_layers: int = 2, rows: int = 6, norms: str | None = None
) -> dict[str, Weight]:
    """All tensors of a small Llama; `norms` is the type of its vectors, if it differs."""
    width, inner = 8, 12
    layer = {
        "input_layernorm": (width,),
        "mlp.down_proj": (width, inner),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "post_attention_layernorm": (width,),
        "self_attn.k_proj": (width, width),
        "self_attn.o_proj": (width, width),
        "self_attn.q_proj": (width, width),
        "self_attn.v_proj": (width, width),
    }
    shapes: dict[str, tuple[int, ...]] = {"lm_head": (rows, width), "model.embed_tokens": (rows, width)}
    shapes |= {f"model.layers.{i}.{part}": shape for i in range(n_layers) for part, shape in layer.items()}
    shapes["model.norm"] = (width,)
    return {
        f"{name}.weight": random_weight(seed, name, shape, norms or code if len(shape) == 1 else code)
        for name, shape in shapes.items()
    }
