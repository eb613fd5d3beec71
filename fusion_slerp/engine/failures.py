"""Faults in values that show only when the weights are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from fusion_slerp.dtypes import DType
from fusion_slerp.errors import (
    CheckpointError,
    FusionSlerpError,
    MismatchError,
    OutputError,
    Problem,
    setting,
)
from fusion_slerp.kernels import Words
from fusion_slerp.planning.plan import TensorPlan
from fusion_slerp.sources.source import Source


def not_finite(sources: Mapping[str, Source], chunks: Iterable[Words]) -> FusionSlerpError:
    """Returns the error for NaN or infinity in a weight; `chunks` are all of its words, read again."""
    n = len(sources)
    counts, firsts, start = [0] * n, [-1] * n, 0
    for chunk in chunks:
        for i, words in enumerate(chunk):
            bad = ~_finite(words)
            if bad.any() and firsts[i] < 0:
                firsts[i] = start + int(np.argmax(bad))
            counts[i] += int(np.count_nonzero(bad))
        start += chunk[0].size
    fields: list[tuple[str, object]] = [("tensor", next(iter(sources.values())).name)]
    for (label, source), count, first in zip(sources.items(), counts, firsts, strict=True):
        if count:
            fields.append((label, f"{count} of {source.n_elements} elements, first at {first}"))
            fields.append(("file", source.entries[0].file))
    fix = "use an undamaged copy of this model: such weights make every output NaN"
    return Problem(CheckpointError, "NaN or infinity in a weight", tuple(fields), fix).error()


def are_finite(words: Words) -> bool:
    """Whether no element of any source is infinite or NaN."""
    return all(bool(_finite(each).all()) for each in words)


def refuse_overflow(tensor: TensorPlan, count: int) -> None:
    """Raises OutputError if a result has elements that are not finite."""
    if not count:
        return
    name = tensor.out.dtype.name
    files = [(label, source.entries[0].file) for label, source in tensor.sources.items()]
    fields = (
        ("tensor", tensor.out.name),
        ("found", f"{count} values in one chunk that {name} cannot hold (or that are not finite)"),
        *files,
    )
    fix = overflow_fix(tensor.out.dtype)
    raise Problem(OutputError, f"overflow to infinity in {name}", fields, fix).error()


def overflow_fix(dtype: DType) -> str:
    """Returns what to do about values that are too large for a type."""
    wider = dtype.further_reaching
    if wider is None:
        return "use smaller weights: no type has a larger maximum"
    return f"use {setting('dtype', wider)}, which has a larger maximum"


def refuse_difference(tensor: TensorPlan, words: Words, start: int) -> None:
    """Raises MismatchError if words that must be equal differ; `start` is the index of the first element."""
    first, *others = words
    differing = [other for other in others if not np.array_equal(first, other)]
    if not differing:
        return
    source = next(iter(tensor.sources.values()))
    element = start + min(int(np.argmax(first != other)) for other in differing) // source.dtype.itemsize
    fields = (
        ("tensor", f"{source.name} ({source.dtype.code})"),
        *((label, each.entries[0].file) for label, each in tensor.sources.items()),
        ("found", f"different values, first at element {element}"),
    )
    fix = "copy this tensor from one model to the others: numbers of its type are never interpolated"
    raise Problem(MismatchError, "a tensor must be equal in all models", fields, fix).error()


def _finite(words: np.ndarray) -> np.ndarray:
    if words.dtype == np.uint16:
        return (words & np.uint16(0x7F80)) != 0x7F80
    return np.isfinite(words.view(np.float16) if words.dtype == np.int16 else words)
