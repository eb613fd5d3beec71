"""The kernels alone, on one core: gigabytes of input per second for every type, and mixed.

python benchmarks/kernel_rates.py
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np

from fusion_slerp import kernels
from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.dtypes import BF16, F16, F32, F64, DType

PAIRS = [(BF16, BF16), (F16, F16), (F32, F32), (F64, F64), (BF16, F32), (F32, F16)]


def words(dtype: DType, seed: int) -> np.ndarray:
    """One chunk of values like a model's weights."""
    values = np.random.default_rng(seed).normal(0, 0.02, CHUNK_ELEMENTS)
    out = np.empty(CHUNK_ELEMENTS, dtype.word)
    kernels.convert(values, out)
    return out


def best_rate(run: Callable[[], object], nbytes: int, repetitions: int = 30) -> float:
    """GB/s of the fastest repetition."""
    times = []
    for _ in range(repetitions):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return nbytes / min(times) / 1e9


def kernel_rates() -> list[dict[str, object]]:
    """One row per pair of types; the child has a's type."""
    rows: list[dict[str, object]] = []
    for type_a, type_b in PAIRS:
        a, b = words(type_a, 1), words(type_b, 2)
        out = np.empty_like(a)
        nbytes = a.nbytes + b.nbytes
        rows.append(
            {
                "a": type_a.name,
                "b": type_b.name,
                "measure_gb_s": best_rate(lambda a=a, b=b: kernels.gram((a, b)), nbytes),
                "combine_gb_s": best_rate(
                    lambda a=a, b=b, o=out: kernels.weighted_sum((a, b), (0.4, 0.7), o), nbytes
                ),
            }
        )
    return rows


if __name__ == "__main__":
    print(json.dumps(kernel_rates()))
