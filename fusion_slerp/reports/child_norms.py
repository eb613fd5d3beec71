"""The norms of a merged model's own tensors: one pass over its weights, in float64."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite, sqrt

import numpy as np

from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.header import TensorEntry

CHUNK = 1 << 22
"""Elements that are read and converted at a time: 8 MB of bfloat16, 32 MB of float64."""


def child_norms(model: Checkpoint, progress: Callable[[int, int], object]) -> dict[str, float]:
    """Returns the Euclidean norm of every floating-point tensor by name, without those that are not finite.

    Args:
        model: The merged model.
        progress: Called with the bytes read and the bytes in all.

    Raises:
        OSError: A file cannot be read.
    """
    found, done, total = {}, 0, model.nbytes
    for name, entry in model.tensors.items():
        if entry.dtype.is_mergeable and entry.strides is None:
            value = _norm(entry)
            if isfinite(value):
                found[name] = value
        done += entry.nbytes
        progress(done, total)
    return found


def _norm(entry: TensorEntry) -> float:
    """The norm of one tensor; NaN if it holds one."""
    total = 0.0
    with entry.file.open("rb") as stream:
        stream.seek(entry.offset)
        for first in range(0, entry.n_elements, CHUNK):
            count = min(CHUNK, entry.n_elements - first)
            raw = stream.read(count * entry.dtype.itemsize)
            values = _decoded(raw, entry.dtype.name).astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):
                total += float(values @ values)
    return sqrt(total) if total >= 0 else total


def _decoded(raw: bytes, dtype: str) -> np.ndarray:
    """The elements of a part of a safetensors file, little endian; bfloat16 is the upper half of float32."""
    if dtype == "bfloat16":
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(raw, {"float16": "<f2", "float32": "<f4", "float64": "<f8"}[dtype])
