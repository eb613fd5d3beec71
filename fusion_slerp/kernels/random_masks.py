"""Kernel that draws masks: bit k of an element's mask is set with a probability of model k.

The word of an element is that of its index (see `random_words`). The bit is set if the word is less than a
threshold: the probability times 2^32, rounded.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from fusion_slerp.kernels.building import element, loop, of_each, of_one
from fusion_slerp.kernels.elements import I16, I32, I64
from fusion_slerp.kernels.random_words import MOST_MORE_WORDS, store_words

SPAN = 4096
"""Words that are made before they are compared: they stay in the first cache."""


def draw_masks(dtypes: Sequence[str]) -> ir.Module:
    """Stores masks, drawn independently for each element and model.

    Arrays: masks; int64: the index of the first element, the number of models that are drawn, the mask of
    those that always take part; keys (uint64), thresholds (uint32) and bits (uint16) of the models that are
    drawn.
    """
    module = ir.Module("draw_masks")
    made, b, size, (masks, numbers, keys, thresholds, bits), _ = of_one(module, "draw_masks_one", I64, 5, 0)
    words = b.alloca(I32, SPAN + MOST_MORE_WORDS)
    start, n_drawn, always = (b.load(element(b, numbers, I64(i), I64), typ=I64) for i in range(3))
    with loop(b, size, step=SPAN) as done:
        left = b.sub(size, done)
        n = b.select(b.icmp_unsigned("<", left, I64(SPAN)), left, I64(SPAN))
        with loop(b, n) as i:
            b.store(b.trunc(always, I16), element(b, masks, b.add(done, i), I16))
        with loop(b, n_drawn) as k:
            key = b.load(element(b, keys, k, I64), typ=I64)
            threshold = b.load(element(b, thresholds, k, I32), typ=I32)
            bit = b.load(element(b, bits, k, I16), typ=I16)
            first = store_words(b, words, b.add(start, done), n, key)
            with loop(b, n) as i:
                word = b.load(element(b, first, i, I32), typ=I32)
                drawn = b.select(b.icmp_unsigned("<", word, threshold), bit, I16(0))
                address = element(b, masks, b.add(done, i), I16)
                b.store(b.or_(b.load(address, typ=I16), drawn), address)
    b.ret(I64(0))
    of_each(module, made, len(dtypes), 0)
    return module
