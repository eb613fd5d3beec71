"""Sums by mask of 16-bit types in float32, where that is proven to change no bit of the result.

A table of coefficients that belongs to sets of models has factors: each model's scale, and each set's share.
With these the sum is base + share * sum of scale * difference. Its error bound is relative to the terms,
which are small, except for the last two roundings, which are relative to the largest word and the terms. As
in `fast_sum`, elements for which the bound does not decide the word, or the sign of an election, are left to
the loop in float64 (see `doubts`).

Two cases are frequent and would be doubtful for any bound: a mean of two models halfway between two words,
and an election that ends in exactly zero. Both are decided in float32 where its arithmetic is exact: if all
words of the element have nearly the same exponent, and the scale, share or vote is a simple number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import islice

from llvmlite import ir

from fusion_slerp.kernels.building import element, loop, of_each, of_one
from fusion_slerp.kernels.doubts import (
    F32s,
    I16s,
    I32s,
    Mask,
    bits_of,
    decoded,
    encoded,
    floats,
    ints,
    magnitude,
    of_all,
    suits,
    with_doubts,
)
from fusion_slerp.kernels.elements import F32, F64, I16, I64, MASK, Builder, Value
from fusion_slerp.kernels.fast_sum import LEAST_SUM, MOST_SUM
from fusion_slerp.kernels.key_masks import KeyLimits, key_limits
from fusion_slerp.kernels.packed_masks import I8, unpack_one
from fusion_slerp.kernels.selection import Chosen, sum_by_mask_one
from fusion_slerp.kernels.table_factors import MOST_MODELS

MOST_EXPONENTS = {"uint16": 8, "int16": 5}
"""Exponents between an element's largest and smallest word, up to which simple sums are exact: with e of them
and words of p bits, quarters of the sum of four quarters of differences take e + p + 8 bits; float32 has 24.
"""

STRETCH = 1 << 14
"""Elements whose masks are unpacked at a time."""


def fast_selected_sum(dtypes: Sequence[str]) -> ir.Module:
    """Stores the same words as `selection.selected_sum`. Factors: scales, shares."""
    return _fast("fast_selected_sum", dtypes, Chosen(is_elected=False))


def fast_elected_sum(dtypes: Sequence[str]) -> ir.Module:
    """Stores the same words as `selection.elect` and then `selection.selected_sum`.

    Factors: votes, 1 if they are simple, scales, shares.
    """
    return _fast("fast_elected_sum", dtypes, Chosen(is_elected=True))


def fast_sum_by_key(dtypes: Sequence[str]) -> ir.Module:
    """Stores the same words as `key_masks.select` and then `fast_selected_sum`; it needs no masks.

    Factors: those of both.
    """
    return _fast("fast_sum_by_key", dtypes, Chosen(is_elected=False, by_key=True))


def fast_elected_sum_by_key(dtypes: Sequence[str]) -> ir.Module:
    """Stores the same words as `key_masks.select` and then `fast_elected_sum`; it needs no masks.

    Factors: those of both.
    """
    return _fast("fast_elected_sum_by_key", dtypes, Chosen(is_elected=True, by_key=True))


def fast_sum_of_packed(dtypes: Sequence[str]) -> ir.Module:
    """Stores the same words as `packed_masks.unpack` and then `fast_selected_sum`.

    Arrays: models, base, packed masks (uint8) of an even number of elements, memory for STRETCH masks, words
    of the result, table. Factors: as there.
    """
    return _of_packed("fast_sum_of_packed", dtypes, Chosen(is_elected=False))


def fast_elected_sum_of_packed(dtypes: Sequence[str]) -> ir.Module:
    """Stores the same words as `packed_masks.unpack` and then `fast_elected_sum`.

    Arrays: those of `fast_sum_of_packed`. Factors: as there.
    """
    return _of_packed("fast_elected_sum_of_packed", dtypes, Chosen(is_elected=True))


def is_fast(dtypes: Sequence[str]) -> bool:
    """Whether the words of models, base and result have types for the fast kernels."""
    return len(dtypes) - 2 <= MOST_MODELS and suits(dtypes)


def _fast(name: str, dtypes: Sequence[str], chosen: Chosen) -> ir.Module:
    module = ir.Module(name)
    of_each(module, _fast_one(module, dtypes, chosen), len(dtypes), _n_factors(dtypes, chosen))
    return module


def _of_packed(name: str, dtypes: Sequence[str], chosen: Chosen) -> ir.Module:
    """Unpacks masks and adds up in stretches, whose masks stay in the processor's cache."""
    *types, _, _, out_type, table_type = dtypes
    plain = [*types, MASK, out_type, table_type]
    module, n_factors = ir.Module(name), _n_factors(plain, chosen)
    fast, unpack = _fast_one(module, plain, chosen), unpack_one(module)
    made, b, size, given, factors = of_one(module, f"{name}_one", I64, len(dtypes), n_factors)
    *words, packed, masks, out, table = given
    count = b.alloca(I64)
    b.store(I64(0), count)
    with loop(b, size, step=STRETCH) as start:
        left = b.sub(size, start)
        many = b.select(b.icmp_unsigned("<", left, I64(STRETCH)), left, I64(STRETCH))
        b.call(unpack, [b.lshr(many, I64(1)), element(b, packed, b.lshr(start, I64(1)), I8), masks])
        here = [element(b, each, start, I16) for each in (*words, out)]
        n_bad = b.call(fast, [many, *here[:-1], masks, here[-1], table, *factors])
        b.store(b.add(b.load(count, typ=I64), n_bad), count)
    b.ret(b.load(count, typ=I64))
    of_each(module, made, len(dtypes), n_factors)
    return module


