"""Kernels that pack masks of up to four models: two to a byte, the first in the lower half."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from fusion_slerp.kernels.building import element, loop, of_each, of_one
from fusion_slerp.kernels.elements import I16, I64

I8 = ir.IntType(8)

HALF_BITS = 4
"""Of a byte: models whose masks can be packed."""


def pack(dtypes: Sequence[str]) -> ir.Module:
    """Stores packed masks. Arrays: packed (uint8), masks of two elements for each."""
    module = ir.Module("pack")
    made, b, size, (packed, masks), _ = of_one(module, "pack_one", I64, len(dtypes), 0)
    with loop(b, size) as i:
        low, high = (
            b.load(element(b, masks, b.add(b.shl(i, I64(1)), I64(k)), I16), typ=I16) for k in range(2)
        )
        both = b.or_(low, b.shl(high, I16(HALF_BITS)))
        b.store(b.trunc(both, I8), element(b, packed, i, I8))
    b.ret(I64(0))
    of_each(module, made, len(dtypes), 0)
    return module


def unpack(dtypes: Sequence[str]) -> ir.Module:
    """Stores the masks of packed ones. Arrays: packed (uint8), masks of two elements for each."""
    module = ir.Module("unpack")
    made, b, size, (packed, masks), _ = of_one(module, "unpack_one", I64, len(dtypes), 0)
    with loop(b, size) as i:
        both = b.zext(b.load(element(b, packed, i, I8), typ=I8), I16)
        for k, mask in enumerate((b.and_(both, I16((1 << HALF_BITS) - 1)), b.lshr(both, I16(HALF_BITS)))):
            b.store(mask, element(b, masks, b.add(b.shl(i, I64(1)), I64(k)), I16))
    b.ret(I64(0))
    of_each(module, made, len(dtypes), 0)
    return module
