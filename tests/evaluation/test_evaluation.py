"""Scores, differences, and files of evaluations."""

import math

import numpy as np
import pytest

from fusion_slerp.evaluation.evaluation import (
    Evaluation,
    TextEvaluation,
    difference,
    difference_fields,
    difference_in_bits,
    load,
    perplexity,
    save,
)


def text(
    *documents: list[float], digest: str = "a", n_bytes: int = 10, seconds: float = 2.0
) -> TextEvaluation:
    return TextEvaluation(tuple(np.array(each) for each in documents), digest, n_bytes, seconds)


def test_scores_of_a_text():
    scores = text([1.0, 2.0, 4.0], [8.0]).scores
    assert scores["loss"] == 3.75
    assert scores["perplexity"] == math.exp(3.75)
    assert scores["tokens"] == 4
    assert scores["tokens_per_s"] == 2
    assert scores["bits_per_byte"] == pytest.approx(15 / math.log(2) / 10)
    assert scores["loss_stderr"] > 0


def test_average_counts_each_text_the_same():
    long, short = text([1.0, 0.9] * 500), text([3.0, 3.2])
    average = Evaluation({"long": long, "short": short}).scores["average"]
    assert average["loss"] == pytest.approx((0.95 + 3.1) / 2)
    assert average["perplexity"] == math.exp(average["loss"])
    assert average["loss_stderr"] == pytest.approx(math.hypot(long.loss_stderr, short.loss_stderr) / 2)
    assert average["bits_per_byte"] == pytest.approx((long.bits_per_byte + short.bits_per_byte) / 2)


def test_without_texts_there_are_no_scores():
    assert Evaluation().scores == {}
    assert difference(Evaluation(), Evaluation()) == {}


def test_perplexity_of_a_huge_loss_is_infinite():
    assert perplexity(800.0) == math.inf
    assert math.isnan(perplexity(math.nan))


def test_a_difference_is_taken_token_by_token():
    rng = np.random.default_rng(0)
    hard, noise = 4 + 2 * rng.standard_normal(500), 0.1 * rng.standard_normal(500)
    of, from_ = Evaluation({"x": text(list(hard + 0.05 + noise))}), Evaluation({"x": text(list(hard))})
    found = difference(of, from_)
    assert list(found) == ["x", "average"]
    assert found["x"].value == pytest.approx(of.texts["x"].loss - from_.texts["x"].loss)
    assert found["x"].stderr < of.texts["x"].loss_stderr / 5
    assert found["x"].differs_from_zero
    back = difference(from_, of)["x"]
    assert (back.value, back.low, back.high) == (-found["x"].value, -found["x"].high, -found["x"].low)


def test_only_texts_of_equal_tokens_are_paired():
    of = Evaluation({"x": text([1.0, 2.0]), "y": text([1.0, 2.0], digest="other"), "z": text([3.0, 4.0])})
    from_ = Evaluation({"x": text([2.0, 2.0]), "y": text([1.0, 2.0, 3.0])})
    assert list(difference(of, from_)) == ["x"]


def test_bits_per_byte_compare_models_with_any_tokens():
    of = Evaluation({"x": text([1.0, 2.0, 1.5, 1.5])})
    from_ = Evaluation({"x": text([2.0, 4.0, 3.0], digest="other")})
    found = difference_in_bits(of, from_)
    bits_of, bits_from = of.texts["x"].bits, from_.texts["x"].bits
    assert found.value == pytest.approx(6 / math.log(2) / 10 - 9 / math.log(2) / 10)
    assert found.stderr == pytest.approx(math.hypot(bits_of.stderr, bits_from.stderr))


def test_a_saved_evaluation_is_loaded_as_it_was(tmp_path):
    evaluation = Evaluation({"ein Text": text([1.0, 2.5], [], [3.0]), "y": text([0.1] * 7, digest="b")})
    save(evaluation, tmp_path / "a.npz")
    loaded = load(tmp_path / "a.npz")
    assert loaded.scores == evaluation.scores
    assert [each.tolist() for each in loaded.texts["ein Text"].losses] == [[1.0, 2.5], [], [3.0]]
    assert difference(loaded, evaluation)["average"].value == 0


def test_fields_are_plain_numbers():
    of, from_ = Evaluation({"x": text([1.0, 2.0, 3.0])}), Evaluation({"x": text([1.0, 1.0, 1.0])})
    fields = difference_fields(difference(of, from_))["x"]
    assert list(fields) == ["value", "stderr", "low", "high", "n_blocks"]
    assert {type(each) for each in fields.values()} == {float, int}
