"""TIES against sorting and exact fractions: which elements are kept, who agrees, and what is written."""

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest

from fusion_slerp import kernels
from fusion_slerp.methods.method import Unit, UnusableError
from fusion_slerp.methods.sparse import MOST_MODELS, SparseParameters
from fusion_slerp.methods.ties import TIES, TiesOptions, ties
from fusion_slerp.passes import ranks
from fusion_slerp.passes.protocols import Made, NotFiniteError
from tests.methods.selection_reference import (
    assert_nearest,
    assert_table,
    decided,
    differences,
    elected,
    fine_tunes,
    largest,
    made_masks,
    sets_of,
    words_of,
    written,
)
from tests.reference import BF16, F16, F32, F64, FORMATS, Format, decode, encode

named = pytest.mark.parametrize
by_name = {"ids": lambda format: format.name}
N = 700


def parameters(weights, densities, factor=1.0, normalize=True, rescale=False) -> SparseParameters:
    return SparseParameters(tuple(weights), tuple(densities), factor, normalize, rescale)


def unit(words: list[np.ndarray]) -> Unit:
    return Unit("w", words[0].size, words[0].size)


def n_kept(density: float, n: int) -> int:
    return min(n, max(1, int(density * n))) if density else 0


def assert_made(p: SparseParameters, words: list[np.ndarray], format: Format, size: int = 400) -> Made:
    """Compares everything with the reference; the unit has chunks of a size."""
    n = words[0].size
    made = decided(ties(p, unit(words)), words, size)
    deltas = differences(words, format)
    kept = [largest(d, n_kept(density, n)) for d, density in zip(deltas, p.densities, strict=True)]
    sets = sets_of(kept, n)
    changed = [[i for i in models if deltas[i][j]] for j, models in enumerate(sets)]
    found = [[i for i in range(len(deltas)) if mask >> i & 1] for mask in made_masks(made, words, size)]
    assert [[i for i in models if deltas[i][j]] for j, models in enumerate(found)] == changed
    factors = rescaling(deltas, kept) if p.rescale else [Fraction(1)] * len(deltas)
    votes = [Fraction(w) * f for w, f in zip(p.weights, factors, strict=True)]

    def row(chosen: list[int]) -> list[Fraction]:
        divisor = sum(Fraction(p.weights[i]) for i in chosen) if p.normalize else 1
        return [Fraction(p.factor) * votes[i] / (divisor or 1) for i in chosen]

    assert_table(made.combine.table.rows, row)
    agreeing = elected(sets, deltas, [float(vote) for vote in votes])
    result, n_bad = written(made, words, size, format)
    assert n_bad == 0
    assert_nearest(result, made.combine.table.rows, agreeing, words, format)
    return made


def rescaling(deltas: list[np.ndarray], kept: list[set[int]]) -> list[Fraction]:
    sums = []
    for delta, chosen in zip(deltas, kept, strict=True):
        sizes = [Fraction(float(x)) for x in np.abs(delta.astype(np.float32))]
        part = sum((sizes[j] for j in chosen), Fraction())
        sums.append(sum(sizes, Fraction()) / part if part else Fraction(1))
    return sums


CASES = {
    "equal weights": parameters([1, 1, 1], [0.5, 0.5, 0.5]),
    "round weights": parameters([0.3, 0.3, 0.4], [0.2, 0.5, 0.9]),
    "negative": parameters([1.0, 0.5, -0.3], [0.5, 0.3, 0.29]),
    "plain sum": parameters([0.7, 0.2, 0.4], [0.3, 0.3, 0.3], normalize=False),
    "scaled": parameters([1, 1, 1], [0.4, 0.6, 0.8], factor=0.6),
    "rescaled": parameters([0.5, 0.25, 0.8], [0.1, 0.5, 0.7], rescale=True),
    "ends": parameters([1, 2, 3], [0.0, 1.0, 1e-9]),
    "whole": parameters([1, 1, 1], [1.0, 1.0, 1.0]),
    "two": parameters([0.6, 0.4], [0.5, 0.2]),
    "one": parameters([0.8], [0.4], normalize=False),
}


