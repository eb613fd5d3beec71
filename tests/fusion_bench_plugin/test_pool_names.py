"""Options that call models by their names in the pool."""

import pytest
import torch
from fusion_bench.modelpool import BaseModelPool
from torch import nn

from fusion_slerp import LinearForCausalLM, SettingsError
from fusion_slerp.fusion_bench_plugin.pool_names import with_labels, without_names
from fusion_slerp.methods.linear import LINEAR

LABELS = {"plays": "a", "code": "b"}
ENTRY = {"filter": "mlp", "value": 1}


@pytest.mark.parametrize(
    ("weight", "wanted"),
    [
        (0.5, 0.5),
        ([0, 1], [0, 1]),
        (ENTRY, ENTRY),
        ({"plays": 1, "code": [ENTRY]}, {"a": 1, "b": [ENTRY]}),
        ({"plays": 1, "b": 2}, {"a": 1, "b": 2}),
        ({"b": 2}, {"b": 2}),
    ],
)
def test_values_by_model(weight, wanted):
    assert with_labels({"weight": weight, "dtype": None}, LABELS, LINEAR) == {"weight": wanted, "dtype": None}


def test_slices_with_values_of_their_own():
    given = [{"plays": [0, 2], "b": [1, 3], "weight": {"code": 0.5}}, {"code": [0, 1]}]
    wanted = [{"a": [0, 2], "b": [1, 3], "weight": {"b": 0.5}}, {"b": [0, 1]}]
    assert with_labels({"slices": given}, LABELS, LINEAR) == {"slices": wanted}


def test_sources_of_tokens():
    other = {"kind": "model_token", "model": "plays", "token": "code"}
    given = {"x": "code", "y": {"source": "plays", "force": True}, "z": other, "code": "owner/model"}
    wanted = {
        "x": "b",
        "y": {"source": "a", "force": True},
        "z": other | {"model": "a"},
        "code": "owner/model",
    }
    assert with_labels({"tokens": given}, LABELS, LINEAR) == {"tokens": wanted}


def test_a_name_comes_before_a_label():
    swapped = {"b": "a", "a": "b"}
    assert with_labels({"weight": {"a": 1, "b": 2}}, swapped, LINEAR) == {"weight": {"b": 1, "a": 2}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": {"plais": 1}}, r"weight has a value for 'plais', .*did you mean 'plays'"),
        (
            {"weight": {"c": 1}},
            r"weight has a value for 'c'(.|\n)*needed: plays \(a\), code \(b\)\nFix: leave c out",
        ),
        ({"weight": {"plays": 1, "a": 2}}, r"two values for one model\n  found: plays and a"),
        ({"slices": [{"plays": [0, 1]}, {"wieght": 1}]}, r"slices\[1\] has .*did you mean 'weight'"),
    ],
)
def test_a_model_that_the_pool_lacks(options, message):
    with pytest.raises(SettingsError, match=message):
        with_labels(options, LABELS, LINEAR)


@pytest.mark.parametrize("name", ["_pretrained_", "base"])
def test_the_base_has_no_value_of_its_own(name):
    with pytest.raises(SettingsError, match=r"weight has a value for the base\n  found: .*\n  needed: plays"):
        with_labels({"weight": {name: 1}}, {**LABELS, "_pretrained_": "base"}, LINEAR)
    slices = [{"plays": [0, 1], "_pretrained_": [0, 1]}]
    changed = with_labels({"slices": slices}, {**LABELS, "_pretrained_": "base"}, LINEAR)
    assert changed == {"slices": [{"a": [0, 1], "base": [0, 1]}]}


def test_a_model_that_is_named_base_is_a_model():
    assert with_labels({"weight": {"base": 1}}, {"base": "a", "_pretrained_": "base"}, LINEAR) == {
        "weight": {"a": 1}
    }


def test_what_only_a_pool_can_tell_is_not_checked_earlier():
    named = {"weight": {"plays": "x"}, "slices": [{"plays": [0, 1]}], "dtype": "bfloat16"}
    assert without_names(named, LINEAR) == {"dtype": "bfloat16"}
    labelled = {"weight": {"a": "x"}, "slices": [{"a": [0, 1], "weight": 1}]}
    assert without_names(labelled, LINEAR) == labelled
    assert without_names({"weight": ENTRY, "slices": None}, LINEAR) == {"weight": ENTRY, "slices": None}


def test_the_class_takes_either():
    torch.manual_seed(0)
    pool = BaseModelPool({name: nn.Linear(3, 2) for name in LABELS})
    by_name = LinearForCausalLM(weight={"plays": 0.25, "code": 0.75}).run(pool)
    by_label = LinearForCausalLM(weight={"a": 0.25, "b": 0.75}).run(pool)
    assert torch.equal(by_name.weight, by_label.weight)
    with pytest.raises(SettingsError, match=r"invalid weight\.b"):
        LinearForCausalLM(weight={"code": "heavy"}).run(pool)
    with pytest.raises(SettingsError, match="'mixed', which the pool does not merge"):
        LinearForCausalLM(weight={"mixed": 1}).run(pool)
