"""What pictures show: grouped by layer and kind, with the numbers of the data."""

import pytest

from fusion_slerp.drawing import depth
from fusion_slerp.drawing.rows import MAX_KINDS, TensorRow, columns_of, kind_of, stacks

ROWS = [
    TensorRow("model.embed.weight", 10, angles={"a-b": 30.0}),
    TensorRow(
        "model.layers.0.self_attn.q_proj.weight", 4, values={"t": 0.2}, angles={"a-b": 1.0}, norms={"a": 3.0}
    ),
    TensorRow(
        "model.layers.0.self_attn.q_proj.bias", 1, values={"t": 0.2}, angles={"a-b": 6.0}, norms={"a": 4.0}
    ),
    TensorRow("model.layers.0.mlp.up_proj.weight", 4, values={"t": 0.2}, angles={"a-b": 3.0}),
    TensorRow(
        "model.layers.1.self_attn.q_proj.weight", 4, values={"t": 0.6}, angles={"a-b": 5.0}, norms={"a": 1.0}
    ),
    TensorRow("model.layers.1.mlp.up_proj.weight", 4, values={"t": 0.6}),
]


def test_a_cell_is_the_mean_weighted_by_elements():
    (stack,) = stacks(ROWS)
    found = depth.angles(ROWS, [stack], ["a-b"])
    assert found is not None
    assert [kind["label"] for kind in found["stacks"][0]["kinds"]] == ["q_proj", "up_proj"]
    assert found["stacks"][0]["cells"]["a-b"] == [[2.0, 5.0], [3.0, None]]
    assert found["outside"] == [{"name": "model.embed.weight", "elements": 10, "angles": {"a-b": 30.0}}]
    assert found["pairs"]["a-b"]["largest_in"] == "model.embed.weight"
    assert found["pairs"]["a-b"]["mean"] == pytest.approx((300 + 4 + 6 + 12 + 20) / 23, rel=1e-5)


def test_norms_are_those_of_all_tensors_of_a_module():
    assert depth.norms(stacks(ROWS), ["a", "b"]) == [
        {"stack": "model.layers.", "layers": [0, 1], "modules": {"attention": {"a": [5.0, 1.0]}}}
    ]


def test_kinds_with_the_same_values_share_a_line():
    (option,) = depth.values(ROWS, stacks(ROWS))
    assert option["stacks"][0]["lines"] == [{"kinds": "all modules", "values": [0.2, 0.6]}]
    constant = [TensorRow(row.name, 1, values={"t": 0.5}) for row in ROWS]
    assert depth.values(constant, stacks(constant)) == [{"option": "t", "constant": 0.5}]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.layers.3.mlp.experts.17.gate_proj.weight", "mlp.experts.*.gate_proj"),
        ("model.layers.3.self_attn.q_proj.bias", "self_attn.q_proj"),
        ("transformer.h.3.attn.c_attn.weight", "attn.c_attn"),
        ("lm_head.weight", "lm_head"),
    ],
)
def test_a_kind_is_the_name_within_the_layer(name, kind):
    assert kind_of(name) == kind


def test_many_kinds_become_modules():
    rows = [
        TensorRow(f"layers.0.mlp.part{i}.weight", 1, angles={"a-b": float(i)}) for i in range(MAX_KINDS + 1)
    ]
    (stack,) = stacks(rows)
    assert stack.kinds == ("mlp",)
    assert depth.cells(stack, lambda some: depth.mean_angle(some, "a-b")) == [[MAX_KINDS / 2]]


@pytest.mark.parametrize(
    ("values", "low", "high", "is_open"),
    [
        ([0.5, 1.2, 4.9], 0, 5, False),
        ([61, 75, 89.5], 60, 90, False),
        ([0.1, *[1.0] * 99, 40.0], 0, 1, True),
        ([0.0], 0, 0.1, False),
    ],
)
def test_the_scale_follows_the_data(values, low, high, is_open):
    assert depth.scale(values) == {"low": low, "high": high, "is_open": is_open}


def test_columns_hold_every_value_once():
    columns = columns_of(ROWS)
    assert columns["angle a-b"] == [30.0, 1.0, 6.0, 3.0, 5.0, None]
    assert columns["layer"] == [None, 0, 0, 0, 1, 1]
    assert "why" not in columns  # nobody has one


def test_a_page_lists_a_bounded_number_of_tensors(monkeypatch):
    monkeypatch.setattr("fusion_slerp.drawing.rows.MOST_ROWS", 3)
    assert len(columns_of(ROWS)["name"]) == 3