def _n_factors(dtypes: Sequence[str], chosen: Chosen) -> int:
    n = chosen.n_models(dtypes)
    return 2 * n * chosen.by_key + (n + 1) * chosen.is_elected + n + (1 << n)


def _fast_one(module: ir.Module, dtypes: Sequence[str], chosen: Chosen) -> ir.Function:
    n, n_factors = chosen.n_models(dtypes), _n_factors(dtypes, chosen)
    n_limits, n_votes = 2 * n * chosen.by_key, n * chosen.is_elected
    exactly = sum_by_mask_one(module, "exactly", dtypes, chosen)
    made, b, size, (*arrays, table), given = of_one(module, "fast", I64, len(dtypes), n_factors)
    factors = iter(given)
    limits, votes = list(islice(factors, n_limits)), list(islice(factors, n_votes))
    is_simple = next(factors) if chosen.is_elected else F64(0.0)
    scales, shares = list(islice(factors, n)), list(factors)
    part = _Sixteen(
        b,
        dtypes=[*dtypes[: n + 1], dtypes[-2]],
        limits=[(of_all(b, first), of_all(b, many)) for first, many in key_limits(b, limits)],
        votes=_vectors(b, votes),
        are_simple=b.fcmp_ordered("!=", of_all(b, b.fptrunc(is_simple, F32)), floats(0.0)),
        scales=_vectors(b, scales),
        shares=_vectors(b, shares),
    )
    count = b.alloca(I64)
    b.store(I64(0), count)

    def do_exactly(here: Sequence[Value], many: Value) -> None:
        n_bad = b.call(exactly, [many, *here, table, *limits, *votes])
        b.store(b.add(b.load(count, typ=I64), n_bad), count)

    with_doubts(b, size, ir.IntType(1)(1), arrays, part.store, do_exactly)
    b.ret(b.load(count, typ=I64))
    return made


def _vectors(b: Builder, factors: Sequence[Value]) -> list[Value]:
    """Vectors of float32 with a factor in every lane."""
    return [of_all(b, b.fptrunc(factor, F32)) for factor in factors]


