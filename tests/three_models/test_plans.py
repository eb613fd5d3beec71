"""A plan of several models says what is done with those that have no value of their own."""

import pytest

from fusion_slerp import plan_merge
from tests.models import write_checkpoint


@pytest.fixture
def models(tmp_path):
    return [write_checkpoint(tmp_path / name, seed=seed) for seed, name in enumerate("abc")]


@pytest.mark.parametrize(
    ("weight", "notes"),
    [
        ({"a": 0.4, "b": 0.3}, ["no weight is given for c: 1 is used"]),
        ({"b": [0.3, 0.5]}, ["no weight is given for a, c: 1 is used"]),
        ({"a": 0.4, "b": 0.3, "c": 0.3}, []),
        (0.5, []),
        (1.0, []),
    ],
    ids=str,
)
def test_models_without_a_weight_of_their_own_are_named(models, weight, notes):
    assert list(plan_merge(*models, method="linear", weight=weight).notes) == notes


def test_slerp_has_nothing_to_say(models):
    assert plan_merge(*models[:2]).notes == ()
