"""The compiled loops: over the elements of a chunk (measure, combine, round once), and over rows to read.

Every kernel takes flat, contiguous numpy arrays of raw words (see `dtypes.DType.word`): uint16 is
bfloat16, int16 is float16, float32 and float64 are themselves. They release the GIL.

All arithmetic is float64 without fused multiply-add or reassociation, and the sums run in fixed
lanes, so a result does not depend on the processor's vector width or on the number of threads.

Each kernel is compiled by LLVM for this processor and for the words' types at its first use, in
some hundredths of a second; nothing is stored on the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from fusion_slerp.kernels.compiler import compiled
from fusion_slerp.kernels.loops import LANES


def measure(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Sums of squares and products of two vectors, in float64.

    Args:
        a: 1-D words of one chunk of the first vector.
        b: As many words of the second, of any of the four types.

    Returns:
        `(<a,a>, <b,b>, <a,b>)`, not finite if an element is not (or, for float64 input beyond
        about 1e154, if a square overflows). They add up over chunks.
    """
    sums = np.zeros((3, LANES))
    _run("measure", (a, b), (), sums)
    aa, bb, ab = sums[:, 0].tolist()
    return aa, bb, ab


def measure_chords(
    a: np.ndarray, b: np.ndarray, inverse_norm_a: float, inverse_norm_b: float
) -> tuple[float, float]:
    """Squared chords `(|u-v|^2, |u+v|^2)` of the unit vectors u = a/|a|, v = b/|b|, in float64.

    The angle from them, 2*atan2(|u-v|, |u+v|), keeps its digits where the cosine is close to
    1 or -1 and arccos loses them. They add up over chunks, as `measure` does.
    """
    sums = np.zeros((2, LANES))
    _run("measure_chords", (a, b), (inverse_norm_a, inverse_norm_b), sums)
    minus, plus = sums[:, 0].tolist()
    return minus, plus


def combine(a: np.ndarray, b: np.ndarray, s0: float, s1: float, out: np.ndarray) -> int:
    """Writes `s0*a + s1*b` to `out`: float64 arithmetic, one rounding to `out`'s type.

    Args:
        a: 1-D words of one chunk of the first parent.
        b: As many words of the second.
        s0: Coefficient of `a`.
        s1: Coefficient of `b`.
        out: As many words, overwritten; of any of the four types; shares no memory with a and b.

    Returns:
        How many elements of `out` are infinite or NaN.
    """
    return _run("combine", (a, b, out), (s0, s1))


def convert(a: np.ndarray, out: np.ndarray) -> int:
    """Writes `a` to `out` in `out`'s type, rounded once; returns how many are not finite."""
    return _run("convert", (a, out), ())


def read(
    descriptor: int, places: np.ndarray, counts: np.ndarray, offsets: np.ndarray, out: np.ndarray
) -> int:
    """Reads pieces of a file to places in memory, without Python between them (POSIX only).

    Args:
        descriptor: The file, open.
        places: int64: where each piece goes, in bytes from the start of `out`.
        counts: int64: the bytes of each.
        offsets: int64: where it is in the file.
        out: uint8, contiguous; holds every piece.

    Returns:
        Index of the first piece that came short, whose reason a further call will tell; else their number.
    """
    end = int((places + counts).max(initial=0))
    arrays = (places, counts, offsets)
    fits = all(array.dtype == np.int64 and array.flags.c_contiguous for array in arrays)
    if not fits or end > out.nbytes or places.min(initial=0) < 0 or not out.flags.c_contiguous:
        raise ValueError(f"read: pieces end at byte {end}, the buffer at {out.nbytes}")
    file = np.array([descriptor], np.int64)
    pointers = [array.ctypes.data for array in (*arrays, out, file)]
    return _function("read")(len(places), *pointers)


def prepare(kernel: str, *dtypes: str) -> None:
    """Compiles a kernel for these numpy dtypes now, in the order of its arrays, not at its first use."""
    _function(kernel, *[np.dtype(name) for name in dtypes])


def _run(
    kernel: str, words: tuple[np.ndarray, ...], factors: tuple[float, ...], sums: np.ndarray | None = None
) -> int:
    n = words[0].size
    for array in words:  # the compiled code trusts its pointers
        if array.size != n or not array.flags.c_contiguous:
            found = f"{array.size} words, contiguous: {array.flags.c_contiguous}"
            raise ValueError(f"{kernel}: {found}; needed: {n}, contiguous")
    function = _function(kernel, *[array.dtype for array in words])
    arrays = words if sums is None else (*words, sums)
    return function(n, *[array.ctypes.data for array in arrays], *factors)


@cache
def _function(kernel: str, *dtypes: np.dtype) -> Callable[..., int]:
    return compiled(kernel, tuple(dtype.name for dtype in dtypes))
