"""The sentence that says how a model compares with others."""

import math

import numpy as np
import pytest

from fusion_slerp.evaluation.comparison import Comparison
from fusion_slerp.evaluation.evaluation import Evaluation, TextEvaluation

NOISE = np.random.default_rng(0).standard_normal((3, 400)) * 0.05
NOISE -= NOISE.mean(axis=1, keepdims=True)
PASSAGES = 2 * np.random.default_rng(1).standard_normal(400)
PASSAGES -= PASSAGES.mean()


def evaluation(loss: float, noise: int = 0, digest: str = "tokens") -> Evaluation:
    return Evaluation({"x": TextEvaluation((PASSAGES + loss + NOISE[noise],), digest, 1000, 1.0)})


def verdict(merged: Evaluation, **others: Evaluation) -> str:
    return Comparison({"merged": merged, **others}, "merged").verdict()


def test_a_difference_that_is_more_than_noise_is_named_with_its_interval():
    better = verdict(evaluation(3.71), a=evaluation(4.06, 1), b=evaluation(4.5, 2))
    assert better.startswith(
        "merged: lowest average loss (3.710), 0.350 below the best baseline, a (95 % interval -0.3"
    )
    worse = verdict(evaluation(4.25), a=evaluation(4.5, 1), b=evaluation(4.0, 2))
    assert worse.startswith(
        "merged: average loss 4.250, 0.250 above the best baseline, b (95 % interval +0.2"
    )


def test_noise_is_not_sold_as_a_gain():
    sentence = verdict(evaluation(4.0), a=evaluation(4.001, 1))
    assert sentence.startswith(
        "merged: average loss 4.000, not distinguishable from the best baseline, a (95 % interval -0.0"
    )


def test_others_that_are_not_distinguishable_are_named_as_well():
    noisy = Evaluation({"x": TextEvaluation((PASSAGES + 3.9 + 40 * NOISE[2],), "tokens", 1000, 1.0)})
    sentence = verdict(evaluation(4.0), a=evaluation(3.8, 1), b=noisy)
    assert "0.200 above the best baseline, a" in sentence
    assert sentence.endswith("; not distinguishable from b")


def test_equal_models_are_the_same():
    assert (
        verdict(evaluation(4.0), a=evaluation(4.0))
        == "merged: average loss 4.000, the same as the best baseline, a"
    )


@pytest.mark.parametrize("others", [{}, {"a": evaluation(math.nan)}])
def test_without_another_model_there_is_nothing_to_compare(others):
    assert verdict(evaluation(4.0), **others).endswith(
        "average loss 4.000; there is no other model to compare it with"
    )


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_broken_weights_are_named(loss):
    expected = f"merged: the average loss is {loss}; check the weights for NaN or infinity"
    assert verdict(evaluation(loss), a=evaluation(4.0)) == expected


def test_models_with_other_tokens_are_compared_by_bits():
    lines = verdict(evaluation(4.0), a=evaluation(4.5, 1), z=evaluation(5.5, 2, digest="other")).splitlines()
    assert lines[0].startswith("merged: lowest average loss (4.000), 0.500 below the best baseline, a")
    assert lines[1].startswith("z reads other tokens: merged needs 0.866 bits per byte less (95 % interval -")
    alike = verdict(evaluation(4.0), z=evaluation(4.01, 2, digest="other")).splitlines()
    assert alike[0].endswith("there is no model with these tokens to compare it with")
    assert alike[1].startswith("z reads other tokens: not distinguishable in bits per byte (95 % interval -")


def test_without_texts_there_is_no_verdict():
    assert verdict(Evaluation()) == ""
