"""Kernels of methods that select elements: sums over what they select, the election of signs.

The arrays of a kernel are the words of the models, of their base, and arrays of its own. A difference is
float64: model minus base. Bit i of an element's mask says whether model i takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from llvmlite import ir

from fusion_slerp.kernels.building import Arithmetic, element, loop, of_each, of_one, summing
from fusion_slerp.kernels.elements import (
    F32,
    F64,
    I16,
    I64,
    LLVM_TYPES,
    Builder,
    Value,
    encode,
    is_not_finite,
)
from fusion_slerp.kernels.key_masks import key_limits, mask_by_key
from fusion_slerp.kernels.keys import key_of, values_at
from fusion_slerp.kernels.loops import exact_sum, sum_and_error


def elect(dtypes: Sequence[str]) -> ir.Module:
    """Clears the bits of models that are outvoted on the difference's sign.

    They vote by weight times difference; the sign is that of the sum over the selected models. A sum of zero
    counts as positive; a difference of zero has no sign.

    Arrays: models, base, masks. Factors: weights.
    """
    n = len(dtypes) - 2
    module = ir.Module("elect")
    made, b, size, (*arrays, masks), votes = of_one(module, "elect_one", I64, len(dtypes), n)
    with loop(b, size) as i:
        address = element(b, masks, i, I16)
        mask = b.zext(b.load(address, typ=I16), I64)
        kept = _elected(b, values_at(b, arrays, dtypes, i), mask, votes)
        b.store(b.trunc(kept, I16), address)
    b.ret(I64(0))
    of_each(module, made, len(dtypes), n)
    return module


def selected_sum(dtypes: Sequence[str]) -> ir.Module:
    """Stores the sum of coefficient times element over the models and their base, rounded once.

    The element's mask selects the row of coefficients. The result is the number of words that are infinite
    or NaN; what is not selected has the coefficient zero, so that its infinities are noticed too.

    Arrays: models, base, masks, words of the result, table (float64 of shape (sets, models + 1)).
    """
    module = ir.Module("selected_sum")
    of_each(module, sum_by_mask_one(module, "selected_sum_one", dtypes, Chosen(False)), len(dtypes), 0)
    return module


class Chosen(NamedTuple):
    """How the models of an element are chosen.

    Attributes:
        is_elected: Whether they lose those that `elect` clears. For a whole chunk, two loops are faster: one
            needs more vectors than there are registers (8.7 ns an element of three models, else 3.6 + 2.4).
        by_key: Whether they are those whose keys are inside limits, as `key_masks.select` finds them, which
            are then the first factors; else a mask says which, and masks are an array after the base.
    """

    is_elected: bool
    by_key: bool = False

    def n_models(self, dtypes: Sequence[str]) -> int:
        """The number of models, from the types of the arrays: models, base, masks, result, table."""
        return len(dtypes) - (3 if self.by_key else 4)


def sum_by_mask_one(module: ir.Module, name: str, dtypes: Sequence[str], chosen: Chosen) -> ir.Function:
    """Returns the part of `selected_sum` for one set; it returns how many words are infinite or NaN.

    Args:
        module: The module.
        name: The function's name.
        dtypes: Of its arrays.
        chosen: How models are chosen: the factors are limits, if by key, and votes, if they are elected.
    """
    n = chosen.n_models(dtypes)
    types, out_type = dtypes[: n + 1], dtypes[-2]
    n_limits, n_votes = 2 * n * chosen.by_key, n * chosen.is_elected
    made, b, size, given, factors = of_one(module, name, I64, len(dtypes), n_limits + n_votes)
    *arrays, out, table = given
    limits, votes = key_limits(b, factors[:n_limits]), factors[n_limits:]
    count = b.alloca(I64)
    b.store(I64(0), count)
    with loop(b, size) as i:
        values = values_at(b, arrays, types, i)
        if chosen.by_key:
            mask = b.zext(mask_by_key(b, values, limits), I64)
        else:
            mask = b.zext(b.load(element(b, arrays[-1], i, I16), typ=I16), I64)
        if chosen.is_elected:
            mask = _elected(b, values, mask, votes)
        row = b.mul(mask, I64(n + 1))
        coefficients = [b.load(element(b, table, b.add(row, I64(k)), F64), typ=F64) for k in range(n + 1)]
        total = exact_sum(b, values, coefficients, dtypes=[*types, out_type])
        word = encode(b, total, out_type)
        b.store(word, element(b, out, i, LLVM_TYPES[out_type]))
        b.store(b.add(b.load(count, typ=I64), is_not_finite(b, word, out_type)), count)
    b.ret(b.load(count, typ=I64))
    return made


def _elected(b: Builder, values: Sequence[Value], mask: Value, votes: Sequence[Value]) -> Value:
    """The mask without the models that disagree with the sign of the sum."""
    *models, base = values
    differences = [
        b.select(_has_bit(b, mask, k), b.fsub(each, base), F64(0.0)) for k, each in enumerate(models)
    ]
    is_up = b.fcmp_ordered(">=", _signed_sum(b, differences, votes), F64(0.0))
    kept: Value = I64(0)
    for k, (difference, vote) in enumerate(zip(differences, votes, strict=True)):
        is_zero = b.fcmp_ordered("==", difference, F64(0.0))
        votes_up = b.xor(b.fcmp_ordered(">", difference, F64(0.0)), b.fcmp_ordered("<", vote, F64(0.0)))
        agrees = b.icmp_unsigned("==", votes_up, is_up)
        kept = b.or_(kept, b.select(b.and_(agrees, b.not_(is_zero)), I64(1 << k), I64(0)))
    return kept


def _signed_sum(b: Builder, differences: Sequence[Value], votes: Sequence[Value]) -> Value:
    """A number with the sign of the exact sum of vote times difference.

    Products are exact as two numbers (without underflow), and three numbers hold the sum to about 150
    bits: the sign is wrong only if larger terms cancel exactly except for so much smaller ones.
    """
    products = [_product_and_error(b, x, vote) for x, vote in zip(differences, votes, strict=True)]
    (total, error), *others = products
    rest: Value = F64(0.0)
    for product, missing in others:
        total, lost = sum_and_error(b, total, product)
        for term in (missing, lost):
            error, left = sum_and_error(b, error, term)
            rest = b.fadd(rest, left)
    high, low = sum_and_error(b, total, error)
    return b.fadd(high, b.fadd(low, rest))


def _product_and_error(b: Builder, x: Value, y: Value) -> tuple[Value, Value]:
    """x*y as two numbers, exactly: halves of 26 bits, the lower ones with a sign (Dekker, Veltkamp)."""
    product = b.fmul(x, y)
    (x_high, x_low), (y_high, y_low) = _halves(b, x), _halves(b, y)
    error = b.fsub(b.fmul(x_high, y_high), product)
    for one, other in ((x_high, y_low), (x_low, y_high), (x_low, y_low)):
        error = b.fadd(error, b.fmul(one, other))
    return product, error


def _halves(b: Builder, x: Value) -> tuple[Value, Value]:
    """x rounded to 26 significant bits, and the remainder."""
    raised = b.add(b.bitcast(x, I64), I64(1 << 26))
    high = b.bitcast(b.and_(raised, I64(-(1 << 27))), F64)
    return high, b.fsub(x, high)


def magnitudes(dtypes: Sequence[str]) -> ir.Module:
    """Adds up each model's magnitudes, float32, and those of its selected elements: 2n sums.

    Arrays: models, base, masks.
    """
    n = len(dtypes) - 2
    terms = _terms_of_each(n, lambda b, values, k: _magnitude(b, b.fsub(values[k], values[n])), of_all=True)
    return summing("magnitudes", dtypes, n_factors=0, terms=terms)


def terms_of_magnitudes(n: int) -> list[Arithmetic]:
    """The 2n terms of `magnitudes` for n arrays of magnitudes, and masks."""
    return _terms_of_each(n, lambda b, values, k: values[k], of_all=True)


def squares(dtypes: Sequence[str]) -> ir.Module:
    """Adds up the squares of each model's selected differences: n sums. Arrays: models, base, masks."""
    n = len(dtypes) - 2

    def square(b: Builder, values: Sequence[Value], k: int) -> Value:
        difference = b.fsub(values[k], values[n])
        return b.fmul(difference, difference)

    return summing("squares", dtypes, n_factors=0, terms=_terms_of_each(n, square, of_all=False))


