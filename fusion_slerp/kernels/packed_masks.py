"""Kernels that pack masks of up to four models: two to a byte, the first in the lower half."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from fusion_slerp.kernels.building import element, loop, of_each, of_one
from fusion_slerp.kernels.elements import I8, I32, I64

HALF_BITS = 4
"""Of a byte: models whose masks can be packed."""

LOWER_HALF = (1 << HALF_BITS) - 1

MASK_BITS = 16
"""Two masks are loaded and stored as one number, the first in its lower half."""


def pack(dtypes: Sequence[str]) -> ir.Module:
    """Stores packed masks. Arrays: packed (uint8), masks of two elements for each."""
    module = ir.Module("pack")
    of_each(module, pack_one(module), len(dtypes), 0)
    return module


def pack_one(module: ir.Module) -> ir.Function:
    """Returns the part of `pack` for one set."""
    made, b, size, (packed, masks), _ = of_one(module, "pack_one", I64, 2, 0)
    with loop(b, size) as i:
        two = b.load(element(b, masks, i, I32), typ=I32, align=2)
        both = b.or_(two, b.lshr(two, I32(MASK_BITS - HALF_BITS)))
        b.store(b.trunc(both, I8), element(b, packed, i, I8))
    b.ret(I64(0))
    return made


def unpack(dtypes: Sequence[str]) -> ir.Module:
    """Stores the masks of packed ones. Arrays: packed (uint8), masks of two elements for each."""
    module = ir.Module("unpack")
    of_each(module, unpack_one(module), len(dtypes), 0)
    return module


def unpack_one(module: ir.Module) -> ir.Function:
    """Returns the part of `unpack` for one set."""
    made, b, size, (packed, masks), _ = of_one(module, "unpack_one", I64, 2, 0)
    with loop(b, size) as i:
        both = b.zext(b.load(element(b, packed, i, I8), typ=I8), I32)
        apart = b.or_(both, b.shl(both, I32(MASK_BITS - HALF_BITS)))
        two = b.and_(apart, I32(LOWER_HALF << MASK_BITS | LOWER_HALF))
        b.store(two, element(b, masks, i, I32), align=2)
    b.ret(I64(0))
    return made
