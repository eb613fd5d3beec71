"""SLERP of two tensors in memory, by the same measurements and kernels as a whole merge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fusion_slerp import kernels
from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.dtypes import BY_NAME, MERGEABLE, DType
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.errors import CheckpointError, MismatchError, OutputError, Problem, SettingsError
from fusion_slerp.methods import slerp as method
from fusion_slerp.methods.slerp import NotFiniteError
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.settings.schedule import is_t

if TYPE_CHECKING:
    import torch

T = TypeVar("T", "torch.Tensor", np.ndarray)


def slerp(t: float, v0: T, v1: T, DOT_THRESHOLD: float = 0.9995, epsilon: float = 1e-8) -> T:
    """Returns the spherical linear interpolation of two tensors, each taken as one vector.

    Every element is the exactly rounded value of the formula in `fusion_slerp.methods.slerp`:
    float64 inside, one rounding. Same arguments as FusionBench's `slerp`; unlike there, the
    result has v0's type, and null vectors are interpolated linearly.

    Args:
        t: A number in [0, 1], both ends included; at an end the result is that tensor's values.
        v0: torch tensor or numpy array of any shape; bfloat16, float16, float32 or float64.
        v1: As v0 in shape; of any of these types.
        DOT_THRESHOLD: |cosine| above which the interpolation is linear, in [0, 1].
        epsilon: Norm up to which a tensor counts as null and is interpolated linearly.

    Returns:
        A fresh tensor of v0's shape, type and device, without gradient.

    Raises:
        SettingsError: t, DOT_THRESHOLD or epsilon is out of range.
        MismatchError: The shapes differ, or a type is not one of the four.
        CheckpointError: An element is infinite or NaN (unless t is 0 or 1).
        OutputError: v0's type cannot hold an element of the result.
    """
    if not is_t(t):
        fields = (("found", f"{t!r} ({type(t).__name__})"), ("needed", "a number in [0, 1]"))
        raise Problem(SettingsError, "t is not usable", fields, "set t: 0.5").error()
    settings = MergeSettings(DOT_THRESHOLD=DOT_THRESHOLD, epsilon=epsilon)
    return interpolate(v0, v1, t, settings, "v0, v1")[0]


def interpolate(v0: T, v1: T, t: float, settings: MergeSettings, name: str) -> tuple[T, TensorReport]:
    """`slerp` with other settings (of which dtype is heeded too) and a name; also reports.

    Raises:
        FusionSlerpError: As `slerp`, with the name in the message.
    """
    if tuple(v0.shape) != tuple(v1.shape):
        fields = (("tensor", name), ("first", list(v0.shape)), ("second", list(v1.shape)))
        fix = "pass two tensors of one shape"
        raise Problem(MismatchError, "the shapes differ", fields, fix).error()
    a, b = _words(v0, name), _words(v1, name)
    dtype = BY_NAME[settings.dtype] if settings.dtype else _dtype_of(v0, name)
    out = np.empty(a.size, dtype.word)
    report, overflowed = _interpolate(a, b, out, t, settings, name)
    if overflowed:
        found = f"{overflowed} values that {dtype.name} cannot hold (or that are not finite)"
        wider = dtype.further_reaching
        fix = f"convert the first tensor to {wider}, or set dtype: {wider}, which reaches further"
        fields = (("tensor", name), ("found", found))
        raise Problem(OutputError, f"overflow to infinity in {dtype.name}", fields, fix).error()
    return _like(out, dtype, v0), report


def _interpolate(
    a: np.ndarray, b: np.ndarray, out: np.ndarray, t: float, s: MergeSettings, name: str
) -> tuple[TensorReport, int]:
    """Fills `out`; also returns how many of its elements are not finite (0 for a copy of words)."""
    if t in (0, 1):
        report = TensorReport(name, "copy b" if t else "copy a", t, a.size)
        source = b if t else a
        if source.dtype != out.dtype:
            return report, kernels.convert(source, out)
        out[:] = source
        return report, 0
    sums = [method.measure(x, y) for x, y in _chunks(a, b)]
    try:
        found, stats = method.find_coefficients(t, sums, lambda: _chunks(a, b), s.DOT_THRESHOLD, s.epsilon)
    except NotFiniteError:
        fix = "replace such elements before merging"
        fields = (("tensor", name),)
        raise Problem(CheckpointError, "NaN or infinity in a tensor", fields, fix).error() from None
    overflowed = kernels.combine(a, b, found.s0, found.s1, out)
    report = TensorReport(name, found.rule, t, a.size, found.angle_deg, stats.norm_a, stats.norm_b)
    return report, overflowed


def _chunks(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, a.size, CHUNK_ELEMENTS):
        yield a[start : start + CHUNK_ELEMENTS], b[start : start + CHUNK_ELEMENTS]


def _words(tensor: Any, name: str) -> np.ndarray:
    """A tensor's elements as a flat, contiguous, aligned array of the kernels' words."""
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
    found = str(tensor.dtype).removeprefix("torch.")
    dtype = BY_NAME.get(found)
    if dtype is None or not dtype.is_mergeable:
        known = ", ".join(known.name for known in MERGEABLE)
        fields = (("tensor", name), ("found", found), ("needed", known))
        fix = "convert the tensor to one of these"
        raise Problem(MismatchError, "SLERP is not defined on this type", fields, fix).error()
    return dtype


def _like(words: np.ndarray, dtype: DType, v0: Any) -> Any:
    """The words as a tensor of v0's kind, shape and device."""
    if isinstance(v0, np.ndarray):
        return words.view(dtype.name).reshape(v0.shape)
    import torch

    words = words.view(np.int16) if dtype.itemsize == 2 else words
    return torch.from_numpy(words).view(getattr(torch, dtype.name)).reshape(v0.shape).to(v0.device)