@dataclass(frozen=True, slots=True)
class _Sixteen:
    """Builds the fast part: sixteen elements.

    Attributes:
        b: The builder.
        dtypes: Of the models, the base, and the result.
        limits: Vectors, for each model: the first key that is taken, and how many; none if masks tell.
        votes: Vectors; none without an election.
        are_simple: A vector: whether the votes are.
        scales: Vectors.
        shares: Vectors.
    """

    b: Builder
    dtypes: Sequence[str]
    limits: Sequence[KeyLimits]
    votes: Sequence[Value]
    are_simple: Value
    scales: Sequence[Value]
    shares: Sequence[Value]

    def store(self, arrays: Sequence[Value]) -> Value:
        """Stores sixteen words; returns a bit for each doubtful one.

        Arrays: models, base, masks unless there are limits, result.
        """
        b, n, out = self.b, len(self.scales), self.dtypes[-1]
        words = [b.load(array, typ=I16s, align=2) for array in arrays[:-1]]
        *models, base = (decoded(b, w, dtype) for w, dtype in zip(words, self.dtypes[: n + 1], strict=False))
        size, is_narrow = self._range([*models, base])
        differences = [b.fsub(model, base) for model in models]
        chosen = self._inside(differences) if self.limits else self._in_mask(b.zext(words[-1], I32s))
        doubts = [self._is_strange(size, out)]
        if self.votes:
            chosen, is_open = self._elect(differences, chosen, is_narrow)
            doubts.append(is_open)
        share = self._share_of(chosen, self.shares)
        terms = self._of_chosen(chosen, self.scales, differences)
        product = b.fmul(share, reduce(b.fadd, terms))
        total = b.fadd(b.fadd(base, product), floats(0.0))  # no -0.0
        # Terms that agree have one sign: see `can_vote`.
        of_terms = magnitude(b, product if self.votes else b.fmul(share, self._sizes(terms)))
        # With u = 2^-24, n + 6 roundings make the sum of the terms: of scale, difference, product, n - 1
        # additions, 3 of the share, product. Two more, of the result and of an end of the interval, are each
        # below u * (size + of_terms). The rest, 2u and 2^-29, is for what is of second order, and for the
        # base's factor.
        error = b.fadd(
            b.fmul(of_terms, floats((n + 10) * 2.0**-24)), b.fmul(size, floats(2.0**-23 + 2.0**-29))
        )
        low, high = (encoded(b, end, out) for end in (b.fsub(total, error), b.fadd(total, error)))
        is_simple = b.icmp_unsigned("==", b.and_(b.bitcast(share, I32s), ints(1)), ints(0))
        is_proven = b.or_(b.icmp_unsigned("==", low, high), b.and_(is_simple, is_narrow))
        doubts.append(b.not_(is_proven))
        if out == "int16":
            doubts.append(b.fcmp_unordered("uge", magnitude(b, total), floats(MOST_SUM[out])))
        b.store(b.trunc(_nearest(b, total, out), I16s), arrays[-1], align=2)
        return b.bitcast(reduce(b.or_, doubts), Mask)

    def _in_mask(self, mask: Value) -> list[Value]:
        """Whether each model is in the mask."""
        bits = (ints(1 << k) for k in range(len(self.scales)))
        return [self.b.icmp_unsigned("!=", self.b.and_(mask, bit), ints(0)) for bit in bits]

    def _inside(self, differences: Sequence[Value]) -> list[Value]:
        """Whether the key of each model is inside its limits: exact, as a difference is rounded once."""
        b = self.b
        keys = [b.bitcast(magnitude(b, difference), I32s) for difference in differences]
        return [
            b.icmp_unsigned("<", b.sub(key, first), many)
            for key, (first, many) in zip(keys, self.limits, strict=True)
        ]

    def _range(self, values: Sequence[Value]) -> tuple[Value, Value]:
        """The largest magnitude, and whether no other except zero is much smaller."""
        b = self.b
        bits = [b.bitcast(magnitude(b, value), I32s) for value in values]
        largest = reduce(lambda x, y: b.select(b.icmp_unsigned(">", x, y), x, y), bits)
        lowered = [b.sub(each, ints(1)) for each in bits]  # zero becomes the largest integer
        smallest = reduce(lambda x, y: b.select(b.icmp_unsigned("<", x, y), x, y), lowered)
        most = min(MOST_EXPONENTS[dtype] for dtype in self.dtypes[:-1])
        is_narrow = b.icmp_signed("<=", b.sub(largest, smallest), ints(most << 23))
        return b.bitcast(largest, F32s), is_narrow

    def _is_strange(self, size: Value, out: str) -> Value:
        """Whether float32 comes near its limits: the largest magnitude is tiny, large, infinite or NaN."""
        bits = self.b.bitcast(size, I32s)
        is_small = self.b.icmp_unsigned("<", self.b.sub(bits, ints(1)), ints(bits_of(LEAST_SUM) - 1))
        return self.b.or_(is_small, self.b.icmp_unsigned(">=", bits, ints(bits_of(MOST_SUM[out]))))

    def _elect(
        self, differences: Sequence[Value], chosen: Sequence[Value], is_narrow: Value
    ) -> tuple[list[Value], Value]:
        """The models that have the elected sign, and whether the sign is doubtful."""
        b = self.b
        terms = self._of_chosen(chosen, self.votes, differences)
        total, size = reduce(b.fadd, terms), self._sizes(terms)
        sign = b.and_(b.bitcast(total, I32s), ints(-(1 << 31)))  # if no term is chosen, either will do
        agree = [
            b.fcmp_ordered(">", b.bitcast(b.xor(b.bitcast(t, I32s), sign), F32s), floats(0.0)) for t in terms
        ]
        bound = b.fmul(size, floats((len(terms) + 5) * 2.0**-24))
        is_near = b.and_(
            b.fcmp_ordered("<=", magnitude(b, total), bound), b.fcmp_ordered(">", size, floats(0.0))
        )
        is_small = b.icmp_unsigned("<", b.sub(b.bitcast(size, I32s), ints(1)), ints(bits_of(LEAST_SUM) - 1))
        is_exact = b.and_(self.are_simple, is_narrow)
        return agree, b.or_(is_small, b.and_(is_near, b.not_(is_exact)))

    def _of_chosen(
        self, chosen: Sequence[Value], factors: Sequence[Value], differences: Sequence[Value]
    ) -> list[Value]:
        b = self.b
        return [
            b.select(flag, b.fmul(factor, difference), floats(0.0))
            for flag, factor, difference in zip(chosen, factors, differences, strict=True)
        ]

    def _sizes(self, terms: Sequence[Value]) -> Value:
        return reduce(self.b.fadd, [magnitude(self.b, term) for term in terms])

    def _share_of(self, chosen: Sequence[Value], shares: Sequence[Value]) -> Value:
        """The share of the chosen set: halves the sets, model by model."""
        for flag in chosen:
            shares = [
                self.b.select(flag, with_it, without)
                for without, with_it in zip(shares[::2], shares[1::2], strict=True)
            ]
        return shares[0]


def _nearest(b: Builder, x: Value, dtype: str) -> Value:
    """The words nearest to float32 numbers, ties to even, as int32."""
    if dtype != "uint16":
        return encoded(b, x, dtype)
    bits = b.bitcast(x, I32s)
    last_kept = b.and_(b.lshr(bits, ints(16)), ints(1))
    return b.lshr(b.add(bits, b.add(last_kept, ints(0x7FFF))), ints(16))
