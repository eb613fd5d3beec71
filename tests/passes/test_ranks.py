"""Cuts at ranks, by counting and by sorting, against a sorted list."""

from collections.abc import Sequence

import numpy as np
import pytest

from fusion_slerp.kernels.selecting import KEY_END
from fusion_slerp.passes import ranks
from fusion_slerp.passes.protocols import Steps
from fusion_slerp.passes.ranks import EVERYTHING, NOTHING, SPREAD, Cut, LowerBits, cut_of_spread, cuts
from tests.kernels.test_kernels import ALL, by_name, named, ordinary
from tests.kernels.test_keys import close_to, keys_of
from tests.methods.selection_reference import chunks_of, fine_tunes, spread
from tests.reference import BF16, F32, F64, Format


def driven(steps: Steps, words: Sequence[np.ndarray], size: int):
    """What a generator of measures returns, and the measures that it requested."""
    asked = []
    try:
        measure = next(steps)
        while True:
            asked.append(measure)
            total = None
            for start, chunk in enumerate(chunks_of(words, size)):
                part = measure.part(chunk, start * size)
                total = part if total is None else total.join(part)
            measure = steps.send(measure.value(total))
    except StopIteration as end:
        return end.value, asked


def is_among_largest(cut: Cut, keys: np.ndarray) -> list[bool]:
    """Whether each element is among the largest, as a selection decides it."""
    left = cut.quota
    result = []
    for key in keys.tolist():
        result.append(key > cut.key or (key == cut.key and left > 0))
        left -= key == cut.key
    return result


def expected(keys: np.ndarray, k: int) -> list[bool]:
    order = np.argsort(-keys.astype(np.int64), kind="stable")[: max(0, k)]
    return np.isin(np.arange(keys.size), order).tolist()


@pytest.fixture(params=["counted", "sorted"])
def way(request, monkeypatch) -> str:
    monkeypatch.setattr(ranks, "SMALL", 0 if request.param == "counted" else 10**9)
    return request.param


@named("size", [100, 10**6])
@named("format", ALL, **by_name)
def test_the_largest_are_those_of_a_stable_sort(format: Format, size, way):
    words = fine_tunes(format, 2, 1000)
    of = [keys_of(each, words[-1], (format, format)) for each in words[:2]]
    wanted = {0: [1, 10, 250, 500, 501, 999], 1: [700, 2]}
    found, asked = driven(cuts(wanted, 1000), words, size)
    assert len(asked) == 1 if way == "sorted" else len(asked) <= 2
    for i, of_model in wanted.items():
        for k, cut in zip(of_model, found[i], strict=True):
            result, keys = is_among_largest(cut, of[i]), of[i]
            assert [r for r, key in zip(result, keys, strict=True) if key] == [
                r for r, key in zip(expected(keys, k), keys, strict=True) if key
            ], k
            assert cut.quota == 0 or cut.n_equal == (keys == cut.key).sum()


@named("format", ALL, **by_name)
def test_every_rank(format: Format, way):
    base = ordinary(format, 60, seed=1)
    model = close_to(base, format, seed=2)
    keys = keys_of(model, base, (format, format))
    for k in range(62):
        found, _ = driven(cuts({0: [k]}, 60), [model, base], 7)
        if k < (keys > 0).sum():
            assert is_among_largest(found[0][0], keys) == expected(keys, k)


def test_ranks_at_the_ends_need_no_pass(way):
    found, asked = driven(cuts({0: [0, 5], 1: [-1, 9]}, 5), [np.ones(5)] * 3, 5)
    assert found == {0: [NOTHING, EVERYTHING], 1: [NOTHING, EVERYTHING]}
    assert asked == []
    found, asked = driven(cuts({0: [0]}, 0), [np.ones(0)] * 2, 5)
    assert (found, asked) == ({0: [NOTHING]}, [])


def test_rows_of_other_units_count_as_zeros(way):
    """They are zeros in all sources, and the unit has fewer elements than its chunks."""
    words = [np.array([0, 3, 0, 0, 1, 0, 0.0]), np.zeros(7)]
    found, _ = driven(cuts({0: [1, 2]}, 3), words, 3)
    one, two = found[0]
    assert (one.quota, one.n_equal) in ((1, 1), (0, 0))
    assert one.first_key > int(np.float32(1).view(np.uint32)) >= two.first_key


def test_16_bit_differences_need_one_pass_as_a_rule(monkeypatch):
    monkeypatch.setattr(ranks, "SMALL", 0)
    base = ordinary(BF16, 20000, seed=1)
    model = close_to(base, BF16, seed=2)
    _, asked = driven(cuts({0: [2000, 10000]}, 20000), [model, base], 5000)
    assert len(asked) == 1
    base = ordinary(F32, 20000, seed=1)
    model = close_to(base, F32, seed=2)
    _, asked = driven(cuts({0: [2000, 10000]}, 20000), [model, base], 5000)
    assert [type(measure) for measure in asked][1] is LowerBits


def test_a_rank_that_ends_a_bin_needs_one_pass(monkeypatch):
    monkeypatch.setattr(ranks, "SMALL", 0)
    model = np.array([1.0 + 2**-20, 1.0 + 2**-19, 0.5 + 2**-20, 0.5 + 2**-21])
    found, asked = driven(cuts({0: [2]}, 4), [model, np.zeros(4)], 4)
    assert len(asked) == 1
    assert found[0][0].quota == 0
    assert is_among_largest(found[0][0], keys_of(model, np.zeros(4), (F64, F64))) == [
        True,
        True,
        False,
        False,
    ]
    found, asked = driven(cuts({0: [1]}, 4), [model, np.zeros(4)], 4)
    assert len(asked) == 2
    assert is_among_largest(found[0][0], keys_of(model, np.zeros(4), (F64, F64))) == [
        False,
        True,
        False,
        False,
    ]


def test_differences_below_the_smallest_float32_are_zero(way):
    words = [np.array([1e-50, -1e-46, 0.0, 1.0]), np.zeros(4)]
    (cut,) = driven(cuts({0: [2]}, 4), words, 4)[0][0]
    assert (cut.key, cut.first_key, cut.is_between_equals) == (0, 0, False)


def test_cuts_in_words():
    assert (NOTHING.first_key > KEY_END, EVERYTHING.first_key) == (True, 0)
    assert (NOTHING.magnitude_of_quota, EVERYTHING.magnitude_of_quota) == (0.0, 0.0)
    key = int(np.float32(0.5).view(np.uint32))
    between, whole = Cut(key, 2, 3), Cut(key, 3, 3)
    assert (between.is_between_equals, between.first_key, between.magnitude_of_quota) == (True, key + 1, 1.0)
    assert (whole.is_between_equals, whole.first_key, whole.magnitude_of_quota) == (False, key, 1.5)


@named("share", [1e-9, 0.1, 0.5, 0.999])
@named("format", [BF16, F32], **by_name)
def test_the_spread_of_models(format: Format, share):
    words = fine_tunes(format, 3, 800)
    of = spread(words, format)
    k = int(share * np.count_nonzero(of))
    cut, asked = driven(cut_of_spread(share), words, 300)
    assert asked[0].models == (SPREAD,)
    if not k:
        assert cut == NOTHING
        return
    least = np.sort(of)[-k]
    taken = of.view(np.uint32) >= cut.key + (not cut.quota)
    np.testing.assert_array_equal(taken, of >= least)
