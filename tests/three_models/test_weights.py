"""The weights of merges of three models and of one, against exact sums."""

import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from fusion_slerp import SettingsError, merge, verify
from fusion_slerp.api import merge_into_memory
from tests.models import (
    as_torch_files,
    names_in,
    write_checkpoint,
)
from tests.three_models.models import LINEAR, N_LAYERS, UP, summed, tensors_of, weights_of


def weights_at(name: str) -> list[float]:
    """The values of `WEIGHT` for a tensor."""
    layer = re.search(r"layers\.(\d)", name)
    depth = int(layer[1]) / (N_LAYERS - 1) if layer else 0.0
    return [0.5 - 0.25 * depth, 0.3, 0.7 if "norm" in name else depth]


def test_weights_per_model_over_depth(tmp_path, three):
    result = merge(*three, out=tmp_path / "child", **LINEAR)
    assert result.counts == {"linear": 6, "copy if equal": 1}
    child, models = weights_of(tmp_path / "child"), [weights_of(folder) for folder in three]
    assert child.keys() == models[0].keys()
    for name, found in child.items():
        if name != "model.ids":
            expected = summed([model[name] for model in models], weights_at(name))
            np.testing.assert_array_equal(found, expected, name)


@pytest.mark.parametrize("weight", [1, 0.1, [0.2, 0.4], {"b": 1}], ids=str)
def test_one_weight_for_all_is_the_mean(tmp_path, three, weight):
    """Models that a mapping omits weigh 1."""
    merge(*three, out=tmp_path / "child", method="linear", weight=weight)
    child, models = weights_of(tmp_path / "child"), [weights_of(folder)["lm_head.weight"] for folder in three]
    np.testing.assert_array_equal(child["lm_head.weight"], summed(models, [1, 1, 1]))


def test_weights_that_are_not_normalised(tmp_path, three):
    weights = {"a": 1, "b": -0.5, "c": 3}
    merge(*three, out=tmp_path / "child", method="linear", weight=weights, normalize=False)
    for name, found in weights_of(tmp_path / "child").items():
        if name != "model.ids":
            models = [weights_of(folder)[name] for folder in three]
            np.testing.assert_array_equal(found, summed(models, [1, -0.5, 3], normalize=False), name)


def test_a_slice_leaves_the_weights_that_it_does_not_say_to_the_whole(tmp_path, three):
    """As a model's weight in one slice of a mergekit recipe leaves the others to the recipe's."""
    whole = {"a": 0.25, "b": 0.5, "c": 4}
    ranges = [{"a": [0, 1], "b": [0, 1], "c": [0, 1]}, {"a": [1, 3], "b": [1, 3], "c": [1, 3]}]
    slices = [ranges[0], ranges[1] | {"weight": {"b": [1, 2]}}]
    result = merge(*three, out=tmp_path / "child", method="linear", weight=whole, slices=slices)
    weights = {row.name: row.values["weight"] for row in result.report}
    assert [weights[UP.format(i)] for i in range(3)] == [whole, whole | {"b": 1}, whole | {"b": 2}]


def test_a_model_without_weight_takes_no_part(tmp_path, three):
    merge(*three, out=tmp_path / "three", method="linear", weight={"a": 0.3, "b": 0, "c": 0.2})
    merge(three[0], three[2], out=tmp_path / "two", method="linear", weight={"a": 0.3, "b": 0.2})
    two, found = weights_of(tmp_path / "two"), weights_of(tmp_path / "three")
    assert all(np.array_equal(found[name], two[name]) for name in two)


def test_the_order_of_the_models_changes_no_weight(tmp_path, three):
    a, b, c = three
    merge(a, b, c, out=tmp_path / "one", method="linear", weight={"a": 0.1, "b": 0.2, "c": 0.3})
    merge(c, a, b, out=tmp_path / "other", method="linear", weight={"a": 0.3, "b": 0.1, "c": 0.2})
    one, other = weights_of(tmp_path / "one"), weights_of(tmp_path / "other")
    assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 1},
        {"threads": 3},
        {"memory_budget": "200MB"},
        {"max_shard_size": 60},
        {"direct_io": "off"},
    ],
    ids=str,
)
def test_bytes_depend_on_the_merge_alone(tmp_path, three, options):
    merge(*three, out=tmp_path / "usual", **LINEAR)
    merge(*three, out=tmp_path / "child", **LINEAR, **options)
    usual, child = weights_of(tmp_path / "usual"), weights_of(tmp_path / "child")
    assert all(np.array_equal(child[name], usual[name]) for name in usual)


