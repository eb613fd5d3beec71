"""Vectors that are zero, opposite, or cancel each other: each case by a named rule."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.methods import fifty_digits as exact
from tests.methods.span_cases import Case, alone, named


def decided(method: str, models: Sequence[Any], base: Any = None, weights: Sequence[float] = (1, 1, 1, 1, 1)):
    """The decision for short vectors."""
    case = Case(method, lambda v, w: [], base is not None, base is not None)
    words = [np.array(each, np.float64) for each in [*models, *([] if base is None else [base])]]
    return case.decide(words, weights)


A, B, ZERO = (3.0, 4.0), (0.0, 2.0), (0.0, 0.0)


@named("method", ["multislerp", "karcher"])
def test_a_zero_vector_has_no_direction_but_counts_in_the_length(method):
    """With one other it is the weighted average; one zero of three leaves 2/3 of the length."""
    c, zero = decided(method, [A, ZERO], weights=(0.3, 0.7)).combine.coefficients
    assert (c, zero) == (pytest.approx(0.3, rel=1e-15), 0)
    made = decided(method, [A, B, ZERO])
    expected = [2 / 3 * c for c in decided(method, [A, B]).combine.coefficients]
    assert made.combine.coefficients[:2] == pytest.approx(expected, rel=1e-14)
    assert made.combine.coefficients[2] == 0


@named("method", ["multislerp", "karcher"])
def test_zero_vectors_alone_are_averaged(method):
    made = decided(method, [ZERO, ZERO, ZERO], weights=(1, 2, 1))
    assert (made.combine.coefficients, made.rule) == ((0.25, 0.5, 0.25), "lerp: zero vector")
    assert made.angle_deg is None


@named("scale", [1.0, 1.3, 0.1, 7e-5])
@named("method", ["multislerp", "karcher"])
def test_opposite_vectors_are_averaged(method, scale):
    """mergekit's karcher takes the first one."""
    a = np.random.default_rng(2).normal(0, 0.02, 500)
    made = decided(method, [a, -scale * a])
    assert made.combine.coefficients == (0.5, 0.5)
    assert made.rule in ("lerp: directions cancel", "lerp: no unique mean")
    unequal = decided(method, [a, -scale * a], weights=(3, 1))
    if method == "karcher":
        assert (unequal.combine.coefficients, unequal.rule) == ((0.75, 0.25), "lerp: no unique mean")
    else:  # the direction of the heavier one
        assert unequal.rule == "multislerp"
        length = 0.75 + 0.25 * scale
        assert unequal.combine.coefficients == pytest.approx([1.5 * length, 0.5 * length / scale], rel=1e-12)


@named("method", ["multislerp", "karcher"])
def test_three_directions_that_cancel_each_other_are_averaged(method):
    """mergekit stops with an error."""
    corners = [(np.cos(x), np.sin(x)) for x in (0.1, 0.1 + 2 * np.pi / 3, 0.1 + 4 * np.pi / 3)]
    made = decided(method, corners)
    assert made.combine.coefficients == pytest.approx([1 / 3] * 3, rel=1e-15)
    assert made.rule in ("lerp: directions cancel", "lerp: no unique mean")


def test_model_stock_ends_at_the_base():
    """mergekit's t is -18 for a cosine of -0.9."""
    angle = np.arccos(-0.9)
    made = decided("model_stock", [(1.0, 0.0), (np.cos(angle), np.sin(angle))], ZERO)
    assert (made.combine.coefficients, made.rule) == ((0, 0, 1), "model_stock: base")
    assert made.angle_deg == pytest.approx(np.degrees(angle), rel=1e-12)


def test_model_stock_has_no_absolute_threshold():
    """mergekit's 1e-6 made t = 0.004 of 0.89."""
    ordinary = decided("model_stock", [(1.0, 0.0), (0.8, 0.6)], ZERO).combine.coefficients
    assert ordinary == pytest.approx([4 / 9, 4 / 9, 1 / 9], rel=1e-14)
    for scale in (2.0**-15, 2.0**-100, 2.0**-300):
        tiny = decided("model_stock", [(scale, 0.0), (0.8 * scale, 0.6 * scale)], ZERO)
        assert tiny.combine.coefficients == ordinary


def test_model_stock_of_unchanged_models():
    assert decided("model_stock", [A, A], A).rule == "model_stock: zero vectors"
    made = decided("model_stock", [A, B, ZERO], ZERO)
    cosine = 0.8 / 3  # of three pairs, two have a zero vector
    assert sum(made.combine.coefficients[:3]) == pytest.approx(3 * cosine / (1 + 2 * cosine), rel=1e-14)


def test_slerp_of_task_vectors_interpolates_linearly_with_one_that_is_zero():
    """mergekit's nuslerp takes 0.707 of the other at t = 0.5."""
    base = (1.0, -1.0)
    made = decided("slerp", [(4.0, 3.0), base], base)
    assert (made.combine.coefficients, made.rule) == ((0.5, 0.5, 0.0), "lerp: zero vector")
    assert made.gram.norms == (5.0, 0.0)


def test_warp_of_a_model_that_is_its_base():
    made = decided("warp", [A, ZERO, B], ZERO)
    assert made.rule == "lerp: zero vector"
    fold = Case("slerp", alone(exact.slerp, 1 / 3), options={"t": 1 / 3})
    s0, s1 = fold.decide([np.array(A) / 2, np.array(B)]).combine.coefficients
    assert made.combine.coefficients[:3] == pytest.approx([s0 / 2, 0, s1], rel=1e-14)
