"""Ranges and lists: what they contain, what is tried first, and what is refused."""

import math

import pytest

from fusion_slerp import SettingsError
from fusion_slerp.searches.space import (
    Choices,
    Range,
    all_points,
    first_points,
    parse_space,
    probes,
    size,
)


def test_the_forms():
    space = parse_space({"t": "0:1", "density": "0.2:1:0.2", "granularity": "tensor,row", "k": "1:5:2"})
    assert space == (
        Range("t", 0.0, 1.0),
        Choices("density", (0.2, 0.4, 0.6, 0.8, 1.0), True),
        Choices("granularity", ("tensor", "row"), False),
        Choices("k", (1, 3, 5), True),
    )
    assert parse_space({"t": [0.3, 0.5], "u": " -1e-3 : 2"}) == (
        Choices("t", (0.3, 0.5), False),
        Range("u", -0.001, 2.0),
    )


@pytest.mark.parametrize(
    ("low", "high", "value", "expected"),
    [
        (0, 1, 0.48372, 0.484),
        (0, 1, 1.2, 1),
        (0.2, 1, 0.48372, 0.4837),
        (0, 500, 77.7777, 77.8),
        (0, 1, -1, 0),
    ],
)
def test_numbers_of_a_range_are_rounded_and_within_it(low, high, value, expected):
    assert Range("t", low, high).nearest(value) == expected


def test_the_first_points_treat_all_alike_and_start_in_the_middle():
    points = first_points(parse_space({"t.mlp": "0:1", "t.self_attn": "0:1:0.1"}))
    assert points[:3] == tuple({"t.mlp": t, "t.self_attn": t} for t in (0.5, 0.0, 1.0))
    assert len(points) == 5
    assert first_points(parse_space({"t": [0.3, 0.5]})) == ({"t": 0.5}, {"t": 0.3})


def test_probes_cover_every_end_and_every_choice():
    space = parse_space({"t": "0:1", "method": "slerp,linear,nearswap"})
    values = {name: {point[name] for point in probes(space)} for name in ("t", "method")}
    assert values["t"] >= {0.0, 1.0, 0.5}
    assert values["method"] == {"slerp", "linear", "nearswap"}


def test_the_size_and_all_points_of_lists():
    space = parse_space({"t": "0:1:0.5", "method": "slerp,linear"})
    assert size(space) == 6
    points = list(all_points(space))
    assert len({(p["t"], p["method"]) for p in points}) == len(points) == 6
    assert points[: len(first_points(space))] == list(first_points(space))
    assert size(parse_space({"t": "0:1"})) == math.inf


@pytest.mark.parametrize(
    ("vary", "parts"),
    [
        ({}, ["a search needs an option to vary", "vary={'t': '0:1'}"]),
        ({"t": "1:0"}, ["the range of t is empty", "vary={'t': '0:1'}"]),
        ({"t": "0.5:0.5"}, ["the range of t is empty", "'0:1'"]),
        ({"t": "0.5"}, ["t has a single value", "low:high"]),
        ({"t": "0:1:0.3", "u": "1:0"}, ["2 problems", "0:0.9:0.3", "the range of u is empty"]),
    ],
)
def test_what_is_refused(vary, parts):
    with pytest.raises(SettingsError) as raised:
        parse_space(vary)
    assert all(part in str(raised.value) for part in parts), str(raised.value)
