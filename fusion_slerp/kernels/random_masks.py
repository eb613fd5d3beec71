"""Kernel that draws masks: bit k of an element's mask is set with a probability of model k.

The word of an element is that of its index (see `random_words`). The bit is set if the word is less than a
threshold: the probability times 2^32, rounded. The words' upper halves decide, unless one is that of the
threshold.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from fusion_slerp.kernels.building import element, loop, of_each, of_one
from fusion_slerp.kernels.elements import I16, I32, I64
from fusion_slerp.kernels.random_words import HALF_BITS, LOWER, MOST_MORE_HALVES, UPPER, store_halves
from fusion_slerp.kernels.ranked_rows import add_bit

SPAN = 4096
"""Halves that are made before they are compared: they stay in the first cache."""


def draw_masks(dtypes: Sequence[str]) -> ir.Module:
    """Stores masks, drawn independently for each element and model.

    Arrays: masks; int64: the index of the first element, the number of models that are drawn, the mask of
    those that always take part; keys (uint64), thresholds (uint32) and bits (uint16) of the models that are
    drawn.
    """
    module = ir.Module("draw_masks")
    made, b, size, (masks, numbers, keys, thresholds, bits), _ = of_one(module, "draw_masks_one", I64, 5, 0)
    memory = [b.alloca(I16, SPAN + MOST_MORE_HALVES) for _ in (UPPER, LOWER)]
    has_equal = b.alloca(I16)
    start, n_drawn, always = (b.load(element(b, numbers, I64(i), I64), typ=I64) for i in range(3))

    with loop(b, size, step=SPAN) as done:
        left = b.sub(size, done)
        n = b.select(b.icmp_unsigned("<", left, I64(SPAN)), left, I64(SPAN))
        with loop(b, n) as i:
            b.store(b.trunc(always, I16), element(b, masks, b.add(done, i), I16))
        with loop(b, n_drawn) as k:
            key = b.load(element(b, keys, k, I64), typ=I64)
            threshold = b.load(element(b, thresholds, k, I32), typ=I32)
            above, below = b.trunc(b.lshr(threshold, I32(HALF_BITS)), I16), b.trunc(threshold, I16)
            bit = b.load(element(b, bits, k, I16), typ=I16)
            drawn = b.add(start, done), n, key
            uppers = store_halves(b, memory[UPPER], *drawn)
            b.store(I16(0), has_equal)
            with loop(b, n) as i:
                upper = b.load(element(b, uppers, i, I16), typ=I16)
                is_equal = b.zext(b.icmp_unsigned("==", upper, above), I16)
                b.store(b.or_(b.load(has_equal, typ=I16), is_equal), has_equal)
                add_bit(b, element(b, masks, b.add(done, i), I16), b.icmp_unsigned("<", upper, above), bit)
            has_doubt = b.load(has_equal, typ=I16)
            is_open = b.and_(*(b.icmp_unsigned("!=", each, I16(0)) for each in (has_doubt, below)))
            with b.if_then(is_open, likely=False):
                lowers = store_halves(b, memory[LOWER], *drawn, LOWER)
                with loop(b, n) as i:
                    upper, lower = (b.load(element(b, half, i, I16), typ=I16) for half in (uppers, lowers))
                    is_equal = b.icmp_unsigned("==", upper, above)
                    is_drawn = b.and_(is_equal, b.icmp_unsigned("<", lower, below))
                    add_bit(b, element(b, masks, b.add(done, i), I16), is_drawn, bit)
    b.ret(I64(0))
    of_each(module, made, len(dtypes), 0)
    return module
