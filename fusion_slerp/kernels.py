"""The chunk loops, compiled by numba: measure two vectors, combine them, round once.

Every kernel takes flat, contiguous, aligned numpy arrays of raw words (see `dtypes.DType.word`):
uint16 is bfloat16, int16 is float16, float32 and float64 are themselves. They release the GIL.

All arithmetic is float64 without fused multiply-add or reassociation, and the sums run in fixed
lanes, so a result does not depend on the processor's vector width or on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

LANES = 256
"""Partial sums held side by side; wide enough for any vector unit, 6 KB for three sums (L1)."""

_U64 = np.uint64
_MAGNITUDE = _U64(0x7FFF_FFFF_FFFF_FFFF)
_F64_BIAS = 1023


def _compiled(function: Callable[..., Any]) -> Any:
    """Compiles with numba's disk cache, or without it where no folder can hold the cache."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba: "no locator available": site-packages and home are read-only
        return numba.njit(**options)(function)


def _bitcast(result: Any, argument: Any, *steps: tuple[str, Any]) -> Any:
    """Makes an intrinsic that passes its argument through LLVM cast instructions."""

    @intrinsic
    def cast(typingctx, x):
        def codegen(context, builder, signature, args):
            value = args[0]
            for instruction, to in steps:
                value = getattr(builder, instruction)(value, to)
            return value

        return result(argument), codegen

    return cast


_f32_from_bits = _bitcast(types.float32, types.uint32, ("bitcast", ir.FloatType()))
_bits_of_f64 = _bitcast(types.uint64, types.float64, ("bitcast", ir.IntType(64)))
_f64_from_half_bits = _bitcast(
    types.float64,
    types.uint16,
    ("bitcast", ir.HalfType()),
    ("fpext", ir.FloatType()),
    ("fpext", ir.DoubleType()),
)


def _decode(word):
    """The value of one raw word as float64; exact for all four types. Defined below, by type."""
    raise NotImplementedError


@overload(_decode, inline="always")
def _decode_by_type(word):
    if word == types.uint16:  # bfloat16 is the upper half of a float32
        return lambda word: np.float64(_f32_from_bits(np.uint32(word) << np.uint32(16)))
    if word == types.int16:
        return lambda word: _f64_from_half_bits(np.uint16(word))
    return lambda word: np.float64(word)


def _rounder(fraction_bits: int, bias: int) -> Any:
    """Makes the function that rounds a float64 to a 16-bit type once, to nearest even.

    Going through float32 would round twice. Instead, normal results are rounded in the
    float64's own bits; subnormal ones by adding the power of two whose unit in the last place is
    the type's smallest subnormal, which lets the float64 addition do the one rounding.
    The result saturates at infinity. NaN becomes infinity too: callers refuse both.
    """
    dropped = _U64(52 - fraction_bits)
    half_minus_one = _U64((1 << (51 - fraction_bits)) - 1)
    rebias = _U64((_F64_BIAS - bias) << fraction_bits)
    smallest_normal = _U64((_F64_BIAS - bias + 1) << 52)
    infinity = _U64((2 * bias + 1) << fraction_bits)
    anchor = 2.0 ** (52 + 1 - bias - fraction_bits)
    anchor_bits = _U64(np.float64(anchor).view(_U64))
    one = _U64(1)

    @numba.njit(inline="always")
    def round_once(x):
        bits = _bits_of_f64(x)
        magnitude = bits & _MAGNITUDE
        normal = ((magnitude + half_minus_one + ((magnitude >> dropped) & one)) >> dropped) - rebias
        subnormal = _bits_of_f64(abs(x) + anchor) - anchor_bits
        rounded = subnormal if magnitude < smallest_normal else normal
        return min(rounded, infinity) | ((bits >> _U64(48)) & _U64(0x8000))

    return round_once


_round_to_bfloat16 = _rounder(fraction_bits=7, bias=127)
_round_to_float16 = _rounder(fraction_bits=10, bias=15)


def _encode(x, like):
    """The word of `like`'s type nearest to the float64 `x`: one rounding, ties to even."""
    raise NotImplementedError


