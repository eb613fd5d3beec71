"""Sums by mask of 16-bit types in float32, where that is proven to change no bit of the result.

A table of coefficients that belongs to sets of models has factors: each model's scale, and each set's share.
With these the sum is base + share * sum of scale * difference. Its error bound is relative to the terms,
which are small, except for the last two roundings, which are relative to the largest word and the terms. As
in `fast_sum`, elements for which the bound does not decide the word, or the sign of an election, are left to
the loop in float64 (see `doubts`).

Two cases are frequent with simple coefficients and would be doubtful for any bound: a mean of two models
halfway between two words, and an election that ends in exactly zero. Both are decided in float32 where its
arithmetic is exact: if all words of the element have nearly the same exponent, and the scale, share or vote
is a simple number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, reduce
from itertools import islice
from typing import NamedTuple

from llvmlite import ir

from fusion_slerp.kernels.building import element, least, loop, of_each, of_one
from fusion_slerp.kernels.compiler import Kernel
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
    nearest,
    of_all,
    range_of,
    suits,
    with_doubts,
)
from fusion_slerp.kernels.elements import F32, F64, I8, I16, I64, MASK, Builder, Value
from fusion_slerp.kernels.fast_sum import LEAST_SUM, MOST_SUM
from fusion_slerp.kernels.key_masks import KeyLimits, key_limits
from fusion_slerp.kernels.packed_masks import unpack_one
from fusion_slerp.kernels.selection import Chosen, sum_by_mask_one
from fusion_slerp.kernels.table_factors import MOST_MODELS

MOST_EXPONENTS = {"uint16": 8, "int16": 5}
"""Exponents between an element's largest and smallest word, up to which simple sums are exact: with e of them
and words of p bits, quarters of the sum of four quarters of differences take e + p + 8 bits; float32 has 24.
"""

UNPACKED = 1 << 14
"""Elements whose masks are unpacked at a time."""


MASKS, KEYS, PACKED = "masks", "keys", "packed masks"
"""What says which models are selected."""


class Form(NamedTuple):
    """A form of the sums.

    Attributes:
        by: What says which models are selected: MASKS, KEYS or PACKED.
        is_elected: Whether only those remain that have the elected sign.
        has_halves: Whether simple coefficients or votes let sums lie halfway between two words, or elections
            end in exactly zero: then it is tested where float32 is exact.
        has_own_votes: Whether votes are not in the ratio of the scales.
    """

    by: str
    is_elected: bool
    has_halves: bool
    has_own_votes: bool


@cache
def fast_selected_sum(form: Form) -> Kernel:
    """Returns the kernel of a form.

    It stores the same words as `selection.elect`, if a sign is elected, and then `selection.selected_sum`:
    with the masks, those of `key_masks.select`, or packed ones of an even number of elements.

    Arrays: models, base; masks, or nothing by key, or packed masks (uint8) and memory for UNPACKED masks;
    words of the result, table. Factors: limits as for `select`, by key; votes, and 1 if they are simple, if a
    sign is elected; scales, shares.
    """

    def kernel(dtypes: Sequence[str]) -> ir.Module:
        return _of_packed(name, dtypes, form) if form.by == PACKED else _fast(name, dtypes, form)

    flags = zip(("elected", "halves", "votes"), form[1:], strict=True)
    kernel.__name__ = name = "_".join(
        ["fast_selected_sum", form.by.replace(" ", "_"), *(word for word, flag in flags if flag)]
    )
    return kernel


def is_fast(dtypes: Sequence[str]) -> bool:
    """Whether the words of models, base and result have types for the fast kernels."""
    return len(dtypes) - 2 <= MOST_MODELS and suits(dtypes)


def _fast(name: str, dtypes: Sequence[str], form: Form) -> ir.Module:
    module = ir.Module(name)
    of_each(module, _fast_one(module, dtypes, form), len(dtypes), _n_factors(dtypes, form))
    return module


def _of_packed(name: str, dtypes: Sequence[str], form: Form) -> ir.Module:
    """Unpacks masks and adds up in stretches, whose masks stay in the processor's cache."""
    *types, _, _, out_type, table_type = dtypes
    of_fast = [*types, MASK, out_type, table_type]
    module, n_factors = ir.Module(name), _n_factors(of_fast, form)
    fast, unpack = _fast_one(module, of_fast, form), unpack_one(module)
    made, b, size, given, factors = of_one(module, f"{name}_one", I64, len(dtypes), n_factors)
    *words, packed, masks, out, table = given
    count = b.alloca(I64)
    b.store(I64(0), count)
    with loop(b, size, step=UNPACKED) as start:
        many = least(b, b.sub(size, start), UNPACKED)
        b.call(unpack, [b.lshr(many, I64(1)), element(b, packed, b.lshr(start, I64(1)), I8), masks])
        here = [element(b, each, start, I16) for each in (*words, out)]
        n_bad = b.call(fast, [many, *here[:-1], masks, here[-1], table, *factors])
        b.store(b.add(b.load(count, typ=I64), n_bad), count)
    b.ret(b.load(count, typ=I64))
    of_each(module, made, len(dtypes), n_factors)
    return module


