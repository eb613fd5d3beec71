"""What a sweep varies, and the options of its points."""

from __future__ import annotations

import pytest

from fusion_slerp import SettingsError, make_settings
from fusion_slerp.sweeps.axes import options_at, parse_axes
from fusion_slerp.sweeps.points import grid, point_name, point_text

TWO = {"a": "a", "b": "b"}
NAMED = {**TWO, "plays": "a", "code": "b"}


def at(vary, values, options=None, models=TWO):
    axes = parse_axes(vary, options or {}, models)
    return options_at(axes, values, options or {}, 2)


def t_of(options, name):
    return make_settings(**options).schedules["t"].at(name)  # type: ignore[union-attr]


def test_an_option():
    assert at({"t": "0.1,0.2"}, {"t": 0.2}, {"dtype": "float32"}) == {"t": 0.2, "dtype": "float32"}


def test_groups_of_tensors_go_before_what_stays_the_same():
    vary = {"t.self_attn": [0.1], "t.attn": [0.2], "t.mlp": [0.3]}
    options = at(vary, {name: values[0] for name, values in vary.items()}, {"t": 0.9})
    names = ("layers.0.self_attn.q", "layers.0.attn.q", "layers.0.mlp.up", "norm")
    assert [t_of(options, name) for name in names] == [0.1, 0.2, 0.3, 0.9]


def test_groups_keep_entries_and_the_default():
    rest = [{"filter": "norm", "value": 0.7}, {"value": [0, 1]}]
    options = at({"t.mlp": [0.3]}, {"t.mlp": 0.3}, {"t": rest})
    assert options["t"] == [{"filter": "mlp", "value": 0.3}, *rest]
    assert t_of(at({"t.mlp": [0.3]}, {"t.mlp": 0.3}), "norm") == 0.5


def test_one_model():
    linear = {"method": "linear"}
    options = at({"weight.b": [0.3]}, {"weight.b": 0.3}, linear)
    weights = make_settings(**options).schedules["weight"]
    assert [weights.of(label).at("x") for label in "ab"] == [1.0, 0.3]  # type: ignore[union-attr]
    assert at({"weight.code": [2]}, {"weight.code": 2}, linear | {"weight": {"a": 0.4}}, NAMED)["weight"] == {
        "a": 0.4,
        "b": 2,
    }


def test_tensors_of_one_model_and_of_all():
    linear = {"method": "linear", "weight": {"a": 0.4, "b": 0.6}}
    options = at({"weight.b.mlp": [0.1]}, {"weight.b.mlp": 0.1}, linear)
    assert options["weight"]["a"] == 0.4
    assert options["weight"]["b"] == [{"filter": "mlp", "value": 0.1}, {"value": 0.6}]
    options = at({"weight.mlp": [0.1]}, {"weight.mlp": 0.1}, linear)
    assert options["weight"]["a"] == [{"filter": "mlp", "value": 0.1}, {"value": 0.4}]
    assert make_settings(**options)


def test_methods_are_varied_as_any_option():
    assert at({"method": "slerp,linear"}, {"method": "linear"}) == {"method": "linear"}


@pytest.mark.parametrize(
    ("vary", "parts"),
    [
        ({"tt": "0,1"}, ["no such option", "did you mean 't'?", "--vary t="]),
        ({"threads": "1,2"}, ["threads cannot be varied", "changes the merged model"]),
        ({"granularity.mlp": "row"}, ["granularity has one value for all tensors", "--vary granularity=row"]),
        ({"density": "0.2,0.5"}, ["no such option"]),
        ({"t": "0:1:0.3", "tt": "1"}, ["2 problems", "invalid values of t", "no such option"]),
    ],
)
def test_what_cannot_be_varied(vary, parts):
    with pytest.raises(SettingsError) as raised:
        parse_axes(vary, {}, TWO)
    message = raised.value.message("command")
    assert all(part in message for part in parts), message


def test_a_grid_has_every_combination():
    axes = parse_axes({"t": "0,1", "epsilon": "1e-8,1e-6"}, {}, TWO)
    assert [tuple(values.values()) for values in grid(axes)] == [(0, 1e-8), (0, 1e-6), (1, 1e-8), (1, 1e-6)]


def test_a_grid_that_nobody_meant():
    axes = parse_axes({"t.self_attn": "0:1:0.01", "t.mlp": "0:1:0.1"}, {}, TWO)
    with pytest.raises(SettingsError) as raised:
        grid(axes)
    assert "the sweep has 1111 points" in str(raised.value)
    assert "101 of t.self_attn × 11 of t.mlp" in str(raised.value)
    assert raised.value.message("command").endswith("or --max-points 1111")
    assert len(grid(axes, 1111)) == 1111
    with pytest.raises(SettingsError, match="needs an option to vary"):
        grid(())


def test_names_of_points():
    assert point_name({"t": 0.3}) == "t=0.3"
    assert point_name({"t": 1.0, "weight.b": 0}) == "t=1,weight.b=0"
    assert point_text({"t": 1.0, "weight.b": 0}) == "t = 1, weight.b = 0"
    names = {point_name({"t": [0, i / 7]}) for i in range(50)} | {
        point_name({"t": "../x"}),
        point_name({"t": "_/x"}),
    }
    assert len(names) == 52
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789=.,_+-") for name in names)
    assert all(len(name) < 100 for name in names)
