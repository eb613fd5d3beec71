"""Breadcrumbs, with and without elected signs, against sorting and exact fractions."""

from fractions import Fraction

import numpy as np
import pytest

from fusion_slerp import kernels
from fusion_slerp.methods.breadcrumbs import (
    BREADCRUMBS,
    BreadcrumbsOptions,
    BreadcrumbsParameters,
    breadcrumbs,
)
from fusion_slerp.methods.breadcrumbs_ties import BREADCRUMBS_TIES, breadcrumbs_ties
from fusion_slerp.methods.method import Unit
from fusion_slerp.passes import ranks
from fusion_slerp.passes.protocols import Made
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
from tests.methods.test_ties import rescaling
from tests.reference import BF16, F16, F32, FORMATS, Format

named = pytest.mark.parametrize
by_name = {"ids": lambda format: format.name}


def parameters(weights, densities, gammas, factor=1.0, normalize=False, rescale=False):
    return BreadcrumbsParameters(tuple(weights), tuple(densities), factor, normalize, rescale, tuple(gammas))


def kept(difference: np.ndarray, density: float, gamma: float) -> set[int]:
    """Without the largest; then as many as the density says, or all that are left."""
    n = difference.size
    n_out = int(gamma * n)
    return largest(difference, min(n, n_out + int(density * n))) - largest(difference, n_out)


def assert_made(p, words: list[np.ndarray], format: Format, is_elected: bool, size: int = 400) -> Made:
    n = words[0].size
    steps = (breadcrumbs_ties if is_elected else breadcrumbs)(p, Unit("w", n, n))
    made = decided(steps, words, size)
    deltas = differences(words, format)
    chosen = [kept(*each) for each in zip(deltas, p.densities, p.gammas, strict=True)]
    sets = sets_of(chosen, n)
    found = [[i for i in range(len(deltas)) if mask >> i & 1] for mask in made_masks(made, words, size)]
    assert without_zeros(found, deltas) == without_zeros(sets, deltas)
    factors = rescaling(deltas, chosen) if p.rescale else [Fraction(1)] * len(deltas)
    votes = [Fraction(w) * f for w, f in zip(p.weights, factors, strict=True)]

    def row(of_set: list[int]) -> list[Fraction]:
        summed = of_set if is_elected else range(len(votes))
        divisor = sum(Fraction(p.weights[i]) for i in summed) if p.normalize else 1
        return [Fraction(p.factor) * votes[i] / (divisor or 1) for i in of_set]

    assert_table(made.combine.table.rows, row)
    result, n_bad = written(made, words, size, format)
    assert n_bad == 0
    if is_elected:
        found = elected(sets, deltas, [float(vote) for vote in votes])
    assert_nearest(result, made.combine.table.rows, found, words, format)
    return made


def without_zeros(sets, deltas):
    """Models that do not differ from the base change nothing."""
    return [[i for i in models if deltas[i][j]] for j, models in enumerate(sets)]


CASES = {
    "usual": parameters([1.0, 1.0, 1.0], [0.9, 0.9, 0.9], [0.01, 0.01, 0.01]),
    "round weights": parameters([0.3, 0.3, 0.4], [0.2, 0.5, 0.85], [0.1, 0.02, 0.15]),
    "normalised": parameters([0.5, 1.0, 0.3], [0.4, 0.5, 0.6], [0.3, 0.2, 0.1], normalize=True),
    "rescaled": parameters([0.5, 1.0, -0.3], [0.4, 0.5, 0.6], [0.3, 0.2, 0.1], rescale=True),
    "together more than everything": parameters([1.0, 1.0], [0.95, 1.0], [0.1, 0.5]),
    "ends": parameters([1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.5], [0.5, 0.0, 1.0, 0.0]),
    "scaled": parameters([0.7], [0.5], [0.25], factor=0.6),
}


@named("is_elected", [False, True])
@named("case", CASES)
@named("format", FORMATS.values(), **by_name)
def test_elements_are_those_of_a_stable_sort_and_sums_are_exact(format, case, is_elected):
    p = CASES[case]
    assert_made(p, fine_tunes(format, len(p.weights), 600), format, is_elected)


@named("is_elected", [False, True])
@named("case", ["usual", "round weights", "normalised", "together more than everything"])
@named("format", [BF16, F16], **by_name)
def test_counting_and_the_kernels_in_float32_give_the_same(format, case, is_elected, monkeypatch):
    monkeypatch.setattr(kernels, "FAST_ELEMENTS", 0)
    monkeypatch.setattr(ranks, "SMALL", 0)
    p = CASES[case]
    assert_made(p, fine_tunes(format, len(p.weights), 2300, seed=2), format, is_elected, size=1150)


@named("rescale", [False, True])
@named("size", [1, 6, 100])
def test_both_cuts_in_one_group_of_equal_magnitudes(size, rescale):
    """The first three are left out, the next five kept, and the others are left out again."""
    words = [words_of(0.5 * (-1.0) ** np.arange(20), F32), words_of(np.zeros(20), F32)]
    p = parameters([1.0], [0.25], [0.15], rescale=rescale)
    made = assert_made(p, words, F32, False, size)
    assert made_masks(made, words, size) == [0] * 3 + [1] * 5 + [0] * 12


def test_a_density_of_one_does_not_switch_gamma_off():
    """mergekit's default drops nothing."""
    words = [words_of(np.arange(100.0) + 1, F32), words_of(np.zeros(100), F32)]
    made = decided(breadcrumbs(parameters([1.0], [1.0], [0.05]), Unit("w", 100, 100)), words, 100)
    assert made_masks(made, words, 100) == [1] * 95 + [0] * 5


def test_gamma_counts_even_if_the_density_asks_for_more_than_is_left():
    """mergekit drops 5 of 100 at a density of 0.95 and a gamma of 0.1."""
    words = [words_of(np.arange(100.0) + 1, F32), words_of(np.zeros(100), F32)]
    made = decided(breadcrumbs(parameters([1.0], [0.95], [0.1]), Unit("w", 100, 100)), words, 100)
    assert made_masks(made, words, 100) == [1] * 90 + [0] * 10


@named("n", [0, 1, 2])
def test_tensors_of_few_elements(n):
    words = fine_tunes(F32, 2, n, seed=n)
    assert_made(parameters([1.0, 2.0], [0.9, 1.0], [0.01, 0.6]), words, F32, False)


def test_the_options_and_their_parameters():
    options = BreadcrumbsOptions()
    assert (options.density, options.gamma, options.normalize, options.rescale) == (1.0, 0.01, False, False)
    values = {"weight": {"a": 1.0, "b": 2.0}, "density": {"a": 0.9, "b": 0.8}, "gamma": {"a": 0.1, "b": 0.2}}
    for method in (BREADCRUMBS, BREADCRUMBS_TIES):
        p = method.parameters(options, values, ("a", "b", "base"))
        assert p == parameters([1.0, 2.0], [0.9, 0.8], [0.1, 0.2])
        assert method.passes(p) == (1, 2)
        assert list(method.used(p)) == [0, 1, 2]
    assert BREADCRUMBS.passes(parameters([1.0], [1.0], [0.0], rescale=True)) == (1, 1)
    assert BREADCRUMBS.passes(parameters([1.0], [1.0], [0.01])) == (1, 2)
    assert BREADCRUMBS.passes(parameters([1.0, 1.0], [0.0, 0.5], [0.0, 1.0])) == (0, 0)
