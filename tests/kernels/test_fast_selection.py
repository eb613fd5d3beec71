"""Sums by mask in float32, with doubtful elements in float64: the same words as the loops in float64."""

from collections.abc import Callable, Sequence
from itertools import pairwise, product

import numpy as np
import pytest

from fusion_slerp import kernels
from fusion_slerp.kernels import compiler, doubts, fast_selection, selected_sums, selecting
from fusion_slerp.kernels.building import element, loop, of_one
from fusion_slerp.kernels.doubts import SPAN, STRETCH
from fusion_slerp.kernels.drawing import packed
from fusion_slerp.kernels.elements import I16, I64
from fusion_slerp.kernels.fast_selection import MASKS, UNPACKED, Form, fast_selected_sum, is_fast
from fusion_slerp.kernels.selected_sums import SetSums
from fusion_slerp.kernels.table_factors import MOST_MODELS, Factors, are_alike, can_vote, factors_of
from fusion_slerp.methods.sparse import SparseParameters, by_set, table_of
from fusion_slerp.passes.selections import _scaled
from tests.kernels.test_kernels import HALVES, all_sorts, by_name, named, ordinary, words_for_kernels
from tests.kernels.test_keys import close_to
from tests.reference import BF16, F16, Format, decode, encode, round_to

WEIGHTS = {
    "equal": [1.0, 1.0, 1.0, 1.0],
    "round": [0.3, 0.3, 0.4, 0.1],
    "powers": [1.0, 0.5, 0.25, -0.5],
    "signs": [1.0, -1.0, 1.0, -1.0],
    "any": [0.7234519, -0.2765481, 0.13371, 1.93],
    "thirds": [1 / 3] * 4,
    "small": [1e-3, 1.0, 1e-4, 0.2],
    "too small": [1e-9, 1.0, 1e-30, 0.2],
    "large": [1e7, 1.0, 3e6, 2.0],
}


def both(monkeypatch, words: Sequence[np.ndarray], masks, table, votes, out: Format) -> tuple[int, int]:
    """Compares the words of both kernels; returns the counts of words that are not finite.

    Then with packed masks.
    """

    def of_packed(result: np.ndarray) -> int:
        return selected_sums.sum_of_packed(
            words, packed(masks, len(words) - 1), SetSums(table, votes), result
        )

    if masks.size:
        slow_and_fast(monkeypatch, of_packed, masks.size, out)

    def by_mask(result: np.ndarray) -> int:
        return selected_sums.sum_by_mask(words, masks.copy(), SetSums(table, votes), result)

    return slow_and_fast(monkeypatch, by_mask, masks.size, out)


def slow_and_fast(monkeypatch, make: Callable[[np.ndarray], int], n: int, out: Format) -> tuple[int, int]:
    """As `both`, for n words that a function stores."""
    results, counts = [], []
    for limit in (1 << 60, 0):
        monkeypatch.setattr(kernels, "FAST_ELEMENTS", limit)
        result = words_for_kernels(np.full(n, 0x1234, np.uint16), out)
        counts.append(make(result))
        results.append(result)
    np.testing.assert_array_equal(results[1], results[0])
    return counts[0], counts[1]