@named("case", CASES)
@named("format", FORMATS.values(), **by_name)
def test_elements_are_those_of_a_stable_sort_and_sums_are_exact(format, case):
    p = CASES[case]
    assert_made(p, fine_tunes(format, len(p.weights), N), format)


@named("case", ["equal weights", "round weights", "negative", "plain sum", "scaled", "two"])
@named("format", [BF16, F16], **by_name)
def test_counting_and_the_kernels_in_float32_give_the_same(format, case, monkeypatch):
    monkeypatch.setattr(kernels, "FAST_ELEMENTS", 0)
    monkeypatch.setattr(ranks, "SMALL", 0)
    p = CASES[case]
    assert_made(p, fine_tunes(format, len(p.weights), 2500, seed=3), format, size=1150)


@named("size", [1, 7, 400, 10**6])
def test_quotas_of_equal_magnitudes_run_through_the_chunks(size):
    """All magnitudes are equal, and the cut lies in the middle of a chunk, or at its end."""
    n = 40
    base = np.full(n, 0.25)
    models = [words_of(base + 0.125 * (-1) ** np.arange(n), F32), words_of(base - 0.0625, F32)]
    words = [*models, words_of(base, F32)]
    for density in (0.025, 0.175, 0.2, 0.5, 0.975, 1.0):
        p = parameters([1, 1], [density, 1 - density], normalize=False)
        made = assert_made(p, words, F32, size)
        masks = made_masks(made, words, size)
        k = int(density * n)
        assert [mask & 1 for mask in masks] == [1] * k + [0] * (n - k)


def test_of_equal_magnitudes_those_with_the_lower_index_are_kept():
    base = np.zeros(8)
    change = np.array([1.0, -2.0, 1.0, 2.0, -1.0, 1.0, 0.0, -1.0])
    words = [words_of(change, BF16), words_of(base, BF16)]
    made = decided(ties(parameters([1.0], [0.5]), unit(words)), words, 8)
    assert made_masks(made, words, 8) == [1, 1, 1, 1, 0, 0, 0, 0]
    result, _ = written(made, words, 8, BF16)
    assert decode(result, BF16).tolist() == [1.0, -2.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0]


@named("n", [0, 1, 2, 3])
@named("density", [0.0, 0.3, 1.0])
def test_tensors_of_few_elements(n, density):
    """At least one element is kept, unless the density is zero."""
    words = fine_tunes(F32, 2, n, seed=n)
    assert_made(parameters([1.0, 2.0], [density, density]), words, F32)


@named("count", [2, 5, MOST_MODELS])
def test_many_models(count):
    words = fine_tunes(BF16, count, 300, seed=count)
    weights = [0.1 * (i + 1) for i in range(count)]
    assert_made(parameters(weights, [0.6] * count), words, BF16)


def test_any_order_of_the_models_gives_the_same_bytes():
    words = fine_tunes(BF16, 4, 2000)
    weights, densities = [0.1, 0.2, 0.3, 0.7], [0.3, 0.8, 0.5, 0.4]
    results = set()
    for order in permutations(range(4)):
        p = parameters([weights[i] for i in order], [densities[i] for i in order], rescale=True)
        of = [*(words[i] for i in order), words[-1]]
        results.add(written(decided(ties(p, unit(of)), of, 700), of, 700, BF16)[0].tobytes())
    assert len(results) == 1


def test_differences_that_cancel_count_as_positive_whatever_their_weights():
    """0.1 has no exact float64, and the products' rounding errors must not decide."""
    rng = np.random.default_rng(5)
    base = rng.normal(0, 0.02, 600)
    changes = 0.01 * rng.normal(0, 1, (2, 600))
    rounded = [np.round(x * 2**16) / 2**16 for x in (base, *changes)]
    base, one, other = rounded
    words = [words_of(base + d, F64) for d in (one, other, -one - other)]
    words.append(words_of(base, F64))
    for weight in (0.1, 0.3, 1 / 3, 0.7):
        p = parameters([weight] * 3, [1.0] * 3)
        made = assert_made(p, words, F64)
        assert selected_signs(made, words) == {1}
    # The fourth has another weight, and no difference: so the three are no longer all that vote.
    words.insert(3, words[-1].copy())
    made = assert_made(parameters([0.1, 0.1, 0.1, 0.7], [1.0] * 4), words, F64)
    assert selected_signs(made, words) == {1}


