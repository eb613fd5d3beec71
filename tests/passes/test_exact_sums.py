"""Sums without rounding errors: those of `math.fsum`, whatever the order, in memory that does not grow."""

import tracemalloc
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import permutations
from math import fsum, inf, isnan, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_slerp.passes.exact_sums import ExactSums, sum_of_columns

FINITE = st.floats(-1e300, 1e300)


def joined(terms: Sequence[np.ndarray]) -> np.ndarray:
    return reduce(ExactSums.join, map(ExactSums, terms)).totals()


@given(terms=st.lists(FINITE, min_size=1, max_size=30), data=st.data())
def test_they_are_those_of_fsum_in_any_order(terms, data):
    expected = fsum(terms)
    for order in (terms, data.draw(st.permutations(terms)), sorted(terms), sorted(terms, key=abs)):
        assert joined([np.array(term) for term in order]).item() == expected


@given(
    rows=st.lists(st.tuples(FINITE, FINITE, st.floats(-1, 1)), min_size=1, max_size=12),
    data=st.data(),
)
def test_sums_lie_side_by_side_and_parts_are_joined_in_any_shape(rows, data):
    """As parts that threads summed separately."""
    expected = [fsum(column) for column in zip(*rows, strict=True)]
    parts = [ExactSums(np.array(row)) for row in rows]
    while len(parts) > 1:
        i, j = data.draw(st.permutations(range(len(parts))).map(lambda order: order[:2]))
        one, other = parts[i], parts[j]
        parts = [part for part in parts if part is not one and part is not other] + [one.join(other)]
    assert parts[0].totals().tolist() == expected


def test_the_shape_stays_and_the_terms_are_not_altered():
    rng = np.random.default_rng(1)
    terms = [rng.standard_normal((3, 5)) * 10.0**k for k in range(-9, 9)]
    kept = [each.copy() for each in terms]
    found = joined(terms)
    assert (found.shape, found.dtype) == ((3, 5), np.float64)
    for index in np.ndindex(3, 5):
        assert found[index] == fsum(each[index] for each in terms)
    for each, before in zip(terms, kept, strict=True):
        np.testing.assert_array_equal(each, before)


def test_no_sums_and_a_single_term():
    assert joined([np.empty((3, 0)), np.empty((3, 0))]).shape == (3, 0)
    assert joined([np.array([1.0, -0.0, inf])]).tolist() == [1.0, -0.0, inf]


@pytest.mark.parametrize(
    ("terms", "fits"),
    [
        ([1.0, inf, 2.0], lambda total: total in (inf,) or isnan(total)),
        ([-inf, 1.0, 1e300], lambda total: total in (-inf,) or isnan(total)),
        ([inf, 1.0, -inf], isnan),
        ([1.0, nan, 2.0], isnan),
        ([1.7e308, 1.7e308, 1.0], lambda total: not np.isfinite(total)),
    ],
    ids=["inf", "-inf", "both", "nan", "overflow"],
)
def test_what_is_not_finite_stays_so_in_any_order(terms, fits: Callable[[float], bool]):
    for order in (terms, terms[::-1], [*terms[1:], terms[0]]):
        assert fits(joined([np.array([term]) for term in order]).item())


@pytest.mark.parametrize("bad", [inf, -inf, nan], ids=str)
def test_a_sum_that_is_not_finite_leaves_the_others_exact(bad):
    """Otherwise they would depend on which chunk was measured first."""
    for terms in ([2.0**-52, 2.0**-108, 0.5, 1.5], [-3 * 2.0**-107, 2.0**-108, 2.0**-53, 2.0**-54]):
        pairs = [np.array([bad if i == 0 else 1.0, term]) for i, term in enumerate(terms)]
        for order in permutations(pairs):
            first, second = joined(order).tolist()
            assert not np.isfinite(first)
            assert second == fsum(terms)


@pytest.mark.parametrize("bad", [None, inf], ids=str)
@pytest.mark.parametrize("width", [3, 3000])
def test_memory_and_work_do_not_grow_with_the_number_of_terms(width, bad):
    rng = np.random.default_rng(2)

    def part() -> ExactSums:
        terms = rng.standard_normal(width) * 10.0 ** rng.integers(-8, 8, width)
        if bad is not None:
            terms[0] = bad
        return ExactSums(terms)

    total = part()
    for _ in range(50):
        total.join(part())
    tracemalloc.start()
    try:
        for _ in range(400):
            total.join(part())
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 40 * 8 * width + 20_000


def test_sums_of_columns_are_added_block_by_block():
    rng = np.random.default_rng(3)
    blocks = [[rng.standard_normal((n, 4)) for _ in range(2)] for n in (5, 1, 7)]
    found = sum_of_columns(blocks)
    assert found.shape == (2, 4)
    for k in range(2):
        expected = reduce(np.add, [block[k].sum(axis=0) for block in blocks])
        np.testing.assert_array_equal(found[k], expected)
    spoilt = sum_of_columns([[np.array([[1e308, inf, 1.0], [1e308, -inf, 2.0]])]])
    assert np.isfinite(spoilt).tolist() == [[False, False, True]]
