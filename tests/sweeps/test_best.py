"""The best point, and what it can be told from."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fusion_slerp.sweeps.axes import Axis
from fusion_slerp.sweeps.best import (
    best_of,
    best_parent,
    differs,
    neighbours,
    verdict,
    within_noise,
)
from fusion_slerp.sweeps.record import SweepPoint, SweepRecord
from fusion_slerp.sweeps.scores import score_at, text_of
from tests.sweeps.fakes import Models, record_of, run

LOSS = {"name": "average.loss", "better": "lower"}


def test_scores_are_found_by_path():
    scores = {"average": {"loss": 3.5}, "a.b": {"loss": 2}, "acc": 0.5, "ok": True}
    found = [
        score_at(scores, path) for path in ("average.loss", "a.b.loss", "acc", "ok", "a.loss", "average")
    ]
    assert found == [3.5, 2.0, 0.5, None, None, None]


def test_the_best_is_finite_and_on_the_right_side():
    scores = [{"x": math.nan}, {"x": 2.0}, {"x": 1.0}, {}, {"x": math.inf}]
    assert best_of(scores, {"name": "x", "better": "lower"}) == 2
    assert best_of(scores, {"name": "x", "better": "higher"}) == 1
    assert best_of(scores, {"name": "y", "better": "lower"}) is None


def test_only_losses_are_paired():
    paths = ("average.loss", "code.perplexity", "acc", "tasks.acc", "loss")
    assert [text_of({"name": path}) for path in paths] == ["average", "code", None, None, None]


def test_a_difference_of_two_models():
    assert differs({"low": 0.01, "high": 0.4}) is True
    assert differs({"low": -0.01, "high": 0.4}) is False
    assert differs({"low": math.nan, "high": math.nan}) is None


@pytest.mark.parametrize("gap", [0.0, 0.5, 6.0])
def test_the_truly_best_is_within_noise_in_95_of_100_sweeps(gap):
    """1000 sweeps of 11 points, of which the first is truly best by a gap in standard errors."""
    rng = np.random.default_rng(3)
    values = tuple(float(i) for i in range(11))
    n_found = n_others = 0
    for _ in range(1000):
        means = rng.standard_normal(11) + gap * (np.arange(11) > 0)
        best, half = int(means.argmin()), 1.96 * math.sqrt(2)
        points = tuple(
            SweepPoint({"t": t}, {}, {"best": {"average": {"value": d, "low": d - half, "high": d + half}}})
            for t, d in zip(values, means - means[best], strict=True)
        )
        record = SweepRecord("", {}, {}, {"t": values}, LOSS, {}, points, best)
        found = {best, *(within_noise(record) or ())}
        n_found += 0 in found
        n_others += len(found - {0})
    assert n_found >= 950
    assert n_others < (10_001 if gap < 6 else 1_500)


def test_neighbours_on_a_grid():
    points = [SweepPoint({"t": t, "g": g}, {}) for t in (1.0, 0.0, 0.5) for g in ("tensor", "row", "column")]
    found = neighbours(points, 7)
    assert {tuple(points[i].values.values()) for i in found} == {
        *((0.0, "row"), (1.0, "row"), (0.5, "tensor"), (0.5, "column"))
    }


def test_a_sweep_whose_best_is_clear():
    record = run(None, Models())
    assert record.best_point is not None
    assert record.best_point.values == {"t": 0.5}
    assert within_noise(record) == ()
    assert best_parent(record) == "b"
    loss, stderr = (record.best_point.scores["average"][key] for key in ("loss", "loss_stderr"))
    gap = record.best_point.differences["b"]["average"]
    assert gap["value"] == pytest.approx(0.0025 - 0.2025, abs=1e-9)
    assert (
        verdict(record)
        == str(record)
        == (
            f"best t = 0.5: {loss:.3f} ± {stderr:.3f}; better than every other point; "
            f"0.200 ± {gap['stderr']:.3f} below the better parent, b"
        )
    )


def test_a_sweep_whose_best_is_not():
    record = run(None, Models(), [Axis("t", (0.0, 0.5, 0.54, 0.56, 0.6, 1.0), "t")])
    noise = within_noise(record)
    assert noise is not None
    shown = [record.points[index].values["t"] for index in noise]
    assert 0.0 not in shown
    assert 1.0 not in shown
    assert len(shown) >= 2
    listed = ", ".join(map(str, shown[:-1])) + f" and {shown[-1]}"
    assert f"not distinguishable from {listed}; " in verdict(record)


def test_scores_without_errors_say_nothing_about_noise():
    points = tuple(SweepPoint({"t": t}, {"acc": t}) for t in (0.0, 0.5))
    record = SweepRecord(
        "slerp", {"a": {}, "b": {}}, {}, {"t": (0.0, 0.5)}, {"name": "acc", "better": "higher"},
        {"a": {"acc": 0.25}, "b": {"acc": 0.125}}, points, 1,
    )  # fmt: skip
    assert within_noise(record) is None
    assert verdict(record) == "best t = 0.5: 0.500; 0.250 above the better parent, a"


def test_a_parent_that_reads_other_tokens_is_not_compared():
    record = run(None, Models())
    others = tuple(SweepPoint(p.values, p.scores, {"b": p.differences["b"]}) for p in record.points)
    assert best_parent(SweepRecord("", {}, {}, {}, LOSS, record.parents, others, 0)) == "b"


def test_no_finite_score():
    record = record_of()
    assert verdict(record).startswith("no point has a finite average.loss")