def selected_signs(made: Made, words: list[np.ndarray]) -> set[int]:
    """The signs of what was added to the base."""
    result, _ = written(made, words, 10**6, F64)
    moved = decode(result, F64) - decode(words[-1], F64)
    return set(np.sign(moved[np.abs(moved) > 1e-9]).astype(int).tolist())


@named("bad", [np.nan, np.inf, -np.inf], ids=str)
@named("where", [0, 1, 2])
@named("density", [0.0, 0.3, 1.0])
@named("format", [BF16, F32], **by_name)
@named("fast", [False, True])
def test_what_is_not_finite_is_noticed_even_if_it_is_not_selected(
    format, density, where, bad, fast, monkeypatch
):
    monkeypatch.setattr(kernels, "FAST_ELEMENTS", 0 if fast else 1 << 60)
    words = fine_tunes(format, 2, 2100)
    values = decode(words[where], format)
    values[1234] = bad
    words[where] = encode(values, format).view(words[where].dtype)
    p = parameters([1.0, 1.0], [density, density])
    made = decided(ties(p, unit(words)), words, 1050)
    assert written(made, words, 1050, format)[1] >= 1


def test_rescaling_refuses_what_is_not_finite():
    words = fine_tunes(F32, 2, 50)
    words[1][7] = np.nan
    with pytest.raises(NotFiniteError):
        decided(ties(parameters([1, 1], [0.5, 0.5], rescale=True), unit(words)), words, 20)


# From options to parameters.


def made_from(normalize: bool = True, labels: str = "ab", **weights: float) -> SparseParameters:
    values = {"weight": weights, "density": dict.fromkeys(weights, 0.5)}
    return TIES.parameters(TiesOptions(normalize=normalize), values, (*labels, "base"))


def test_models_without_weight_are_left_out_and_without_any_the_base_is_copied():
    p = made_from(labels="abc", a=1.0, b=0.0, c=2.0)
    assert list(TIES.used(p)) == [0, 2, 3]
    assert TIES.copied(p) is None
    assert TIES.copied(made_from(a=0.0, b=0.0)) == 2
    assert TIES.copied(TIES.parameters(TiesOptions(towards_base=1.0), values_of(a=1.0, b=1.0), "ab-")) == 2
    assert TIES.copied(TIES.parameters(TiesOptions(scaling_factor=0.0), values_of(a=1.0, b=1.0), "ab-")) == 2


def values_of(**weights: float) -> dict[str, dict[str, float]]:
    return {"weight": weights, "density": dict.fromkeys(weights, 0.5)}


def test_weights_that_sum_to_zero_are_refused_where_they_divide():
    with pytest.raises(UnusableError, match="weights that sum to zero: a 1, b -1"):
        made_from(a=1.0, b=-1.0)
    assert made_from(normalize=False, a=1.0, b=-1.0).weights == (1.0, -1.0)


def test_too_many_models_are_refused():
    labels = [f"m{i}" for i in range(MOST_MODELS + 1)]
    values = {"weight": dict.fromkeys(labels, 1.0), "density": dict.fromkeys(labels, 0.5)}
    with pytest.raises(UnusableError, match="13 models: sets of at most 12 are distinguished"):
        TIES.parameters(TiesOptions(), values, [*labels, "base"])


@named(
    ("densities", "rescale", "expected"),
    [
        ((0.5, 1.0), False, (1, 2)),
        ((0.0, 1.0), False, (0, 0)),
        ((1.0, 1.0), True, (1, 1)),
        ((0.5,), True, (2, 3)),
    ],
)
def test_the_passes(densities, rescale, expected):
    p = parameters([1.0] * len(densities), densities, rescale=rescale)
    assert TIES.passes(p) == expected
