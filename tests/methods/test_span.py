"""What the methods in the span of their sources share: weights, coefficients, and sums that cancel."""

from math import sqrt

import numpy as np
import pytest

from fusion_slerp.api import merge_into_memory
from fusion_slerp.methods import span
from fusion_slerp.methods.karcher import KARCHER, KarcherOptions
from fusion_slerp.methods.linear import LINEAR, LinearOptions
from fusion_slerp.methods.method import BASE, UnusableError
from fusion_slerp.methods.multislerp import MULTISLERP, MultislerpOptions, coefficients
from fusion_slerp.methods.task_arithmetic import TASK_ARITHMETIC, TaskArithmeticOptions
from fusion_slerp.methods.warp import folded
from fusion_slerp.passes.gram import GramMatrix, gram_matrix
from tests.models import write_checkpoint

named = pytest.mark.parametrize


def gram_of(*vectors: tuple[float, ...]) -> GramMatrix:
    every = [np.array(each) for each in vectors]
    return gram_matrix([float(x @ y) for i, x in enumerate(every) for y in every[i:]])


# The base's coefficient.


@named(
    ("own", "towards", "expected"),
    [
        ((1.0, 1.0), 0.0, (1.0, 1.0, -1.0)),
        ((0.5, 0.5), 0.0, (0.5, 0.5, 0.0)),
        ((0.7, 0.3), 0.0, (0.7, 0.3, 0.0)),
        ((1 / 3,) * 3, 0.0, (1 / 3, 1 / 3, 1 / 3, 0.0)),
        ((0.5, 0.25), 0.0, (0.5, 0.25, 0.25)),
        ((0.0, 0.0), 0.0, (0.0, 0.0, 1.0)),
        ((1.0, 1.0), 0.5, (0.5, 0.5, 0.0)),
        ((1.0, 3.0), 1.0, (0.0, 0.0, 1.0)),
        ((1.0, 2.0**-40), 0.0, (1.0, 2.0**-40, -(2.0**-40))),
    ],
    ids=str,
)
def test_the_base_takes_the_rest(own, towards, expected):
    assert span.of_task_vectors(own, towards) == expected


def test_the_base_takes_no_part_in_a_mean_of_any_number_of_models():
    """Thirds, sevenths, ... do not add up to one in float64."""
    for n in range(1, 60):
        assert span.of_task_vectors([1 / n] * n)[-1] == 0.0


def test_models_are_interpolated_towards_the_base():
    assert span.of_models((0.4, 0.6), has_base=False) == (0.4, 0.6)
    assert span.of_models((0.5, 0.5), has_base=True, towards_base=0.25) == (0.375, 0.375, 0.25)


# Task arithmetic without its base.


def test_task_vectors_whose_weights_add_up_to_one_need_no_base():
    def parameters(labels, **weights):
        return TASK_ARITHMETIC.parameters(TaskArithmeticOptions(), {"weight": weights}, labels)

    p = parameters(("a", "b", BASE), a=0.25, b=0.75)
    assert p.coefficients == (0.25, 0.75, 0.0)
    assert TASK_ARITHMETIC.used(p) == [0, 1]
    assert parameters(("a", "b"), a=0.25, b=0.75).coefficients == (0.25, 0.75)
    assert TASK_ARITHMETIC.used(parameters(("a", "b", BASE), a=1, b=0.75)) == [0, 1, 2]
    assert TASK_ARITHMETIC.copied(parameters(("a", "b", BASE), a=0, b=0)) == 2
    assert TASK_ARITHMETIC.copied(parameters(("a", "b", BASE), a=0, b=1)) == 1


@named("weights", [{"a": 0.25, "b": 0.75}, {"a": 0.5, "b": 1.0}], ids=["without the base", "with the base"])
def test_many_small_tensors_of_task_arithmetic(tmp_path, weights):
    rng = np.random.default_rng(1)
    of = {label: {f"w{i}": rng.standard_normal(7) for i in range(9)} for label in ("a", "b", BASE)}
    folders = {
        label: write_checkpoint(tmp_path / label, tensors=each, tokens=None) for label, each in of.items()
    }
    child, _ = merge_into_memory(
        folders["a"], folders["b"], base=folders[BASE], method="task_arithmetic", weight=weights
    )
    for name, found in child.items():
        deltas = [weights[label] * (of[label][name] - of[BASE][name]) for label in "ab"]
        np.testing.assert_allclose(found.numpy(), of[BASE][name] + sum(deltas), rtol=1e-13, atol=1e-14)


