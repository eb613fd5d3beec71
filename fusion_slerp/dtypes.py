"""The element types of safetensors files, and how the kernels read the floating-point ones.

Source: the safetensors format, https://github.com/huggingface/safetensors#format, and `Dtype` in
safetensors/src/tensor.rs of its release 0.8 (names, and bits per element).
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class DType:
    """One element type.

    Attributes:
        code: Its name in a safetensors header: `"BF16"`.
        name: Its name in torch and in config.json: `"bfloat16"`. Torch has none for the types smaller than a
            byte: its own are those of the bytes into which elements are packed.
        nbits: Bits per element.
        word: The numpy dtype under which the kernels take its raw words; empty unless it is one of the
            four floating-point types that can be merged. The 16-bit types are passed as integers of
            different signedness, so that the array's dtype alone selects the kernel.
        itemsize: Bytes per element; 0 for a type smaller than a byte.
    """

    code: str
    name: str
    nbits: int
    word: str = ""
    itemsize: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "itemsize", self.nbits // 8)

    @property
    def is_mergeable(self) -> bool:
        """Whether it can be interpolated: bfloat16, float16, float32 and float64."""
        return bool(self.word)

    @property
    def further_reaching(self) -> str | None:
        """The name of a type with a larger maximum, to use after an overflow; None if there is none."""
        return {"F16": "bfloat16", "F64": None}.get(self.code, "float64")


BF16 = DType("BF16", "bfloat16", 16, "uint16")
F16 = DType("F16", "float16", 16, "int16")
F32 = DType("F32", "float32", 32, "float32")
F64 = DType("F64", "float64", 64, "float64")

MERGEABLE = (BF16, F16, F32, F64)
MERGEABLE_NAMES = tuple(dtype.name for dtype in MERGEABLE)

_ALL = (
    *MERGEABLE,
    DType("BOOL", "bool", 8),
    DType("U8", "uint8", 8),
    DType("I8", "int8", 8),
    DType("U16", "uint16", 16),
    DType("I16", "int16", 16),
    DType("U32", "uint32", 32),
    DType("I32", "int32", 32),
    DType("U64", "uint64", 64),
    DType("I64", "int64", 64),
    DType("C64", "complex64", 64),
    DType("F8_E4M3", "float8_e4m3fn", 8),
    DType("F8_E5M2", "float8_e5m2", 8),
    DType("F8_E8M0", "float8_e8m0fnu", 8),
    DType("F8_E4M3FNUZ", "float8_e4m3fnuz", 8),
    DType("F8_E5M2FNUZ", "float8_e5m2fnuz", 8),
    DType("F4", "float4_e2m1fn", 4),
    DType("F6_E2M3", "float6_e2m3fn", 6),
    DType("F6_E3M2", "float6_e3m2fn", 6),
)

BY_CODE = {dtype.code: dtype for dtype in _ALL}
BY_NAME = {dtype.name: dtype for dtype in _ALL}

INTEGER_CODES = frozenset({"U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"})

EXACT_COPY_CODES = INTEGER_CODES | {"BOOL", "C64"}
"""Types that are never interpolated: copied if all parents hold the same bytes. All others are quantised."""

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