def test_into_memory_is_the_same_as_to_disk(tmp_path, three):
    state_dict, report = merge_into_memory(*three, **LINEAR)
    result = merge(*three, out=tmp_path / "child", **LINEAR)
    on_disk = weights_of(tmp_path / "child")
    assert state_dict.keys() == on_disk.keys()
    assert all(np.array_equal(state_dict[name].numpy(), on_disk[name]) for name in on_disk)
    assert {row.name: row.values for row in report} == {row.name: row.values for row in result.report}


def test_a_torch_file_among_three(tmp_path, three):
    config = {"num_hidden_layers": 3}
    copies = [
        write_checkpoint(tmp_path / "models" / f.name, tensors=weights_of(f), config=config) for f in three
    ]
    as_torch_files(copies[1], n_shards=2)
    merge(*copies, out=tmp_path / "models/child", method="linear", weight={"a": 1, "b": 2, "c": 3})
    merge(*three, out=tmp_path / "usual", method="linear", weight={"a": 1, "b": 2, "c": 3})
    child, usual = weights_of(tmp_path / "models/child"), weights_of(tmp_path / "usual")
    assert all(np.array_equal(child[name], usual[name]) for name in usual)
    assert verify(tmp_path / "models/child", inputs=True, recompute="all").ok


def test_types_are_the_first_models(tmp_path):
    kinds = {"a": "float16", "b": "float64", "c": "float32"}
    folders = [
        write_checkpoint(tmp_path / label, tensors={"model.norm.weight": np.array([1, 2, 3], kind) / 7})
        for label, kind in kinds.items()
    ]
    merge(*folders, out=tmp_path / "child", method="linear")
    (found,) = weights_of(tmp_path / "child").values()
    exact = [
        sum(Fraction(float(weights_of(f)["model.norm.weight"][i])) for f in folders) / 3 for i in (0, 1, 2)
    ]
    assert found.dtype == np.float16
    assert [abs(Fraction(float(x)) - y) <= abs(y) / 2**11 for x, y in zip(found, exact, strict=True)] == [
        True
    ] * 3


def test_a_tensor_that_only_the_third_model_has(tmp_path, three):
    more = tensors_of(3) | {"model.extra.weight": np.ones(4, "float32")}
    c = write_checkpoint(tmp_path / "c", tensors=more, config={"num_hidden_layers": N_LAYERS})
    result = merge(*three[:2], c, out=tmp_path / "child", **LINEAR, missing="copy")
    (row,) = (row for row in result.report if row.name == "model.extra.weight")
    assert (row.rule, row.why) == ("copy c", "owner")
    np.testing.assert_array_equal(weights_of(tmp_path / "child")["model.extra.weight"], np.ones(4))


# --- one model ---


def test_one_model_is_itself(tmp_path, three):
    result = merge(three[0], out=tmp_path / "child", method="linear", weight=0.3)
    assert result.counts == {"copy a": 7}
    a, child = weights_of(three[0]), weights_of(tmp_path / "child")
    assert all(np.array_equal(child[name], a[name]) for name in a)
    assert "| a | a | local | 0.3 |" in (tmp_path / "child/README.md").read_text()


def test_one_model_can_be_scaled(tmp_path, three):
    merge(three[0], out=tmp_path / "child", method="linear", weight=2, normalize=False)
    a, child = weights_of(three[0]), weights_of(tmp_path / "child")
    assert all(np.array_equal(child[n], a[n] if n == "model.ids" else 2 * a[n]) for n in a)


def test_slerp_of_one_model_is_refused(tmp_path, three):
    with pytest.raises(SettingsError) as caught:
        merge(three[0], out=tmp_path / "child")
    assert str(caught.value).splitlines() == [
        "slerp merges exactly 2 models, not 1",
        f"  found: {three[0]}",
        "  needed: exactly 2",
        "Fix: name exactly 2 models",
    ]


@pytest.mark.parametrize("method", ["slerp", "linear"])
def test_no_model_at_all_is_refused(tmp_path, method):
    with pytest.raises(SettingsError, match=rf"{method} merges .* models, not 0"):
        merge(out=tmp_path / "child", method=method)
    assert names_in(tmp_path) == []


# --- it is a model ---


def test_it_loads_and_computes(tmp_path, transformers_parents):
    from transformers import AutoModelForCausalLM

    a, b = transformers_parents
    merge(a, b, a, out=tmp_path / "child", method="linear", weight={"a": 0.25, "b": 0.5, "c": 0.25})
    merge(a, b, out=tmp_path / "two", method="linear")
    child, report = AutoModelForCausalLM.from_pretrained(tmp_path / "child", output_loading_info=True)
    assert not any(report.values()), report
    two = AutoModelForCausalLM.from_pretrained(tmp_path / "two")
    assert all(torch.equal(x, y) for x, y in zip(child.parameters(), two.parameters(), strict=True))
    assert child(input_ids=torch.tensor([[1, 2, 3]])).logits.isfinite().all()
