"""The rule of stopping: worse trials stop early, and equally good ones hardly ever."""

import numpy as np
import pytest

from fusion_slerp.evaluation.evaluation import Evaluation, TextEvaluation
from fusion_slerp.evaluation.statistics import Estimate
from fusion_slerp.searches.parts import Seen
from fusion_slerp.searches.pruning import STANDARD_ERRORS, Rule, rule_of

N_PARTS, N_WINDOWS, LENGTH = 8, 80, 32
METRIC = {"name": "average.loss", "better": "lower"}


def losses(rng, extra=0.0):
    """Windows of losses whose neighbours depend on each other."""
    noise = rng.standard_normal((N_WINDOWS, LENGTH)) + 0.5 * rng.standard_normal((N_WINDOWS, 1))
    return 3 + extra + 0.2 * noise


def evaluation(losses):
    return Evaluation({"text": TextEvaluation((losses.ravel(),), "digest", 1, 1.0)})


def stopped_after(rule, trial, best, order):
    """The number of parts after which the trial stops; None if it does not."""
    windows = np.zeros((N_WINDOWS, LENGTH), np.int32)
    for n_parts in range(1, N_PARTS):
        drawn = order[n_parts - 1 :: N_PARTS]
        windows[drawn] = drawn[:, None] + 1
        seen = Seen(evaluation(trial), {"text": (windows.ravel(),)}, n_parts, n_parts / N_PARTS)
        if rule.stops(rule.difference(seen, evaluation(best))):
            return n_parts
    return None


@pytest.mark.long
def test_equally_good_trials_hardly_ever_stop():
    rule, rng = Rule("average", STANDARD_ERRORS), np.random.default_rng(0)
    n_stopped = sum(
        stopped_after(rule, losses(rng), losses(rng), rng.permutation(N_WINDOWS)) is not None
        for _ in range(1000)
    )
    assert n_stopped <= 15


def test_clearly_worse_trials_stop_after_one_part_and_better_ones_never():
    rule, rng = Rule("text", STANDARD_ERRORS), np.random.default_rng(1)
    order = rng.permutation(N_WINDOWS)
    assert stopped_after(rule, losses(rng, 0.5), losses(rng), order) == 1
    assert stopped_after(rule, losses(rng), losses(rng, 0.05), order) is None


def test_a_little_worse_trials_stop_later():
    rule, rng = Rule("average", STANDARD_ERRORS), np.random.default_rng(2)
    found = [
        stopped_after(rule, losses(rng, 0.04), losses(rng), rng.permutation(N_WINDOWS)) for _ in range(50)
    ]
    assert {part for part in found if part is not None} - {1}


@pytest.mark.parametrize("stderr", [float("nan"), 1.0])
def test_an_unknown_or_large_error_stops_nothing(stderr):
    assert not Rule("average", 3.0).stops(Estimate(2.0, stderr, 8, 7.0))
    assert not Rule("average", 3.0).stops(None)


def test_scores_that_are_no_losses_have_no_rule():
    assert rule_of(METRIC, 3.0) == Rule("average", 3.0)
    assert rule_of({"name": "code.loss", "better": "lower"}, 2.0) == Rule("code", 2.0)
    assert rule_of(METRIC, None) is None
    assert rule_of({"name": "average.bits_per_byte", "better": "lower"}, 3.0) is None
    assert rule_of(METRIC | {"better": "higher"}, 3.0) is None