def _chosen(form: Form) -> Chosen:
    return Chosen(form.is_elected, by_key=form.by == KEYS)


def _n_factors(dtypes: Sequence[str], form: Form) -> int:
    n = _chosen(form).n_models(dtypes)
    return 2 * n * (form.by == KEYS) + (n + 1) * form.is_elected + n + (1 << n)


def _fast_one(module: ir.Module, dtypes: Sequence[str], form: Form) -> ir.Function:
    chosen, n_factors = _chosen(form), _n_factors(dtypes, form)
    n = chosen.n_models(dtypes)
    exactly = sum_by_mask_one(module, "exactly", dtypes, chosen)
    made, b, size, (*arrays, table), given = of_one(module, "fast", I64, len(dtypes), n_factors)
    factors = iter(given)
    limits, votes = list(islice(factors, 2 * n * chosen.by_key)), list(islice(factors, n * chosen.is_elected))
    is_simple = next(factors) if chosen.is_elected else F64(0.0)
    scales, shares = list(islice(factors, n)), list(factors)
    part = _Sixteen(
        b,
        form,
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
        form: The form of the sums.
        dtypes: Of the models, the base, and the result.
        limits: Vectors, for each model: the first key that is taken, and how many; none if masks tell.
        votes: Vectors; none without an election.
        are_simple: A vector: whether the votes are.
        scales: Vectors.
        shares: Vectors.
    """

    b: Builder
    form: Form
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
        terms = self._of_chosen(chosen, self._scaled(self.scales, differences))
        if self.form.is_elected:
            own = self._of_chosen(chosen, self._scaled(self.votes, differences))
            chosen, is_open = self._elect(own if self.form.has_own_votes else terms, is_narrow)
            doubts.append(is_open)
            terms = self._of_chosen(chosen, terms)
        share = self._share_of(chosen, self.shares)
        product = b.fmul(share, reduce(b.fadd, terms))
        total = b.fadd(base, product)
        # Terms that agree have one sign: see `can_vote`.
        of_terms = magnitude(b, product if self.form.is_elected else b.fmul(share, self._sizes(terms)))
        # With u = 2^-24, n + 6 roundings make the sum of the terms: of scale, difference, product, n - 1
        # additions, 3 of the share, product. Two more, of the result and of an end of the interval, are each
        # below u * (size + of_terms). The rest, 2u and 2^-29, is for what is of second order, and for the
        # base's factor.
        error = b.fadd(
            b.fmul(of_terms, floats((n + 10) * 2.0**-24)), b.fmul(size, floats(2.0**-23 + 2.0**-29))
        )
        low, high = (encoded(b, end, out) for end in (b.fsub(total, error), b.fadd(total, error)))
        is_proven = b.icmp_unsigned("==", low, high)
        word = high
        if self.form.has_halves:
            is_simple = b.icmp_unsigned("==", b.and_(b.bitcast(share, I32s), ints(1)), ints(0))
            is_proven = b.or_(is_proven, b.and_(is_simple, is_narrow))
            word = nearest(b, b.fadd(total, floats(0.0)), out)  # no -0.0
        doubts.append(b.not_(is_proven))
        if out == "int16":
            doubts.append(b.fcmp_unordered("uge", magnitude(b, total), floats(MOST_SUM[out])))
        b.store(b.trunc(word, I16s), arrays[-1], align=2)
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
        largest, smallest = range_of(b, values)
        most = min(MOST_EXPONENTS[dtype] for dtype in self.dtypes[:-1])
        is_narrow = b.icmp_signed("<=", b.sub(largest, smallest), ints(most << 23))
        return b.bitcast(largest, F32s), is_narrow

    def _is_strange(self, size: Value, out: str) -> Value:
        """Whether float32 comes near its limits: the largest magnitude is tiny, large, infinite or NaN."""
        bits = self.b.bitcast(size, I32s)
        is_small = self.b.icmp_unsigned("<", self.b.sub(bits, ints(1)), ints(bits_of(LEAST_SUM) - 1))
        return self.b.or_(is_small, self.b.icmp_unsigned(">=", bits, ints(bits_of(MOST_SUM[out]))))

    def _elect(self, terms: Sequence[Value], is_narrow: Value) -> tuple[list[Value], Value]:
        """The models whose terms have the elected sign, and whether the sign is doubtful."""
        b = self.b
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
        if self.form.has_halves:
            is_near = b.and_(is_near, b.not_(b.and_(self.are_simple, is_narrow)))
        return agree, b.or_(is_small, is_near)

    def _scaled(self, factors: Sequence[Value], differences: Sequence[Value]) -> list[Value]:
        return [self.b.fmul(factor, each) for factor, each in zip(factors, differences, strict=True)]

    def _of_chosen(self, chosen: Sequence[Value], terms: Sequence[Value]) -> list[Value]:
        return [self.b.select(flag, term, floats(0.0)) for flag, term in zip(chosen, terms, strict=True)]

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
