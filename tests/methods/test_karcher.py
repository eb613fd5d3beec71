"""The iteration of the Karcher mean: its result at any angles, and where there is no unique mean."""

from math import acos, cos, pi, radians, sin

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_slerp.methods.karcher import ACCURATE, KARCHER, KarcherOptions, mean_of
from fusion_slerp.methods.method import UnusableError

named = pytest.mark.parametrize


def cosines(units: np.ndarray) -> list[list[float]]:
    """Of unit vectors, with ones on the diagonal."""
    products = np.clip(units @ units.T, -1, 1)
    np.fill_diagonal(products, 1.0)
    return products.tolist()


def pair(angle_deg: float) -> list[list[float]]:
    return [[1.0, cos(radians(angle_deg))], [cos(radians(angle_deg)), 1.0]]


def cone(height: float) -> np.ndarray:
    """Three unit vectors around an axis, each as much above the equator."""
    around = [2 * pi * k / 3 for k in range(3)]
    return np.array([(cos(x) * cos(height), sin(x) * cos(height), sin(height)) for x in around])


@named("weight", [0.5, 0.3, 0.1, 0.01, 1e-4])
@named("angle_deg", [1e-3, 1.0, 60.0, 90.0, 120.0, 170.0, 179.0, 179.9])
def test_of_two_vectors_it_is_slerp(angle_deg, weight):
    """Even where the average, at which it starts, is much nearer to the heavier one than the mean is."""
    theta = acos(pair(angle_deg)[0][1])
    found = mean_of(pair(angle_deg), [1 - weight, weight])
    expected = [sin((1 - weight) * theta) / sin(theta), sin(weight * theta) / sin(theta)]
    assert found == pytest.approx(expected, rel=1e-13 / sin(theta) ** 2, abs=1e-15)


@named("height", [0.1, 0.03, 0.01, 0.003])
@named("weights", [[1 / 3] * 3, [0.5, 0.25, 0.25], [0.4, 0.35, 0.25]], ids=str)
def test_of_vectors_that_hardly_fit_on_a_half_sphere(height, weights):
    """Up to 119.999° between every two: at 120° there is no mean."""
    units = cone(height)
    found = mean_of(cosines(units), weights)
    assert found is not None
    mean = np.array(found) @ units
    assert np.linalg.norm(mean) == pytest.approx(1.0, rel=1e-9)
    assert np.linalg.norm(gradient(units, weights, mean)) <= ACCURATE


def gradient(units: np.ndarray, weights: list[float], point: np.ndarray) -> np.ndarray:
    """The weighted sum of the tangent vectors from a point to others; zero at their mean."""
    total = np.zeros_like(point)
    for unit, weight in zip(units, weights, strict=True):
        tangent = unit - (unit @ point) * point
        length = np.linalg.norm(tangent)
        if length:
            total += weight * np.arctan2(length, unit @ point) / length * tangent
    return total


sets = st.tuples(st.integers(2, 5), st.integers(2, 6), st.integers(0, 2**32 - 1))


@given(sets)
def test_no_nearby_point_is_closer_to_random_directions(drawn):
    """Compared with steps in all directions, one of which leaves the vectors' span."""
    n, width, seed = drawn
    rng = np.random.default_rng(seed)
    units = np.pad(rng.normal(size=(n, width)), ((0, 0), (0, 1)))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    weights = rng.dirichlet(np.ones(n))
    found = mean_of(cosines(units), weights.tolist())
    if found is None:
        return
    mean = np.array(found) @ units
    assert np.linalg.norm(mean) == pytest.approx(1.0, rel=1e-7)

    def distance(point: np.ndarray) -> float:
        return float(weights @ np.arccos(np.clip(units @ point / np.linalg.norm(point), -1, 1)) ** 2)

    for step in 0.01 * np.vstack([np.eye(width + 1), -np.eye(width + 1)]):
        assert distance(mean) <= distance(mean + step) + 1e-9


def test_random_directions_nearly_always_have_a_mean():
    rng, missing = np.random.default_rng(5), 0
    for _ in range(100):
        units = rng.normal(size=(rng.integers(2, 6), rng.integers(3, 7)))
        units /= np.linalg.norm(units, axis=1, keepdims=True)
        missing += mean_of(cosines(units), rng.dirichlet(np.ones(len(units))).tolist()) is None
    assert missing < 10


@named(
    ("units", "weights"),
    [
        ([(1, 0), (-1, 0)], [0.5, 0.5]),
        ([(1, 0), (-1, 0)], [0.99, 0.01]),
        ([(1, 0), (1, 0), (-1, 0)], [0.4, 0.3, 0.3]),
        ([(1, 0), (0, 1), (-1, 0), (0, -1)], [0.25] * 4),
        ([(1, 0), (0, 1), (-1, 0), (0, -1)], [0.28, 0.24, 0.24, 0.24]),
        (cone(0.0), [1 / 3] * 3),
        (cone(0.0), [0.34, 0.33, 0.33]),
    ],
    ids=["opposite", "unequal", "two against one", "four", "four, unequal", "three", "three, unequal"],
)
def test_there_is_no_unique_mean_of_directions_around_a_circle(units, weights):
    """Any mean has another one at the mirrored point, on the other side of their plane."""
    assert mean_of(cosines(np.array(units, float)), weights) is None


def test_the_order_of_the_vectors_changes_no_bit():
    rng = np.random.default_rng(6)
    units = rng.normal(size=(4, 9))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    products, weights = cosines(units), [0.4, 0.3, 0.2, 0.1]
    first = mean_of(products, weights)
    for _ in range(5):
        order = rng.permutation(4)
        turned = mean_of([[products[i][j] for j in order] for i in order], [weights[i] for i in order])
        assert turned == [first[i] for i in order]


def test_equal_vectors_share_a_direction():
    found = mean_of([[1.0] * 3] * 3, [0.5, 0.3, 0.2])
    assert found == pytest.approx([0.5, 0.3, 0.2], rel=1e-15)


@named("weights", [{"a": 1, "b": -0.5}, {"a": -1, "b": -1}], ids=str)
def test_negative_weights_are_refused(weights):
    with pytest.raises(UnusableError, match="a negative weight"):
        KARCHER.parameters(KarcherOptions(), {"weight": weights}, ("a", "b"))
