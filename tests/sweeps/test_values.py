"""Values of an option as users write them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_slerp import SettingsError
from fusion_slerp.sweeps.values import is_several, parse_values, value_text


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("0:1:0.1", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
        (" 0.5 : 0.3 : -0.1 ", (0.5, 0.4, 0.3)),
        ("1:3:1", (1, 2, 3)),
        ("0:0:1", (0,)),
        ("1e-8:3e-8:1e-8", (1e-8, 2e-8, 3e-8)),
        ("0.3,0.5", (0.3, 0.5)),
        ("0,0.5,1", (0.0, 0.5, 1.0)),
        ("1e-8, 1e-6", (1e-8, 1e-6)),
        ("0.4", (0.4,)),
        ("tensor,row", ("tensor", "row")),
        ("true,false", (True, False)),
        ("[0, 1],[1, 0]", ([0, 1], [1, 0])),
    ],
)
def test_typed_values(typed, values):
    found = parse_values(typed, "t")
    assert found == values
    assert [type(each) for each in found] == [type(each) for each in values]


@pytest.mark.parametrize(
    ("given", "values"),
    [([0, 0.5], (0.0, 0.5)), (0.5, (0.5,)), (range(3), (0, 1, 2)), (np.array([0.1, 0.2]), (0.1, 0.2))],
)
def test_values_in_python(given, values):
    assert parse_values(given, "t") == values


@given(st.integers(0, 50), st.integers(1, 100), st.integers(0, 3))
def test_a_range_has_the_decimal_numbers(first, count, digits):
    step = 10**-digits
    start, stop = f"{first * step:.{digits}f}", f"{(first + count) * step:.{digits}f}"
    values = parse_values(f"{start}:{stop}:{step:.{digits}f}", "t")
    assert [f"{float(value):.{digits}f}" for value in values] == [
        f"{(first + i) * step:.{digits}f}" for i in range(count + 1)
    ]
    assert all(float(value_text(value)) == value for value in values)


@pytest.mark.parametrize(
    ("typed", "part"),
    [
        ("0:1:0.3", "the last is 0.9"),
        ("0:1:0", "a step that leads from start to stop"),
        ("0:1:-0.1", "a step that leads from start to stop"),
        ("0:1:1e-9", "at most 10000 values, not 1000000001"),
        ("0:one:0.1", "three numbers"),
        ("0.5,0.50", "0.5 twice"),
        ("[0, 1", "values with commas"),
        ("", "at least one value"),
    ],
)
def test_what_is_wrong_is_named(typed, part):
    with pytest.raises(SettingsError, match="invalid values of t") as raised:
        parse_values(typed, "t")
    assert part in str(raised.value)
    assert "Fix: use vary=" in str(raised.value)


def test_the_fix_of_a_range_is_one_that_works():
    with pytest.raises(SettingsError) as raised:
        parse_values("0:1:0.3", "t")
    assert raised.value.message("command").endswith("Fix: use --vary t=0:0.9:0.3")
    assert len(parse_values("0:0.9:0.3", "t")) == 4


def test_several_values_are_told_from_one():
    several, one = ("0:1:0.1", "0.3,0.5"), ("0.3", "[0, 1]", "{value: 1, filter: x}")
    assert all(map(is_several, several))
    assert not any(map(is_several, one))