def count_sets(dtypes: Sequence[str]) -> ir.Module:
    """Counts for each model the elements that it alone has, and those that it has with others.

    Arrays: models, base, masks, counts (int64 of shape (models, 2)), which are overwritten.
    """
    n = len(dtypes) - 3
    module = ir.Module("count_sets")
    made, b, size, (*_, masks, counts), _ = of_one(module, "count_sets_one", I64, len(dtypes), 0)
    totals = [b.alloca(I64) for _ in range(2 * n)]
    for total in totals:
        b.store(I64(0), total)
    with loop(b, size) as i:
        mask = b.zext(b.load(element(b, masks, i, I16), typ=I16), I64)
        for k in range(n):
            is_alone = b.icmp_unsigned("==", mask, I64(1 << k))
            is_shared = b.xor(_has_bit(b, mask, k), is_alone)
            for total, flag in zip(totals[2 * k :], (is_alone, is_shared), strict=False):
                b.store(b.add(b.load(total, typ=I64), b.zext(flag, I64)), total)
    for k, total in enumerate(totals):
        b.store(b.load(total, typ=I64), element(b, counts, I64(k), I64))
    b.ret(I64(0))
    of_each(module, made, len(dtypes), 0)
    return module


def _terms_of_each(
    n: int, term_of: Callable[[Builder, Sequence[Value], int], Value], of_all: bool
) -> list[Arithmetic]:
    """A term of each of n models where the mask selects it, each after that of all elements, if `of_all`.

    Args:
        n: Number of models.
        term_of: Takes one value of each array, of which the last is the mask, and the index of the model.
        of_all: See above.
    """

    def term(k: int, is_selected: bool) -> Arithmetic:
        def of_element(b: Builder, values: Sequence[Value], factors: Sequence[Value]) -> Value:
            size = term_of(b, values, k)
            mask = b.fptoui(values[-1], I64)
            return b.select(_has_bit(b, mask, k), size, F64(0.0)) if is_selected else size

        return of_element

    kinds = (False, True) if of_all else (True,)
    return [term(k, is_selected) for k in range(n) for is_selected in kinds]


def _magnitude(b: Builder, difference: Value) -> Value:
    return b.fpext(b.bitcast(key_of(b, b.fptrunc(difference, F32)), F32), F64)


def _has_bit(b: Builder, mask: Value, k: int) -> Value:
    return b.icmp_unsigned("!=", b.and_(mask, I64(1 << k)), I64(0))
