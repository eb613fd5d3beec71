"""Standard errors and intervals on simulated losses, whose dependence is known."""

import math

import numpy as np
import pytest

from fusion_slerp.evaluation.evaluation import Evaluation, TextEvaluation, difference
from fusion_slerp.evaluation.statistics import (
    Estimate,
    block_bounds,
    estimate,
    mean_of,
    student_quantile,
)

N_SIMULATIONS = 1000
RHO = 0.3
SEVERAL = [150, 30, 600, 350, 20, 1000, 250, 50] * 2
"""Tokens of documents."""


def simulated(rng, lengths: list[int], rho: float = RHO, shared: float = 0.0) -> list[list[np.ndarray]]:
    """Losses of mean 0 and variance 1 that follow an AR(1) process within each document.

    `shared` is the part of the variance that all tokens of a document have in common. Returns for each
    simulation one array a document.
    """
    documents = []
    for length in lengths:
        steps = rng.standard_normal((length, N_SIMULATIONS)) * math.sqrt(1 - rho**2)
        steps[0] /= math.sqrt(1 - rho**2)
        for i in range(1, length):
            steps[i] += rho * steps[i - 1]
        common = rng.standard_normal(N_SIMULATIONS)
        documents.append((steps * math.sqrt(1 - shared) + common * math.sqrt(shared)).T.copy())
    return [[document[i] for document in documents] for i in range(N_SIMULATIONS)]


def text_of(losses: list[np.ndarray]) -> TextEvaluation:
    return TextEvaluation(tuple(losses), "tokens", 1, 1.0)


@pytest.mark.parametrize(
    ("lengths", "shared"),
    [([2000], 0), (SEVERAL, 0), (SEVERAL, 0.05), ([40] * 100, 0), ([40] * 100, 0.2)],
    ids=["one document", "several", "several that differ", "short", "short that differ"],
)
def test_the_interval_of_the_paired_difference_holds_in_95_of_100_cases(lengths, shared):
    rng = np.random.default_rng(16)
    passages = [4 + rng.standard_normal() + 2 * rng.standard_normal(length) for length in lengths]
    other = Evaluation({"text": text_of(passages)})
    gap = 0.02
    covered = {"text": 0, "average": 0}
    for noise in simulated(rng, lengths, shared=shared):
        of = [passage + gap + 0.3 * each for passage, each in zip(passages, noise, strict=True)]
        found = difference(Evaluation({"text": text_of(of)}), other)
        for name, each in found.items():
            covered[name] += each.low <= gap <= each.high
    assert covered["text"] == covered["average"]
    assert 0.93 <= covered["text"] / N_SIMULATIONS <= 0.97


def test_the_interval_of_an_average_of_unlike_texts_holds_in_95_of_100_cases():
    rng = np.random.default_rng(17)
    long, short = simulated(rng, [1500]), simulated(rng, [250])
    averages = (mean_of([estimate(one), estimate(other)]) for one, other in zip(long, short, strict=True))
    covered = sum(each.low <= 0 <= each.high for each in averages)
    assert 0.93 <= covered / N_SIMULATIONS <= 0.97


@pytest.mark.parametrize("rho", [0.0, RHO, 0.6])
def test_the_error_is_that_of_the_process(rho):
    n = 3000
    found = [estimate(each).stderr for each in simulated(np.random.default_rng(1), [n], rho)]
    expected = math.sqrt((1 + rho) / (1 - rho) / n)
    assert np.mean(found) == pytest.approx(expected, rel=0.05)


def bootstrap_error(values: np.ndarray, length: int, rng) -> float:
    """The standard error of the mean by the circular block bootstrap (Politis and Romano, 1992)."""
    n_blocks = math.ceil(len(values) / length)
    starts = rng.integers(len(values), size=(500, n_blocks))
    positions = (starts[:, :, None] + np.arange(length)) % len(values)
    return float(values[positions.reshape(500, -1)[:, : len(values)]].mean(axis=1).std(ddof=1))


@pytest.mark.parametrize("rho", [0.0, RHO, 0.6])
def test_the_error_from_blocks_is_that_of_a_bootstrap(rho):
    rng = np.random.default_rng(2)
    values = [each[0] for each in simulated(rng, [3000], rho)[:16]]
    ratios = []
    for each in values:
        length = int(np.diff(block_bounds(each)).max())
        ratios.append(estimate([each]).stderr / bootstrap_error(each, length, rng))
    assert np.mean(ratios) == pytest.approx(1, abs=0.05)


def test_neighbours_that_depend_on_each_other_get_longer_blocks_and_a_larger_error():
    rng = np.random.default_rng(3)
    for rho, shortest in ((0.0, 16), (0.9, 100)):
        values = simulated(rng, [4000], rho)[0][0]
        lengths = np.diff(block_bounds(values))
        assert lengths.min() >= shortest
        assert lengths.max() - lengths.min() <= 1
    single = float(values.std(ddof=1)) / math.sqrt(len(values))
    assert estimate([values]).stderr > 3 * single


def test_documents_that_differ_are_seen():
    documents = [
        np.full(50, float(i * 7 % 20)) + np.random.default_rng(i).standard_normal(50) for i in range(20)
    ]
    found = estimate(documents)
    means = np.array([each.mean() for each in documents])
    assert found.n_blocks == 20
    assert found.stderr == pytest.approx(means.std(ddof=1) / math.sqrt(20))


def test_a_mean_counts_each_token_the_same():
    found = estimate([np.array([1.0, 2.0, 4.0]), np.array([]), np.array([8.0])])
    assert found.value == 3.75
    assert found.low < 3.75 < found.high


def test_few_tokens_have_wide_intervals():
    few, many = (estimate([np.tile([1.0, 3.0], n)]) for n in (1, 400))
    assert few.stderr == 1
    assert few.high == pytest.approx(2 + 12.706, abs=1e-3)
    assert many.high - many.low < 0.3


@pytest.mark.parametrize("values", [[], [2.0], [1.0, math.nan, 3.0], [1.0, math.inf, 2.0]])
def test_where_nothing_can_be_said_there_is_no_error(values):
    found = estimate([np.array(values)])
    assert math.isnan(found.stderr)
    assert math.isnan(found.low)
    assert not found.differs_from_zero


def test_equal_models_do_not_differ():
    found = estimate([np.zeros(100)])
    assert (found.value, found.stderr, found.low, found.high) == (0, 0, 0, 0)
    assert not found.differs_from_zero


def test_an_average_weighs_estimates_alike():
    found = mean_of([Estimate(1.0, 0.3, 10, 9.0), Estimate(3.0, 0.4, 20, 19.0)])
    assert (found.value, found.stderr, found.n_blocks) == (2.0, 0.25, 30)
    assert found.freedom == pytest.approx(0.25**2 / (0.3**4 / 9 + 0.4**4 / 19), rel=1e-9)


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [
        (1, 12.7062),
        (2, 4.30265),
        (5, 2.57058),
        (30, 2.04227),
        (999, 1.96234),
        (1001, 1.96234),
        (1e9, 1.95996),
    ],
)
def test_quantiles_are_those_of_the_tables(freedom, expected):
    assert student_quantile(freedom) == pytest.approx(expected, rel=3e-5)


def test_quantiles_of_broken_degrees_of_freedom_lie_between():
    assert student_quantile(3) < student_quantile(2.5) < student_quantile(2)
    assert math.isnan(student_quantile(0))