@overload(_encode, inline="always")
def _encode_by_type(x, like):
    if like == types.uint16:
        return lambda x, like: np.uint16(_round_to_bfloat16(x))
    if like == types.int16:
        return lambda x, like: np.int16(_round_to_float16(x))
    if like == types.float32:
        return lambda x, like: np.float32(x)
    return lambda x, like: x


def _is_finite(word):
    """Whether a raw word is neither infinite nor NaN."""
    raise NotImplementedError


@overload(_is_finite, inline="always")
def _is_finite_by_type(word):
    if word == types.uint16:
        return lambda word: (word & np.uint16(0x7F80)) != np.uint16(0x7F80)
    if word == types.int16:
        return lambda word: (np.uint16(word) & np.uint16(0x7C00)) != np.uint16(0x7C00)
    return lambda word: abs(word) < np.inf


@_compiled
def measure(a, b):
    """Sums of squares and products of two vectors, in float64.

    Args:
        a: 1-D words of one chunk of the first vector.
        b: As many words of the second, of any of the four types.

    Returns:
        `(<a,a>, <b,b>, <a,b>)` as floats, not finite if an element is not (or, for float64
        input beyond about 1e154, if a square overflows). They add up over chunks.
    """
    sums = np.zeros((3, LANES))
    rows = a.size // LANES
    for row in range(rows):
        start = row * LANES
        for lane in range(LANES):
            x = _decode(a[start + lane])
            y = _decode(b[start + lane])
            sums[0, lane] += x * x
            sums[1, lane] += y * y
            sums[2, lane] += x * y
    for lane in range(a.size - rows * LANES):
        x = _decode(a[rows * LANES + lane])
        y = _decode(b[rows * LANES + lane])
        sums[0, lane] += x * x
        sums[1, lane] += y * y
        sums[2, lane] += x * y
    aa = ab = bb = 0.0
    for lane in range(LANES):
        aa += sums[0, lane]
        bb += sums[1, lane]
        ab += sums[2, lane]
    return aa, bb, ab


@_compiled
def measure_chords(a, b, inverse_norm_a, inverse_norm_b):
    """Squared chords `(|u-v|^2, |u+v|^2)` of the unit vectors u = a/|a|, v = b/|b|, in float64.

    The angle from them, 2*atan2(|u-v|, |u+v|), keeps its digits where the cosine is close to
    1 or -1 and arccos loses them. They add up over chunks, as `measure` does.
    """
    sums = np.zeros((2, LANES))
    rows = (a.size + LANES - 1) // LANES
    for row in range(rows):
        start = row * LANES
        for lane in range(min(LANES, a.size - start)):
            u = _decode(a[start + lane]) * inverse_norm_a
            v = _decode(b[start + lane]) * inverse_norm_b
            sums[0, lane] += (u - v) * (u - v)
            sums[1, lane] += (u + v) * (u + v)
    minus = plus = 0.0
    for lane in range(LANES):
        minus += sums[0, lane]
        plus += sums[1, lane]
    return minus, plus


@_compiled
def combine(a, b, s0, s1, out):
    """Writes `s0*a + s1*b` to `out`: float64 arithmetic, one rounding to `out`'s type.

    Args:
        a: 1-D words of one chunk of the first parent.
        b: As many words of the second.
        s0: Coefficient of `a`, float64.
        s1: Coefficient of `b`, float64.
        out: As many words, overwritten; of any of the four types.

    Returns:
        How many elements of `out` are infinite or NaN.
    """
    overflowed = 0
    for i in range(a.size):
        word = _encode(s0 * _decode(a[i]) + s1 * _decode(b[i]), out[i])
        out[i] = word
        overflowed += not _is_finite(word)
    return overflowed


@_compiled
def convert(a, out):
    """Writes `a` to `out` in `out`'s type, rounded once; returns how many are not finite."""
    overflowed = 0
    for i in range(a.size):
        word = _encode(_decode(a[i]), out[i])
        out[i] = word
        overflowed += not _is_finite(word)
    return overflowed
