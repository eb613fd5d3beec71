"""SCE against sorting and exact fractions."""

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest

from fusion_slerp import kernels
from fusion_slerp.methods.method import Unit
from fusion_slerp.methods.sce import SCE, SceOptions, SceParameters, sce
from fusion_slerp.passes.protocols import Made, NotFiniteError
from fusion_slerp.passes.weighted_sum import WeightedSum
from tests.methods.selection_reference import (
    Sets,
    assert_nearest,
    assert_table,
    decided,
    differences,
    elected,
    fine_tunes,
    made_masks,
    masks_of,
    spread,
    words_of,
    written,
)
from tests.reference import BF16, F16, F32, F64, FORMATS, Format

named = pytest.mark.parametrize
by_name = {"ids": lambda format: format.name}


def selected(words: list[np.ndarray], format: Format, share: float) -> Sets:
    """All models where their spread is among the largest, equal ones included."""
    n = len(words) - 1
    of = spread(words, format)
    if share == 1:
        return [list(range(n))] * of.size
    k = int(share * np.count_nonzero(of))
    least = np.sort(of)[-k] if k else np.inf
    return [list(range(n)) if x >= least else [] for x in of]


def assert_made(p: SceParameters, words: list[np.ndarray], format: Format, size: int = 400) -> Made:
    made = decided(sce(p, Unit("w", words[0].size, words[0].size)), words, size)
    deltas = differences(words, format)
    sets = selected(words, format, p.share)
    assert made_masks(made, words, size) == masks_of(sets)
    energies = [
        sum((Fraction(float(d[j])) ** 2 for j, models in enumerate(sets) if models), Fraction())
        for d in deltas
    ]

    def row(chosen: list[int]) -> list[Fraction]:
        total = sum(energies[i] for i in chosen)
        return [Fraction(p.factor) * energies[i] / total if total else Fraction(0) for i in chosen]

    assert_table(made.combine.table.rows, row)
    agreeing = elected(sets, deltas, [1.0] * len(deltas))
    result, n_bad = written(made, words, size, format)
    assert n_bad == 0
    assert_nearest(result, made.combine.table.rows, agreeing, words, format)
    return made


@named("share", [1.0, 0.5, 0.1, 1e-6])
@named("n", [2, 3, 4])
@named("format", FORMATS.values(), **by_name)
def test_selected_elements_weights_and_sums(format, n, share):
    assert_made(SceParameters(n, share, 1.0), fine_tunes(format, n, 600), format)


@named("share", [1.0, 0.3])
@named("format", [BF16, F16], **by_name)
def test_the_kernels_in_float32_give_the_same(format, share, monkeypatch):
    monkeypatch.setattr(kernels, "FAST_ELEMENTS", 0)
    assert_made(SceParameters(3, share, 0.7), fine_tunes(format, 3, 2300), format, size=1150)


def test_elements_of_equal_variance_are_all_taken():
    base = words_of(np.zeros(10), F32)
    words = [words_of(np.array([1, 1, 2, 1, 1, 0, 0, 0, 0, 0]), F32), base, base]
    for share, taken in ((0.2, [2]), (0.4, [0, 1, 2, 3, 4]), (0.19, [])):
        made = assert_made(SceParameters(2, share, 1.0), words, F32)
        assert [j for j, mask in enumerate(made_masks(made, words, 3)) if mask] == taken


@named("scale", [1.0, 2e-4, 1e-12])
def test_no_size_of_the_differences_is_special(scale):
    """mergekit makes the weights equal if their mean squares add up to less than 1e-6."""
    base, sign = np.zeros(8), (-1.0) ** np.arange(8)
    words = [words_of(scale * sign, F64), words_of(3 * scale * sign, F64), words_of(base, F64)]
    made = assert_made(SceParameters(2, 1.0, 1.0), words, F64)
    np.testing.assert_allclose(made.combine.table.rows[3], [0.1, 0.9, 0.0], atol=1e-15)


def test_any_order_of_the_models_gives_the_same_bytes():
    words = fine_tunes(BF16, 4, 2000)
    results = set()
    for order in permutations(range(4)):
        of = [*(words[i] for i in order), words[-1]]
        made = decided(sce(SceParameters(4, 0.2, 1.0), Unit("w", 2000, 2000)), of, 700)
        results.add(written(made, of, 700, BF16)[0].tobytes())
    assert len(results) == 1


@named("share", [0.5, 1.0])
def test_models_that_do_not_differ_give_the_base(share):
    base = fine_tunes(F32, 1, 50)[-1]
    for words in ([base, base, base], [base + np.float32(1), base + np.float32(1), base]):
        p = SceParameters(2, share, 1.0)
        result, _ = written(decided(sce(p, Unit("w", 50, 50)), words, 20), words, 20, F32)
        np.testing.assert_array_equal(result, words[0] if share == 1 else base)


def test_one_model_is_the_result():
    """mergekit's selection of one model is empty, which gives the base."""
    for share in (0.1, 1.0):
        assert SCE.copied(SceParameters(1, share, 1.0)) == 0
        p = SceParameters(1, share, 0.75)
        assert SCE.copied(p) is None
        made = decided(sce(p, Unit("w", 4, 4)), [np.zeros(4)] * 2, 4)
        assert made.combine == WeightedSum((0.75, 0.25))
        assert SCE.passes(p) == (0, 0)


@named("share", [0.3, 1.0])
@named("bad", [np.nan, np.inf])
@named("where", [0, 1, 2])
def test_what_is_not_finite_is_noticed(where, bad, share):
    words = fine_tunes(F32, 2, 100)
    words[where][31] = bad
    try:
        made = decided(sce(SceParameters(2, share, 1.0), Unit("w", 100, 100)), words, 40)
    except NotFiniteError:
        return
    assert (where, share) == (2, 0.3)  # the base is measured only where the models differ most
    assert written(made, words, 40, F32)[1] == 1


@named("n", [0, 1, 2])
def test_tensors_of_few_elements(n):
    assert_made(SceParameters(2, 0.5, 1.0), fine_tunes(F32, 2, n), F32)


def test_twelve_models():
    assert_made(SceParameters(12, 0.3, 1.0), fine_tunes(BF16, 12, 200), BF16)


def test_the_options_and_their_parameters():
    assert SceOptions().select_topk == 1.0
    p = SCE.parameters(SceOptions(select_topk=0.2, towards_base=0.25), {}, ("a", "b", "base"))
    assert p == SceParameters(2, 0.2, 0.75)
    assert list(SCE.used(p)) == [0, 1, 2]
    assert SCE.copied(p) is None
    assert SCE.copied(SCE.parameters(SceOptions(towards_base=1.0), {}, ("a", "b", "base"))) == 2
    assert SCE.passes(p) == (2, 3)
    assert SCE.passes(SceParameters(2, 1.0, 1.0)) == (1, 1)
