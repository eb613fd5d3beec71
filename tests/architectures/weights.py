"""The weights of a folder, and what a merge has to make of two: a float64 reference, tensor by tensor."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from tests.reference import F32, expect

Weights = Mapping[str, np.ndarray]

EXPERTS = 4
"""As `shrinking.SIZES` says. DBRX stores their matrices one below the other."""

WHOLE = "the tensor"
EXPERT = "each expert"
HALF = "each half of each expert"
OTHER_HALF = "each half of each expert, interleaved"


def weights(folder: Path) -> dict[str, np.ndarray]:
    """Returns all tensors of a folder's weight files, by name."""
    from safetensors.numpy import load_file

    found: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def is_slerp(t: float, result: np.ndarray, a: np.ndarray, b: np.ndarray) -> bool:
    """Whether each element of a float32 result is the rounded SLERP of two tensors, as one vector each."""
    flat = [np.ascontiguousarray(each, np.float64).reshape(-1) for each in (result, a, b)]
    return not expect(t, flat[1], flat[2]).misrounded(flat[0], flat[1], flat[2], F32).any()


def unit_of(t: float, result: np.ndarray, a: np.ndarray, b: np.ndarray) -> str | None:
    """Returns the parts of a tensor that have an angle of their own; None if it is no SLERP of any."""
    if is_slerp(t, result, a, b):
        return WHOLE
    for name, parts in _units(result.shape):
        if all(is_slerp(t, result[part], a[part], b[part]) for part in parts):
            return name
    return None


Part = tuple[int | slice, ...]


def _units(shape: tuple[int, ...]) -> Iterator[tuple[str, list[Part]]]:
    """The ways to divide a tensor that holds all experts."""
    if len(shape) < 2:
        return
    yield EXPERT, [(expert,) for expert in range(shape[0])]
    rows = shape[0] // EXPERTS
    yield EXPERT, [(slice(expert * rows, (expert + 1) * rows),) for expert in range(EXPERTS)]
    for axis in range(1, len(shape)):
        half, before = shape[axis] // 2, (slice(None),) * (axis - 1)
        halves = (slice(0, half), slice(half, None))
        yield HALF, [(expert, *before, part) for expert in range(shape[0]) for part in halves]
        others = (slice(0, None, 2), slice(1, None, 2))
        yield OTHER_HALF, [(expert, *before, part) for expert in range(shape[0]) for part in others]