def test_an_element_that_is_zero_in_equal_models_stays_zero(tmp_path):
    """The mean of three has coefficients of a third; the base's is not what rounding leaves of one."""
    folders = [
        write_checkpoint(tmp_path / label, tensors={"w": np.array([0.0, 1.0, -3.0], "f4")}, tokens=None)
        for label in "abc"
    ]
    base = write_checkpoint(tmp_path / BASE, tensors={"w": np.array([1.0, 2.0, 4.0], "f4")}, tokens=None)
    for method in ("model_stock", "warp", "multislerp"):
        child, _ = merge_into_memory(*folders, base=base, method=method)
        assert child["w"].tolist() == [0.0, 1.0, -3.0], method
    child, _ = merge_into_memory(*folders, base=base, method="task_arithmetic", normalize=True)
    assert child["w"].tolist() == [0.0, 1.0, -3.0]


# Weights that make no sense.


def test_weights_that_are_all_zero_are_refused_where_nothing_is_left():
    values = {"weight": {"a": 0.0, "b": 0.0}}
    for method, options in (
        (LINEAR, LinearOptions(normalize=False)),
        (MULTISLERP, MultislerpOptions(normalize=False)),
    ):
        with pytest.raises(UnusableError, match=r"^weights that are all zero$"):
            method.parameters(options, values, ("a", "b"))
    p = MULTISLERP.parameters(MultislerpOptions(normalize=False), values, ("a", "b", BASE))
    assert MULTISLERP.copied(p) == 2
    for method, options in (
        (LINEAR, LinearOptions()),
        (MULTISLERP, MultislerpOptions()),
        (KARCHER, KarcherOptions()),
    ):
        with pytest.raises(UnusableError, match=r"^weights that sum to zero: a 0, b 0$"):
            method.parameters(options, values, ("a", "b"))


@named(("method", "options"), [(LINEAR, LinearOptions), (KARCHER, KarcherOptions)], ids=["linear", "karcher"])
def test_a_base_serves_towards_base_alone(method, options):
    values, labels = {"weight": {"a": 1.0, "b": 3.0}}, ("a", "b", BASE)
    assert not method.uses_base(options())
    assert method.uses_base(options(towards_base=0.5))
    assert method.copied(method.parameters(options(towards_base=1.0), values, labels)) == 2
    p = method.parameters(options(towards_base=0.5), values, labels)
    assert (method.copied(p), list(method.used(p))) == (None, [0, 1, 2])
    without = method.parameters(options(towards_base=1.0), values, ("a", "b"))  # the base lacks the tensor
    assert (method.copied(without), list(method.used(without))) == (None, [0, 1])


# Sums of directions that cancel.


def test_the_length_of_a_sum_of_unit_vectors():
    right = [[1.0, 0.0], [0.0, 1.0]]
    assert span.length_of((3.0, 4.0), span.times(right, (3.0, 4.0))) == 5.0
    opposite = [[1.0, -1.0], [-1.0, 1.0]]
    for c, length in (((2.0, 1.0), 1.0), ((1.0, 1.0), 0.0), ((1.0, 1.0 + 1e-9), 0.0), ((0.0, 0.0), 0.0)):
        assert span.length_of(c, span.times(opposite, c)) == pytest.approx(length, rel=1e-12)


@named("scale", [1e-3, 1.0, 1e3, 1e100])
def test_large_weights_do_not_hide_that_directions_cancel(scale):
    rng = np.random.default_rng(2)
    a = rng.normal(0, 1, 2000)
    weights = (0.5 * scale, 0.5 * scale)
    found = coefficients(weights, 1e-8, gram_of(tuple(a), tuple(-1.3 * a)))
    assert found == (weights, "lerp: directions cancel")


def test_epsilon_is_the_length_up_to_which_directions_cancel():
    gram = gram_of((1.0, 0.1), (-1.0, 0.1))
    length = 0.1 / sqrt(1.01)
    assert coefficients((0.5, 0.5), length * 1.0001, gram)[1] == "lerp: directions cancel"
    own, rule = coefficients((0.5, 0.5), length * 0.9999, gram)
    assert rule == "multislerp"
    assert own == pytest.approx([0.5 / length] * 2, rel=1e-12)


@named("scale", [1e-150, 1.0, 1e150])
def test_a_fold_that_cancels_counts_as_zero(scale):
    """Its angle to the next task vector would be that of rounding errors."""
    rng = np.random.default_rng(3)
    a, c, noise = scale * rng.normal(0, 1, (3, 2000))
    for b in (-a, -a + 1e-9 * noise):
        own, rule = folded(gram_of(tuple(a), tuple(b), tuple(c)))
        assert rule == "lerp: nearly opposite"
        assert own == pytest.approx([1 / 3] * 3, rel=1e-12)
