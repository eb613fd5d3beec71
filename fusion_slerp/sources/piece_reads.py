"""Reads many pieces of a file in compiled code (POSIX only).

A vocabulary in another order has a piece for every row, and a call from Python takes longer than a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from llvmlite import ir

from fusion_slerp.kernels.building import POINTER, element, function, loop
from fusion_slerp.kernels.compiler import compiled
from fusion_slerp.kernels.elements import I64


def read_many(
    descriptor: int, targets: np.ndarray, counts: np.ndarray, offsets: np.ndarray, out: np.ndarray
) -> int:
    """Reads pieces of a file to given offsets in memory.

    Args:
        descriptor: The file, open.
        targets: int64: the destination of each piece, in bytes from the start of `out`.
        counts: int64: the bytes of each.
        offsets: int64: its offset in the file.
        out: uint8, contiguous; large enough for every piece.

    Returns:
        Index of the first short read, whose reason a further call will report; else the number of pieces.
    """
    end = int((targets + counts).max(initial=0))
    arrays = (targets, counts, offsets)
    fits = all(array.dtype == np.int64 and array.flags.c_contiguous for array in arrays)
    if not fits or end > out.nbytes or targets.min(initial=0) < 0 or not out.flags.c_contiguous:
        raise ValueError(f"read_many: pieces end at byte {end}, the buffer at {out.nbytes}")
    file = np.array([descriptor], np.int64)
    return _function()(len(targets), *[array.ctypes.data for array in (*arrays, out, file)])


@cache
def _function():
    return compiled(_read, ())


def _read(dtypes: Sequence[str]) -> ir.Module:
    """Calls the system's pread for every piece."""
    parameters = [I64, *[POINTER] * 5]
    module = ir.Module("read")
    made, b = function(module, module.name, I64, parameters)
    n, targets, counts, offsets, data, descriptor = made.args
    types = [ir.IntType(32), POINTER, I64, I64]
    pread = ir.Function(module, ir.FunctionType(I64, types), "pread")
    file = b.trunc(b.load(descriptor, typ=I64), types[0])
    first = b.alloca(I64)
    b.store(n, first)
    with loop(b, n) as i:
        target, count, offset = (
            b.load(element(b, array, i, I64), typ=I64) for array in (targets, counts, offsets)
        )
        got = b.call(pread, [file, element(b, data, target, ir.IntType(8)), count, offset])
        known = b.load(first, typ=I64)
        is_first = b.and_(b.icmp_signed("!=", got, count), b.icmp_unsigned("<", i, known))
        b.store(b.select(is_first, i, known), first)
    b.ret(b.load(first, typ=I64))
    return module
