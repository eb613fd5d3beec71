"""Three models of three layers, the weights that they are merged with, and the exact sums."""

from fractions import Fraction
from math import fsum
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from tests.models import tiny_tensors
from tests.reference import F32, round_exactly

N_LAYERS = 3
UP = "model.layers.{}.mlp.up_proj.weight"
WEIGHT = {"a": [0.5, 0.25], "b": 0.3, "c": [{"filter": "norm", "value": 0.7}, {"value": [0, 1]}]}
"""The weight of each model, over depth."""

LINEAR = {"method": "linear", "weight": WEIGHT}


def tensors_of(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    layers = {UP.format(i): rng.standard_normal((8, 4)).astype("float32") for i in range(N_LAYERS)}
    return tiny_tensors(seed) | layers | {"model.ids": np.arange(3)}


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a model."""
    return {name: x for file in sorted(folder.glob("*.safetensors")) for name, x in load_file(file).items()}


def summed(vectors: list[np.ndarray], weights: list[float], normalize: bool = True) -> np.ndarray:
    """The exact sum of weighted float32 tensors, rounded once; the weights are divided in float64."""
    total = fsum(weights) if normalize else 1.0
    shares = [Fraction(weight / total) for weight in weights]
    exact = (
        sum(s * Fraction(float(x)) for s, x in zip(shares, row, strict=True))
        for row in zip(*(vector.reshape(-1) for vector in vectors), strict=True)
    )
    return np.array([round_exactly(each, F32) for each in exact]).reshape(vectors[0].shape)
