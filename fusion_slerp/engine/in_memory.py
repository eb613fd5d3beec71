"""Merges tensors in memory, by the same methods and kernels as a merge of files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fusion_slerp import kernels
from fusion_slerp.chunks import CHUNK_ELEMENTS, chunks_of_rows
from fusion_slerp.dtypes import BY_NAME, MERGEABLE_NAMES, DType
from fusion_slerp.engine.failures import are_finite, overflow_fix
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.errors import CheckpointError, MismatchError, OutputError, Problem, SettingsError, setting
from fusion_slerp.kernels import Words
from fusion_slerp.methods.method import Unit, UnusableError
from fusion_slerp.options import UNIT_INTERVAL
from fusion_slerp.passes.protocols import NotFiniteError, drive, write
from fusion_slerp.planning.work import Works
from fusion_slerp.settings.merge_settings import MergeSettings, make_settings

if TYPE_CHECKING:
    import torch

T = TypeVar("T", "torch.Tensor", np.ndarray)


def slerp(t: float, v0: T, v1: T, DOT_THRESHOLD: float = 0.9995, epsilon: float = 1e-8) -> T:
    """Returns the spherical linear interpolation of two tensors, each taken as one vector.

    Every element is the formula of `fusion_slerp.methods.slerp` computed in float64 and rounded once.
    The arguments are those of FusionBench's `slerp`; unlike there, the result has v0's type, and zero
    vectors are interpolated linearly.

    Args:
        t: A number in [0, 1], both ends included; at an end the result is that tensor's values.
        v0: torch tensor or numpy array of any shape; bfloat16, float16, float32 or float64.
        v1: The same shape as v0, in any of these types.
        DOT_THRESHOLD: |cosine| above which the interpolation is linear, in [0, 1].
        epsilon: Norm up to which a tensor counts as zero and is interpolated linearly.

    Returns:
        A fresh tensor of v0's shape, type and device, without gradient.

    Raises:
        SettingsError: t, DOT_THRESHOLD or epsilon is out of range.
        MismatchError: The shapes differ, or a type is not one of the four.
        CheckpointError: An element is infinite or NaN (unless t is 0 or 1).
        OutputError: v0's type cannot hold an element of the result.
    """
    if not UNIT_INTERVAL.is_fine(t):
        fields = (("found", f"{t!r} ({type(t).__name__})"), ("needed", UNIT_INTERVAL.needed))
        raise Problem(SettingsError, "invalid t", fields, f"use {setting('t', 0.5)}").error()
    settings = make_settings(t=t, DOT_THRESHOLD=DOT_THRESHOLD, epsilon=epsilon)
    return combine_tensors({"a": v0, "b": v1}, settings, "v0, v1", {"t": float(t)})[0]


def combine_tensors(
    tensors: Mapping[str, T], settings: MergeSettings, name: str, values: Mapping[str, Any]
) -> tuple[T, TensorReport]:
    """Combines tensors of one shape by the method of the settings, each taken as one vector.

    Args:
        tensors: By label, in order; torch tensors or numpy arrays of any shape, of the four types.
        settings: The method and its options; of all other options, only dtype applies.
        name: The tensor's name in messages and in the report.
        values: The values of the method's options with a schedule, for this tensor.

    Returns:
        A fresh tensor of the first one's shape and device, without gradient, in its type or that of the
        settings; and the report.

    Raises:
        FusionSlerpError: As `slerp`, with the name in the message.
    """
    first = next(iter(tensors.values()))
    _check_shapes(tensors, name)
    words = {label: _words(tensor, name) for label, tensor in tensors.items()}
    dtype = BY_NAME[settings.dtype] if settings.dtype else _dtype_of(first, name)
    out = np.empty(words[next(iter(words))].size, dtype.word)
    report, overflowed = _combine(words, out, tuple(first.shape), settings, name, values)
    if overflowed:
        found = f"{overflowed} values that {dtype.name} cannot hold (or that are not finite)"
        wider = dtype.further_reaching
        fix = f"convert the first tensor to {wider}, or " * bool(wider) + overflow_fix(dtype)
        fields = (("tensor", name), ("found", found))
        raise Problem(OutputError, f"overflow to infinity in {dtype.name}", fields, fix).error()
    return _like(out, dtype, first), report


def _check_shapes(tensors: Mapping[str, Any], name: str) -> None:
    shapes = {label: tuple(tensor.shape) for label, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        fields = (("tensor", name), *((label, list(shape)) for label, shape in shapes.items()))
        fix = "pass tensors of one shape"
        raise Problem(MismatchError, "the shapes differ", fields, fix).error()


def _combine(
    words: Mapping[str, np.ndarray],
    out: np.ndarray,
    shape: tuple[int, ...],
    settings: MergeSettings,
    name: str,
    values: Mapping[str, Any],
) -> tuple[TensorReport, int]:
    """Fills `out`; also returns how many of its elements are not finite (0 for an exact copy)."""
    try:
        decision = Works(settings, words).decided(values, tuple(words))
    except UnusableError as error:
        raise Problem(SettingsError, str(error), (("tensor", name),), error.fix).error() from None
    if decision.copied is not None:
        report = TensorReport(name, f"copy {decision.copied}", out.size, values, decision.why)
        source = words[decision.copied]
        if source.dtype != out.dtype:
            return report, kernels.convert(source, out)
        out[:] = source
        return report, 0
    vectors = [words[label] for label in decision.used]
    unit = Unit(name, out.size, out.size // max(shape[0], 1) if len(shape) > 1 else out.size)
    width = unit.width if settings.how.needs_rows and unit.width <= CHUNK_ELEMENTS else 1
    try:
        made = drive(settings.how.start(decision.parameters, unit), lambda: _chunks(vectors, width))
    except NotFiniteError:
        raise _not_finite(name).error() from None
    norms = dict(zip(decision.used, made.gram.norms, strict=False)) if made.gram else {}
    report = TensorReport(name, made.rule, out.size, values, None, made.angle_deg, norms)
    overflowed = write(made.combine, vectors, out)
    if overflowed and not are_finite(vectors):
        raise _not_finite(name).error()
    return report, overflowed


def _not_finite(name: str) -> Problem:
    fix = "replace such elements before merging"
    return Problem(CheckpointError, "NaN or infinity in a tensor", (("tensor", name),), fix)


def _chunks(vectors: Words, width: int) -> Iterator[Words]:
    """The vectors in chunks of whole rows of a width; at least one."""
    for start, n in chunks_of_rows(vectors[0].size, max(width, 1)) or [(0, 0)]:
        yield [vector[start : start + n] for vector in vectors]


def _words(tensor: Any, name: str) -> np.ndarray:
    """A tensor's elements as a flat, contiguous, aligned array of words."""
    dtype = _dtype_of(tensor, name)
    if isinstance(tensor, np.ndarray):
        flat = np.require(tensor.reshape(-1), requirements=["C", "A", "W"])
    else:
        import torch

        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        flat = flat.view(torch.int16) if dtype.itemsize == 2 else flat
        flat = flat.numpy()
    return flat.view(dtype.word)


def _dtype_of(tensor: Any, name: str) -> DType:
    type_name = str(tensor.dtype).removeprefix("torch.")
    dtype = BY_NAME.get(type_name)
    if dtype is None or not dtype.is_mergeable:
        fields = (("tensor", name), ("found", type_name), ("needed", ", ".join(MERGEABLE_NAMES)))
        fix = "convert the tensor to one of these types"
        raise Problem(MismatchError, "this type cannot be merged", fields, fix).error()
    return dtype


def _like(words: np.ndarray, dtype: DType, first: Any) -> Any:
    """The words as a tensor of the first tensor's kind, shape and device."""
    if isinstance(first, np.ndarray):
        return words.view(dtype.name).reshape(first.shape)
    import torch

    words = words.view(np.int16) if dtype.itemsize == 2 else words
    return torch.from_numpy(words).view(getattr(torch, dtype.name)).reshape(first.shape).to(first.device)
