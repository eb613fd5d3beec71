"""LLVM instructions for one element: from a raw word to float64 and back, and whether it is finite.

Source: the layouts of IEEE 754-2019 binary16, binary32 and binary64; bfloat16 is the upper half of
a binary32.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

Builder = Any
Value = Any
"""An `ir.IRBuilder` and an `ir.Value`; llvmlite creates the builder's methods in a way that hides types."""

I8, I16, I32, I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()

F64_BIAS = 1023


@dataclass(frozen=True, slots=True)
class _Half:
    """A 16-bit type: its number of fraction bits, and the bias of its exponent."""

    fraction_bits: int
    bias: int

    @property
    def infinity(self) -> int:
        return (2 * self.bias + 1) << self.fraction_bits


_HALVES = {"uint16": _Half(fraction_bits=7, bias=127), "int16": _Half(fraction_bits=10, bias=15)}

FRACTION_BITS = {dtype: half.fraction_bits for dtype, half in _HALVES.items()}
"""Of a 16-bit type's significand; one more bit is implied."""

MASK = "bits"
"""In place of a numpy dtype: 16-bit integers; as `uint16`, they would be bfloat16."""

LLVM_TYPES: dict[str, ir.Type] = {"uint16": I16, "int16": I16, "float32": F32, "float64": F64, MASK: I16}
"""The type in memory of each numpy dtype that the kernels accept."""


def decode(builder: Builder, word: Value, dtype: str) -> Value:
    """Returns the value of one raw word as float64; exact for all four types."""
    if dtype == "float64":
        return word
    if dtype == MASK:
        return builder.uitofp(word, F64)
    if dtype == "uint16":
        bits = builder.shl(builder.zext(word, I32), I32(16))
        word = builder.bitcast(bits, F32)
    elif dtype == "int16" and has_float16():
        word = builder.fpext(builder.bitcast(word, F16), F32)
    elif dtype == "int16":
        word = _decode_float16(builder, builder.zext(word, I32))
    return builder.fpext(word, F64)


@cache
def has_float16() -> bool:
    """Whether this processor has an instruction that converts float16 to float32 (twice as fast as ours)."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return True
    return bool(llvm.get_host_cpu_features().get("f16c"))


def _decode_float16(b: Builder, word: Value) -> Value:
    """Converts a float16 to float32 by moving its bit fields."""
    half = _HALVES["int16"]
    magnitude = b.and_(word, I32(0x7FFF))
    moved = b.shl(magnitude, I32(23 - half.fraction_bits))
    normal = b.add(moved, I32((127 - half.bias) << 23))
    special = b.or_(moved, I32(0x7F80_0000))
    units = b.uitofp(magnitude, F32)  # a subnormal counts units of 2^-24
    subnormal = b.bitcast(b.fmul(units, F32(2.0**-24)), I32)
    bits = b.select(b.icmp_unsigned("<", magnitude, I32(1 << half.fraction_bits)), subnormal, normal)
    bits = b.select(b.icmp_unsigned(">=", magnitude, I32(half.infinity)), special, bits)
    sign = b.shl(b.and_(word, I32(0x8000)), I32(16))
    return b.bitcast(b.or_(bits, sign), F32)


def encode(builder: Builder, x: Value, dtype: str) -> Value:
    """Returns the word nearest to the float64 `x`: one rounding, ties to even; infinity on overflow."""
    if dtype in _HALVES:
        return _round_once(builder, x, _HALVES[dtype])
    return builder.fptrunc(x, F32) if dtype == "float32" else x


def _round_once(b: Builder, x: Value, half: _Half) -> Value:
    """Rounds a float64 to a 16-bit type once, to nearest even.

    Converting to float32 first would round twice. Instead, normal results are rounded in the
    float64's own bits, and subnormal ones by adding the power of two whose unit in the last place is
    the type's smallest subnormal, so that the float64 addition performs the one rounding.
    The result saturates at infinity. NaN also becomes infinity: callers refuse both.
    """
    dropped = 52 - half.fraction_bits
    half_minus_one = (1 << (dropped - 1)) - 1
    rebias = (F64_BIAS - half.bias) << half.fraction_bits
    smallest_normal = (F64_BIAS - half.bias + 1) << 52
    anchor_exponent = 52 + 1 - half.bias - half.fraction_bits
    anchor_bits = (F64_BIAS + anchor_exponent) << 52

    bits = b.bitcast(x, I64)
    magnitude = b.and_(bits, I64((1 << 63) - 1))
    last_kept = b.and_(b.lshr(magnitude, I64(dropped)), I64(1))
    raised = b.add(b.add(magnitude, I64(half_minus_one)), last_kept)
    normal = b.sub(b.lshr(raised, I64(dropped)), I64(rebias))
    anchored = b.fadd(b.bitcast(magnitude, F64), F64(2.0**anchor_exponent))
    subnormal = b.sub(b.bitcast(anchored, I64), I64(anchor_bits))
    rounded = b.select(b.icmp_unsigned("<", magnitude, I64(smallest_normal)), subnormal, normal)
    infinity = I64(half.infinity)
    rounded = b.select(b.icmp_unsigned("<", rounded, infinity), rounded, infinity)
    sign = b.and_(b.lshr(bits, I64(48)), I64(0x8000))
    return b.trunc(b.or_(rounded, sign), I16)


def is_not_finite(builder: Builder, word: Value, dtype: str) -> Value:
    """Returns 1 if a raw word is infinite or NaN, else 0, as an i64."""
    if dtype in _HALVES:
        infinity = I16(_HALVES[dtype].infinity)
        flag = builder.icmp_unsigned("==", builder.and_(word, infinity), infinity)
    else:  # x - x is 0 for a finite x, else NaN
        flag = builder.fcmp_unordered("uno", builder.fsub(word, word), word.type(0.0))
    return builder.zext(flag, I64)
