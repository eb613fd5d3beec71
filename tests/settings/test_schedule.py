"""t by depth and by name: mergekit's rules, and our extensions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_slerp import SettingsError, merge, plan_merge
from fusion_slerp.settings.merge_settings import make_settings
from fusion_slerp.settings.schedule import parse_schedule
from fusion_slerp.tensor_names import depth_of, depths, layer_of, renamed
from tests.models import tiny_tensors, write_checkpoint

LAZY = [
    {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
    {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
    {"value": 0.5},
]
"""The schedule that most published SLERP merges use."""


@pytest.mark.parametrize(
    ("k", "t"),
    [
        *[(0, 0), (1, 0.0645), (7, 0.4516), (8, 0.4935), (15, 0.3129)],
        *[(16, 0.3258), (23, 0.6871), (24, 0.7290), (30, 0.9613), (31, 1)],
    ],
)
def test_the_gradient_of_mergekit(k, t):
    """Values of 32 layers, worked out from mergekit's formula."""
    schedule = parse_schedule([0, 0.5, 0.3, 0.7, 1])
    assert schedule.at("model.layers.3.x", depth_of(k, 32)) == pytest.approx(t, abs=5e-5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.integers(1, 80), st.data())
def test_a_gradient_follows_the_formula(values, n, data):
    k = data.draw(st.integers(0, n - 1))
    g = k / (n - 1) if n > 1 else 1
    x = g * (len(values) - 1)
    i = int(x)
    j, f = min(i + 1, len(values) - 1), x - i
    expected = (1 - f) * values[i] + f * values[j]
    assert parse_schedule(values).at("name", depth_of(k, n)) == expected
    assert 0 <= expected <= 1


@pytest.mark.parametrize(
    ("name", "depth", "t"),
    [
        ("model.layers.0.self_attn.q_proj.weight", 0, 0),
        ("model.layers.0.mlp.up_proj.weight", 0, 1),
        ("model.layers.5.self_attn.q_proj.weight", 1, 1),
        ("model.layers.5.input_layernorm.weight", 1, 0.5),
        ("model.embed_tokens.weight", 0, 0.5),
    ],
)
def test_filters(name, depth, t):
    assert parse_schedule(LAZY).at(name, depth) == t


@pytest.mark.parametrize(
    ("entry", "matched", "other"),
    [
        ({"filter": "layers.1"}, "model.layers.10.mlp", "model.layers.2.mlp"),
        ({"filter": "*"}, "anything", None),
        ({"glob": "*.mlp.*_proj.weight"}, "model.layers.0.mlp.up_proj.weight", "x.mlp.up_proj.weight.y"),
        ({"regex": r"layers\.1\d\."}, "model.layers.10.mlp", "model.layers.1.mlp"),
        ({"filter": "MLP"}, "x.MLP.y", "x.mlp.y"),
        ({"filter": "a*b"}, "xa*by", "xaab"),
    ],
)
def test_matching(entry, matched, other):
    schedule = parse_schedule([{**entry, "value": 0.25}])
    assert schedule.at(matched) == 0.25
    assert other is None or schedule.at(other) is None


def test_a_lone_entry_and_the_first_that_matches():
    assert parse_schedule({"filter": "x", "value": 1}).at("x") == 1
    assert parse_schedule([{"value": 0.1}, {"filter": "x", "value": 1}]).at("x") == 0.1


@pytest.mark.parametrize(
    ("t", "number"),
    [
        *[(0.3, 0.3), ([0.3], 0.3), ([{"value": 0.3}], 0.3)],
        *[([0, 1], None), (LAZY, None), ([{"filter": "x", "value": 0.3}], None)],
    ],
)
def test_one_number_for_all(t, number):
    assert parse_schedule(t).number == number


