"""The element types of safetensors files, and how the kernels read the floating-point ones.

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
        word: The numpy dtype under which the kernels take its raw words; empty unless it is one of the
            four floating-point types that can be merged. The 16-bit types are passed as integers of
            different signedness, so that the array's dtype alone selects the kernel.
    """

    code: str
    name: str
    itemsize: int
    word: str = ""

    @property
    def is_mergeable(self) -> bool:
        """Whether it can be interpolated: bfloat16, float16, float32 and float64."""
        return bool(self.word)

    @property
    def further_reaching(self) -> str | None:
        """The name of a type with a larger maximum, to use after an overflow; None if there is none."""
        return {"F16": "bfloat16", "F64": None}.get(self.code, "float64")


BF16 = DType("BF16", "bfloat16", 2, "uint16")
F16 = DType("F16", "float16", 2, "int16")
F32 = DType("F32", "float32", 4, "float32")
F64 = DType("F64", "float64", 8, "float64")

MERGEABLE = (BF16, F16, F32, F64)
MERGEABLE_NAMES = tuple(dtype.name for dtype in MERGEABLE)

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
"""Types that are never interpolated: copied if all parents hold the same bytes."""

SYNONYMS = {
    "bf16": "bfloat16",
    **dict.fromkeys(("fp16", "f16", "half"), "float16"),
    **dict.fromkeys(("fp32", "f32", "float"), "float32"),
    **dict.fromkeys(("fp64", "f64", "double"), "float64"),
}
"""Other names of the types that can be merged: in torch, JAX, safetensors and Lightning."""


def canonical_name(given: object) -> object:
    """Returns torch's name of a type for one of its synonyms; anything else unchanged.

    Args:
        given: `"bf16"`, `"FP16"`, `"torch.float32"`, or a `torch.dtype` itself.
    """
    name = str(given).strip().lower().removeprefix("torch.")
    name = SYNONYMS.get(name, name)
    is_torch = str(given).startswith("torch.")
    return name if name in MERGEABLE_NAMES and (is_torch or isinstance(given, str)) else given
