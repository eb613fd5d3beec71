"""The element types of safetensors files, and how the kernels see each floating one.

Source: the safetensors format, https://github.com/huggingface/safetensors#format (dtype names).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DType:
    """One element type.

    Attributes:
        code: Its name in a safetensors header: `"BF16"`.
        name: Its name in torch and in config.json: `"bfloat16"`.
        itemsize: Bytes per element.
        word: For the four floating types that can be merged, the numpy dtype under which the
            kernels take its raw words; empty otherwise. The 16-bit types travel as integers of
            different signedness, so that a kernel is specialised by the array's dtype alone.
    """

    code: str
    name: str
    itemsize: int
    word: str = ""

    @property
    def is_mergeable(self) -> bool:
        """Whether SLERP is defined on it: bfloat16, float16, float32 and float64."""
        return bool(self.word)

    @property
    def further_reaching(self) -> str:
        """The name of a type whose largest value is larger: what to set after an overflow."""
        return "bfloat16" if self.code == "F16" else "float64"


BF16 = DType("BF16", "bfloat16", 2, "uint16")
F16 = DType("F16", "float16", 2, "int16")
F32 = DType("F32", "float32", 4, "float32")
F64 = DType("F64", "float64", 8, "float64")

MERGEABLE = (BF16, F16, F32, F64)

_ALL = (
    *MERGEABLE,
    DType("BOOL", "bool", 1),
    DType("U8", "uint8", 1),
    DType("I8", "int8", 1),
    DType("U16", "uint16", 2),
    DType("I16", "int16", 2),
    DType("U32", "uint32", 4),
    DType("I32", "int32", 4),
    DType("U64", "uint64", 8),
    DType("I64", "int64", 8),
    DType("C64", "complex64", 8),
    DType("F8_E4M3", "float8_e4m3fn", 1),
    DType("F8_E5M2", "float8_e5m2", 1),
    DType("F8_E8M0", "float8_e8m0fnu", 1),
    DType("F8_E4M3FNUZ", "float8_e4m3fnuz", 1),
    DType("F8_E5M2FNUZ", "float8_e5m2fnuz", 1),
)

BY_CODE = {dtype.code: dtype for dtype in _ALL}
BY_NAME = {dtype.name: dtype for dtype in _ALL}

EXACT_COPY_CODES = frozenset({"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"})
"""Types that are never interpolated: copied when both parents hold the same bytes."""