WRONG = [
    ([{"filter": "x", "valu": 1}], "invalid t[0]", "the key 'valu' (did you mean 'value'?)"),
    ([{"filter": "x"}], "invalid t[0].value", "None (NoneType)"),
    ([{"value": 1}, {"filter": "x", "value": [0, 2]}], "invalid t[1].value", "[0, 2] (list)"),
    ([{"filter": 3, "value": 1}], "invalid t[0].filter", "3 (int)"),
    ([{"glob": "a", "regex": "b", "value": 1}], "invalid t[0]", "glob and regex"),
    ([{"regex": "(", "value": 1}], "invalid t[0].regex", "'(': "),
    ([{"value": 1}, 0.5], "invalid t", "(list)"),
]


@pytest.mark.parametrize(("t", "headline", "found"), WRONG)
def test_wrong_schedules(t, headline, found):
    with pytest.raises(SettingsError) as caught:
        make_settings(t=t)
    lines = str(caught.value).splitlines()
    assert lines[0] == headline
    assert found in lines[1]
    assert lines[-1] == "Fix: use t=0.5"


def test_layers_of_names():
    assert layer_of("model.layers.12.mlp.experts.3.w1.weight") == ("model.layers.", 12)
    assert layer_of("h.0.attn.bias") == ("h.", 0)
    assert layer_of("model.norm2.weight") is None
    assert renamed("model.layers.12.experts.3.w", 7) == "model.layers.7.experts.3.w"
    names = ["a.0.x", "a.2.x", "b.0.x", "embed.weight"]
    assert depths(names) == {"a.0.x": 0.0, "a.2.x": 1.0, "b.0.x": 1.0, "embed.weight": 0.0}


def deep(folder, seed: int, n_layers: int):
    """A checkpoint with several layers."""
    import numpy as np

    rng = np.random.default_rng(seed)
    tensors = {name: value for name, value in tiny_tensors(seed).items() if ".layers." not in name}
    for i in range(n_layers):
        for part in ("self_attn.q_proj", "mlp.up_proj", "input_layernorm"):
            tensors[f"model.layers.{i}.{part}.weight"] = rng.standard_normal((4, 4)).astype("f4")
    return write_checkpoint(folder, tensors=tensors, config={"num_hidden_layers": n_layers}), tensors


def test_every_tensor_of_a_merge_gets_its_own(tmp_path):
    (a, _), (b, _) = deep(tmp_path / "a", 1, 5), deep(tmp_path / "b", 2, 5)
    plan = plan_merge(a, b, t=LAZY)
    t = {tensor.out.name: tensor.values["t"] for tensor in plan.tensors}
    assert [t[f"model.layers.{i}.self_attn.q_proj.weight"] for i in range(5)] == [0, 0.5, 0.3, 0.7, 1]
    assert [t[f"model.layers.{i}.mlp.up_proj.weight"] for i in range(5)] == [1, 0.5, 0.7, 0.3, 0]
    assert t["model.norm.weight"] == t["lm_head.weight"] == 0.5
    actions = {tensor.out.name: str(tensor.work) for tensor in plan.tensors}
    assert actions["model.layers.0.self_attn.q_proj.weight"] == "copy a"
    assert actions["model.layers.4.self_attn.q_proj.weight"] == "copy b"
    result = merge(a, b, out=tmp_path / "child", t=LAZY)
    assert {row.name: row.values["t"] for row in result.report} == t
    card = (tmp_path / "child/README.md").read_text()
    assert "`t` varies from tensor to tensor" in card
    assert "filter: self_attn" in card
    assert f"t={LAZY!r}" in card


def test_without_a_t_parent_a_is_kept_and_it_is_said(tmp_path):
    (a, _), (b, _) = deep(tmp_path / "a", 1, 2), deep(tmp_path / "b", 2, 2)
    plan = plan_merge(a, b, t=[{"filter": "mlp", "value": 0.5}])
    kept = {tensor.out.name for tensor in plan.tensors if str(tensor.work) == "copy a"}
    assert {name for name in kept if "mlp" in name} == set()
    assert len(kept) == 7
    assert any(warning.startswith("no entry of t matches, copied from a:") for warning in plan.warnings)
