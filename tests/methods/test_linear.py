"""From weights to coefficients: normalised, omitted, refused."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from fusion_slerp import CheckpointError, OutputError, SettingsError, make_settings
from fusion_slerp.engine.in_memory import combine_tensors
from fusion_slerp.methods.linear import LINEAR, LinearOptions, LinearParameters, linear
from fusion_slerp.methods.method import Unit, UnusableError
from fusion_slerp.passes.protocols import Made, drive
from fusion_slerp.passes.weighted_sum import WeightedSum
from tests.reference import F32, exact_sums, nearest


def parameters(normalize: bool = True, **weights: float) -> LinearParameters:
    return LINEAR.parameters(LinearOptions(normalize=normalize), {"weight": weights}, tuple(weights))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"a": 1, "b": 3}, (0.25, 0.75)),
        ({"a": 0.4, "b": 0.6}, (0.4, 0.6)),
        ({"a": 2.0}, (1.0,)),
        ({"a": 2, "b": 2, "c": 4}, (0.25, 0.25, 0.5)),
        ({"a": -1, "b": 3}, (-0.5, 1.5)),
        ({"a": -1, "b": -3}, (0.25, 0.75)),
        ({"a": 1, "b": 0, "c": 3}, (0.25, 0.0, 0.75)),
        ({"a": 0.1, "b": 0.2, "c": 0.3}, tuple(w / 0.6 for w in (0.1, 0.2, 0.3))),  # 0.6: their exact sum
    ],
    ids=str,
)
def test_weights_are_divided_by_their_sum(weights, expected):
    assert parameters(**weights).coefficients == expected
    assert parameters(normalize=False, **weights).coefficients == tuple(map(float, weights.values()))


def test_the_sum_of_the_weights_does_not_depend_on_their_order():
    one = parameters(a=1e16, b=1.0, c=-1e16, d=1.0).coefficients
    other = parameters(c=-1e16, d=1.0, a=1e16, b=1.0).coefficients
    assert one == (5e15, 0.5, -5e15, 0.5)
    assert other == (one[2], one[3], one[0], one[1])


@pytest.mark.parametrize(
    "weights", [{"a": 1, "b": -1}, {"a": 0, "b": 0}, {"a": 0.0}, {"a": 3, "b": -1, "c": -2}]
)
def test_weights_that_sum_to_zero_are_refused(weights):
    with pytest.raises(UnusableError) as caught:
        parameters(**weights)
    shown = ", ".join(f"{label} {weight:g}" for label, weight in weights.items())
    assert str(caught.value) == f"weights that sum to zero: {shown}"


def test_only_weights_that_are_all_zero_are_refused_where_nothing_is_divided():
    assert parameters(normalize=False, a=1, b=-1).coefficients == (1, -1)
    with pytest.raises(UnusableError, match="weights that are all zero"):
        parameters(normalize=False, a=0, b=0)


@pytest.mark.parametrize("weights", [{"a": 1.5e308, "b": 1.5e308}, {"a": 5e-324, "b": 5e-324}], ids=str)
def test_weights_at_the_ends_of_float64(weights):
    assert parameters(**weights).coefficients == (0.5, 0.5)


@pytest.mark.parametrize(
    ("coefficients", "used", "copied"),
    [
        ((0.25, 0.75), [0, 1], None),
        ((0.25, 0.0, 0.75), [0, 2], None),
        ((0.0, 1.0), [1], 1),
        ((1.0,), [0], 0),
        ((0.0, 0.5, 0.0), [1], None),
        ((1.0, 1.0), [0, 1], None),
        ((0.0, -1.0), [1], None),
        ((-0.0, 1.0), [1], 1),
    ],
    ids=str,
)
def test_models_without_weight_are_left_out_and_a_lone_weight_of_one_copies(coefficients, used, copied):
    p = LinearParameters(coefficients)
    assert LINEAR.used(p) == used
    assert LINEAR.copied(p) == copied


def test_nothing_is_measured():
    p = LinearParameters((0.5, 0.25, 0.25))
    assert LINEAR.passes(p) == (0, 0)
    assert drive(linear(p, Unit("w", 9, 9)), lambda: pytest.fail("read")) == Made(
        WeightedSum((0.5, 0.25, 0.25)), "linear"
    )


def test_any_number_of_models():
    assert [LINEAR.takes(n) for n in (0, 1, 2, 9)] == [False, True, True, True]
    assert LINEAR.models_text == "at least 1"


# Tensors in memory.


def combined(weights: dict[str, float], tensors: dict[str, torch.Tensor], **options):
    settings = make_settings(method="linear", weight=weights, **options)
    return combine_tensors(tensors, settings, "w", {"weight": weights})


def tensors(labels: str) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(1)
    return {label: torch.from_numpy(rng.normal(0, 0.02, (20, 30)).astype("f4")) for label in labels}


@pytest.mark.parametrize(
    "weights",
    [{"a": 0.2, "b": 0.3, "c": 0.5}, {"a": -1.0, "b": 1.5, "c": 2.0}, {"a": 1.0, "b": 1.0}, {"a": 3.0}],
    ids=str,
)
def test_every_element_is_the_weighted_average(weights):
    of = tensors("".join(weights))
    result, report = combined(weights, of)
    factors = [w / float(sum(map(Fraction, weights.values()))) for w in weights.values()]
    exact = exact_sums([each.double().numpy().reshape(-1) for each in of.values()], factors)
    assert result.reshape(-1).tolist() == [nearest(total, F32) for total in exact]
    assert report.rule == ("linear" if len(weights) > 1 else "copy a")
    assert (report.values, report.angle_deg, report.norms) == ({"weight": weights}, None, {})


def test_a_model_without_weight_changes_nothing_whatever_it_holds():
    of = tensors("abc")
    expected, _ = combined({"a": 0.3, "b": 0.7}, {label: of[label] for label in "ab"})
    for bad in (1e38, float("inf"), float("nan")):
        of["c"][3, 4] = bad
        result, _ = combined({"a": 0.3, "b": 0.7, "c": 0.0}, of)
        assert torch.equal(result, expected)


def test_what_cannot_be_made_of_tensors_is_refused_by_name():
    of = tensors("ab")
    with pytest.raises(SettingsError, match=r"(?s)weights that sum to zero: a 1, b -1\n  tensor: w\nFix: "):
        combined({"a": 1.0, "b": -1.0}, of)
    of["b"][0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"(?s)^NaN or infinity in a tensor\n  tensor: w\nFix: "):
        combined({"a": 1.0, "b": 1.0}, of)
    half = {label: torch.tensor([1.0, 6e4]).half() for label in "ab"}
    with pytest.raises(OutputError, match=r"(?s)^overflow.*tensor: w\n  found: 1 values"):
        combined({"a": 1.0, "b": 1.0}, half, normalize=False)