def in_parts(words: Sequence[np.ndarray]) -> list[tuple[slice, list[tuple[int, int]]]]:
    """Three parts, unless there are too few words, each with limits among the models' keys."""
    size, n, end = words[0].size, len(words) - 1, selecting.KEY_END
    borders = sorted({0, size // 3, size // 3 + 1, size})
    found = []
    for j, (first, stop) in enumerate(pairwise(borders)):
        keys = [np.sort(selecting.keys_of(each, words[-1])) for each in words[:-1]]
        middle = [int(each[size // (2 + (i + j) % 3)]) for i, each in enumerate(keys)]
        limits = [(each, end if (i + j) % 2 else each + 2) for i, each in enumerate(middle)]
        found.append((slice(first, stop), [*limits[: n - 1], (0, end) if j else (end, end)]))
    return found


def assert_same(monkeypatch, words, weights, out: Format, factor=1.0, masks=None) -> None:
    """With and without an election, divided and not."""
    n = len(words) - 1
    if masks is None:
        masks = np.random.default_rng(1).integers(0, 1 << n, words[0].size).astype(np.uint16)
    for normalize, is_elected in product((True, False), repeat=2):
        p = SparseParameters(tuple(weights), (1.0,) * n, factor, normalize, False)
        table = np.array(table_of(p, None, is_elected))
        votes = _scaled(weights) if is_elected else None
        one, other = both(monkeypatch, words, masks, table, votes, out)
        assert one == other
        if words[0].size:
            assert_same_by_key(monkeypatch, words, table, votes, out)


def assert_same_by_key(monkeypatch, words, table, votes, out: Format) -> None:
    """The models of each element are chosen by key."""
    parts = in_parts(words)

    def by_key(result: np.ndarray) -> int:
        return selected_sums.sum_by_key(words, parts, SetSums(table, votes), result)

    one, other = slow_and_fast(monkeypatch, by_key, words[0].size, out)
    assert one == other


@named("kind", WEIGHTS)
@named("n", [1, 2, 3, 4])
@named("format", HALVES, **by_name)
def test_the_words_are_those_of_float64(format, n, kind, monkeypatch):
    size = 4 * SPAN
    base = ordinary(format, size, seed=0)
    models = [close_to(base, format, seed=i + 1, scale=3e-4 * 2**i) for i in range(n)]
    assert_same(monkeypatch, [*models, base], WEIGHTS[kind][:n], format)
    rng = np.random.default_rng(n)
    rare = [rng.permutation(all_sorts(format, size, seed=i)) for i in range(n + 1)]
    assert_same(monkeypatch, [each[:size] for each in rare], WEIGHTS[kind][:n], format)
    mixed = [
        np.where(rng.random(size) < 0.02, r[:size], p) for p, r in zip([*models, base], rare, strict=True)
    ]
    assert_same(monkeypatch, mixed, WEIGHTS[kind][:n], format, factor=0.5)


@named("formats", [(BF16, F16, BF16), (F16, BF16, F16), (BF16, BF16, F16), (F16, F16, BF16)], ids=str)
def test_types_may_be_mixed(formats, monkeypatch):
    model, base, out = formats
    of_base = ordinary(base, 3 * SPAN, seed=0)
    near = close_to(words_for_kernels(encode(round_to(decode(of_base, base), model), model), model), model, 1)
    for weights in ([1.0, 1.0], [0.3, 0.9]):
        assert_same(monkeypatch, [near, near[::-1].copy(), of_base], weights, out)


@named("format", HALVES, **by_name)
def test_every_word_with_some_others(format, monkeypatch):
    """All 65,536 words, infinities and NaN included."""
    every = words_for_kernels(np.arange(1 << 16, dtype=np.uint16), format)
    for other in np.concatenate([all_sorts(format, 9, seed=1)[:9], ordinary(format, 4, seed=2)]):
        beside = np.full_like(every, other)
        masks = np.resize(np.arange(4, dtype=np.uint16), every.size)
        for words in ([every, beside, beside], [beside, beside, every], [beside, every, every]):
            n = len(words) - 1
            p = SparseParameters((1.0,) * n, (1.0,) * n, 1.0, True, False)
            table = np.array(table_of(p, None, is_elected=True))
            bad, also_bad = both(monkeypatch, words, masks, table, [1.0] * n, format)
            assert bad == also_bad >= every.size - np.isfinite(decode(every, format)).sum()


@named("format", HALVES, **by_name)
def test_sums_that_cancel_and_sums_that_lie_halfway(format, monkeypatch):
    """Small multiples of one step: most pairs cancel or have their mean between two words."""
    size = 8 * SPAN
    rng, one = np.random.default_rng(3), format.bias << format.fraction_bits
    steps = [(rng.integers(0, 6, size) + one).astype("u2") for _ in range(4)]
    words = [words_for_kernels(each, format) for each in steps]
    for weights in ([1.0, 1.0, 1.0], [0.5, 0.25, 0.25], [-1.0, 1.0, 1.0], [0.1, 0.1, 0.1], [0.1, 0.2, 0.3]):
        for factor in (1.0, 0.5, 0.3):
            assert_same(monkeypatch, words, weights, format, factor)


@named("size", [0, 1, 63, SPAN - 1, SPAN, SPAN + 1, 2 * SPAN + 18, STRETCH + SPAN + 5, UNPACKED + 6])
def test_any_length(size, monkeypatch):
    base = ordinary(BF16, size, seed=0)
    words = [*(close_to(base, BF16, seed=i) for i in (1, 2, 3)), base]
    for weights in ([1.0, 1.0, 1.0], [0.1, 0.2, 0.4]):
        assert_same(monkeypatch, words, weights, BF16)


def test_most_elements_of_fine_tunes_are_not_doubtful(monkeypatch):
    """Else float64 would do the work: its loop is exchanged for one that writes NaN."""

    def spoilt(module, name, dtypes, chosen):
        n_votes = chosen.n_models(dtypes) if chosen.is_elected else 0
        made, b, size, (*_, out, _table), _votes = of_one(module, name, I64, len(dtypes), n_votes)
        with loop(b, size) as i:
            b.store(I16(0x7FC0), element(b, out, i, I16))
        b.ret(I64(0))
        return made

    size = 32 * SPAN
    base = ordinary(BF16, size, seed=0)
    words = [*(close_to(base, BF16, seed=i + 1, scale=2e-4 * 2**i) for i in range(3)), base]
    masks = np.random.default_rng(1).integers(0, 8, size).astype(np.uint16)
    monkeypatch.setattr(kernels, "FAST_ELEMENTS", 0)
    monkeypatch.setattr(fast_selection, "sum_by_mask_one", spoilt)
    monkeypatch.setattr(compiler, "_functions", {})
    for weights, most in (([1.0, 1.0, 1.0], 0.001), ([1.0, 0.5, 0.25], 0.003), ([0.3, 0.3, 0.4], 0.05)):
        p = SparseParameters(tuple(weights), (1.0,) * 3, 1.0, True, False)
        out = np.zeros(size, np.uint16)
        table = SetSums(np.array(table_of(p, None, is_elected=True)), _scaled(weights))
        selected_sums.sum_by_mask(words, masks, table, out)
        assert 0 < (out == 0x7FC0).mean() < most, weights


# Factors of a table.


def test_tables_and_their_factors():
    p = SparseParameters((1.0, -1.0, 1.0), (1.0,) * 3, 1.0, False, False)
    found = factors_of(np.array(table_of(p, None, is_elected=True)))
    odd = float(np.nextafter(np.float32(1), np.float32(2)))  # the sum of one is a word
    assert found == Factors((1.0, -1.0, 1.0), (0.0, odd, 1.0, 1.0, odd, 1.0, 1.0, 1.0))
    assert found.has_simple_shares
    halves = SparseParameters((2.0, 2.0), (1.0,) * 2, 1.0, True, False)
    assert factors_of(np.array(table_of(halves, None, is_elected=True))) == Factors(
        (1.0, 1.0), (0.0, odd, odd, 0.5)
    )


def test_shares_that_are_not_simple_have_an_odd_last_bit():
    p = SparseParameters((0.3, 0.4), (1.0,) * 2, 1.0, True, False)
    found = factors_of(np.array(table_of(p, None, is_elected=True)))
    assert found is not None
    bits = [int(np.float32(share).view(np.uint32)) & 1 for share in found.shares]
    assert bits == [0, 1, 1, 1]  # nobody: nothing
    assert not found.has_simple_shares


def test_tables_without_factors_are_left_to_float64():
    table = np.array(by_set(3, lambda chosen: [1.0 + i * len(chosen) for i in chosen]))
    assert factors_of(table) is None
    huge = SparseParameters((1e6, 1.0), (1.0,) * 2, 1.0, False, False)
    assert factors_of(np.array(table_of(huge, None, is_elected=True))) is None
    assert factors_of(np.zeros((4, 3))) is None
    many = SparseParameters((1.0,) * 5, (1.0,) * 5, 1.0, False, False)
    assert factors_of(np.array(table_of(many, None, is_elected=True))) is None
    spoilt = np.array(table_of(SparseParameters((1.0, 1.0), (1.0, 1.0), 1.0, True, False), None, True))
    spoilt[3, 2] = 1e-9
    assert factors_of(spoilt) is None


def test_votes_that_are_scales_elect_the_same():
    assert are_alike([0.3, 0.6, 0.15], [0.5, 1.0, 0.25])
    assert are_alike([-0.3, 0.6], [-0.5, 1.0])
    assert not are_alike([0.3, 0.6], [0.5, 0.999])
    assert not are_alike([1.0, 1.0], [1.0, 0.0])
    assert not are_alike([-1.0, 1.0], [1.0, -1.0]), "a sum of zero counts as positive"


@named(
    ("weights", "is_elected", "expected"),
    [
        ([0.6, 0.3, 0.2], True, Form(MASKS, True, has_halves=False, has_own_votes=False)),
        ([0.6, 0.3, 0.2], False, Form(MASKS, False, has_halves=False, has_own_votes=False)),
        ([0.5, 0.3, 0.2], True, Form(MASKS, True, has_halves=True, has_own_votes=False)),
        ([1.0, 1.0, 1.0], True, Form(MASKS, True, has_halves=True, has_own_votes=False)),
        ([1.0, 0.5, 0.25], False, Form(MASKS, False, has_halves=True, has_own_votes=False)),
    ],
)
def test_the_form_of_a_table(weights, is_elected, expected, monkeypatch):
    monkeypatch.setattr(kernels, "FAST_ELEMENTS", 0)
    p = SparseParameters(tuple(weights), (1.0,) * 3, 1.0, False, False)
    table = SetSums(np.array(table_of(p, None, is_elected)), _scaled(weights) if is_elected else None)
    words = [np.zeros(4, np.uint16)] * 4
    found = table.fast(words, words[0], MASKS)
    assert found is not None
    assert found[0] is fast_selected_sum(expected)
    equal = table._replace(votes=(1.0, 1.0, 1.0)).fast(words, words[0], MASKS)
    assert equal is not None
    assert equal[0] is fast_selected_sum(Form(MASKS, True, True, has_own_votes=weights != [1.0] * 3))


def test_votes_of_one_sign_for_terms_of_two_are_left_to_float64(monkeypatch):
    """Their magnitudes do not add up to that of their sum, which bounds its error."""
    assert can_vote([1.0, 2.0], [0.5, 1.0])
    assert can_vote([-1.0, 2.0], [0.5, -1.0])
    assert can_vote([1.0, 2.0], [-1.0, 0.0])
    assert not can_vote([1.0, 2.0], [0.5, -1.0])
    base = ordinary(BF16, 16 * SPAN, seed=0)
    values, moved = decode(base, BF16), np.random.default_rng(1).normal(0, 2.0**-6, base.size)
    models = [values * (1 + factor * moved) for factor in (1.0, 1.01)]
    words = [*(words_for_kernels(encode(round_to(x, BF16), BF16), BF16) for x in models), base]
    table = np.array(by_set(2, lambda chosen: [(30000.0, -29999.0)[i] for i in chosen]))
    assert factors_of(table) is not None
    both(monkeypatch, words, np.full(base.size, 3, np.uint16), table, [1.0, 1.0], BF16)


def test_only_16_bit_types_and_few_models_are_fast(monkeypatch):
    assert is_fast(["uint16"] * (MOST_MODELS + 2))
    assert not is_fast(["uint16"] * (MOST_MODELS + 3))
    assert not is_fast(["uint16", "uint16", "float32"])
    monkeypatch.setattr(doubts, "has_float16", lambda: False)
    assert not is_fast(["int16", "int16", "int16"])


def test_a_table_of_another_shape_is_refused():
    words = [np.zeros(4, np.float32)] * 3
    with pytest.raises(ValueError, match="needed: 4 rows of 3"):
        selected_sums.sum_by_mask(words, np.zeros(4, np.uint16), SetSums(np.zeros((2, 2))), words[0].copy())
