"""The values of a method's options for each tensor and model, and their effect."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from fusion_slerp import SettingsError, make_settings, merge, plan_merge
from fusion_slerp.methods.linear import LinearParameters
from fusion_slerp.planning.plan import Copy, CopyIfEqual, Merge, MergePlan
from fusion_slerp.planning.stacking import values_by_name
from tests.models import tiny_tensors, write_checkpoint
from tests.settings.test_schedule import deep

Q, UP = "model.layers.{}.self_attn.q_proj.weight", "model.layers.{}.mlp.up_proj.weight"
NAMES = [
    "model.embed_tokens.weight",
    *(part.format(i) for i in range(5) for part in (Q, UP)),
    "lm_head.weight",
]


def weights(weight: object, labels: str = "abc", **options: object) -> dict[str, dict[str, float]]:
    """The weight of every model, by the name of the tensor."""
    settings = make_settings(method="linear", weight=weight, **options)
    found = values_by_name(NAMES, settings, list(labels))
    assert list(found) == NAMES
    assert all(values.keys() == {"weight"} for values in found.values())
    return {name: values["weight"] for name, values in found.items()}


# Values.


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (0.5, {"a": 0.5, "b": 0.5, "c": 0.5}),
        ({"a": 0.5}, {"a": 0.5, "b": 1.0, "c": 1.0}),
        ({}, {"a": 1.0, "b": 1.0, "c": 1.0}),
        ({"c": -2, "a": {"value": 3}}, {"a": 3.0, "b": 1.0, "c": -2.0}),
    ],
    ids=str,
)
def test_one_number_for_each_model(weight, expected):
    found = weights(weight)
    assert set(map(str, found.values())) == {str(expected)}
    assert len({id(values) for values in found.values()}) == 1  # decided once for all tensors


def test_gradients_and_entries_for_each_model():
    found = weights({"a": [0, 1], "b": [{"filter": "mlp", "value": [1, 0.5, 3]}, {"value": 2}], "c": 7})
    for i in range(5):
        assert found[Q.format(i)] == {"a": i / 4, "b": 2.0, "c": 7.0}
        assert found[UP.format(i)] == {"a": i / 4, "b": [1, 0.75, 0.5, 1.75, 3][i], "c": 7.0}
    assert found["model.embed_tokens.weight"] == found["lm_head.weight"] == {"a": 0.0, "b": 2.0, "c": 7.0}


def test_an_entry_that_does_not_match_leaves_a_model_without_a_value():
    found = weights({"b": {"filter": "mlp", "value": 0.5}})
    assert found[UP.format(0)] == {"a": 1.0, "b": 0.5, "c": 1.0}
    assert found[Q.format(0)] == {"a": 1.0, "b": None, "c": 1.0}


def sliced(ranges: list[tuple[int, int]], *own: object) -> list[dict[str, object]]:
    return [
        {label: list(pair) for label in "abc"} | ({} if weight is None else {"weight": weight})
        for pair, weight in zip(ranges, own, strict=True)
    ]


def test_slices_may_have_weights_of_their_own():
    """A model without values in a slice has those of the whole merge; gradients run over each slice."""
    own = (None, {"b": [0, 1]}, 5)
    slices = sliced([(0, 2), (1, 3), (4, 5)], *own)
    found = weights({"a": [10, 20], "c": 0.5}, slices=slices)
    expected = [(10, 1, 0.5), (20, 1, 0.5), (10, 0, 0.5), (20, 1, 0.5), (5, 5, 5)]
    for i, values in enumerate(expected):
        assert found[Q.format(i)] == dict(zip("abc", values, strict=True))
    assert found["model.embed_tokens.weight"] == {"a": 10.0, "b": 1.0, "c": 0.5}  # of the first slice
    assert found["lm_head.weight"] == {"a": 5.0, "b": 5.0, "c": 5.0}  # of the last


def test_a_slice_whose_entries_do_not_match_leaves_it_to_the_whole():
    slices = sliced([(0, 3), (3, 5)], {"a": {"filter": "mlp", "value": 9}}, None)
    found = weights({"a": 4}, slices=slices)
    assert [found[UP.format(i)]["a"] for i in (0, 4)] == [9, 4]
    assert [found[Q.format(i)]["a"] for i in (0, 4)] == [4, 4]


# Operations.


def models(folder, labels: str, n_layers: int = 2, **more):
    return [deep(folder / label, seed, n_layers)[0] for seed, label in enumerate(labels)]


def works(plan: MergePlan) -> dict[str, object]:
    return {tensor.out.name: tensor.work for tensor in plan.tensors}


def test_weights_become_parameters(tmp_path):
    plan = plan_merge(*models(tmp_path, "abc"), method="linear", weight={"a": 1, "b": 2, "c": 5})
    assert set(map(str, works(plan).values())) == {"merge"}
    for tensor in plan.tensors:
        assert list(tensor.sources) == ["a", "b", "c"]
        assert tensor.values == {"weight": {"a": 1.0, "b": 2.0, "c": 5.0}}
        assert tensor.work == Merge({("a", "b", "c"): LinearParameters((0.125, 0.25, 0.625))})


def test_models_without_weight_are_not_read(tmp_path):
    weight = {"a": [0, 1], "b": [{"filter": "q_proj", "value": 0}, {"value": 1}]}
    plan = plan_merge(*models(tmp_path, "abc"), method="linear", weight=weight)
    found = {tensor.out.name: tensor for tensor in plan.tensors}
    assert found[Q.format(0)].work == Copy("c", "values")
    assert list(found[Q.format(0)].sources) == ["c"]
    assert found[UP.format(0)].work == Merge({("b", "c"): LinearParameters((0.5, 0.5))})
    assert found[Q.format(1)].work == Merge({("a", "c"): LinearParameters((0.5, 0.5))})
    assert list(found[UP.format(1)].sources) == ["a", "b", "c"]


def test_a_tensor_that_no_entry_matches_keeps_model_a_and_it_is_said(tmp_path):
    weight = {label: {"filter": "mlp", "value": 1} for label in "abc"}
    plan = plan_merge(*models(tmp_path, "abc"), method="linear", weight=weight)
    kept = {name for name, work in works(plan).items() if work == Copy("a", "no entry")}
    assert kept == {name for name in works(plan) if "mlp" not in name}
    (remark,) = [warning for warning in plan.warnings if "no entry" in warning]
    assert remark.startswith("no entry of weight matches, copied from a: ")
    assert "mlp" not in remark


def test_a_model_that_no_entry_matches_beside_others_is_an_error(tmp_path):
    with pytest.raises(SettingsError) as caught:
        plan_merge(
            *models(tmp_path, "abc"),
            method="linear",
            weight={"b": {"filter": "mlp", "value": 1}, "c": {"filter": "mlp", "value": 1}},
        )
    lines = str(caught.value).splitlines()
    assert lines[0] == "no entry of weight matches for b, c"
    assert lines[1].startswith("  tensors: 7: ")
    fix = "Fix: end the weight of b, c with an entry that has no filter, such as {value: 0.5}"
    assert lines[-1] == fix


def test_weights_that_sum_to_zero_name_the_tensors(tmp_path):
    weight = {"a": 1, "b": [{"filter": "mlp", "value": -1}, {"filter": "q_proj", "value": -1}, {"value": 1}]}
    with pytest.raises(SettingsError) as caught:
        plan_merge(*models(tmp_path, "ab"), method="linear", weight=weight)
    lines = str(caught.value).splitlines()
    assert lines[0] == "weights that sum to zero: a 1, b -1"
    assert lines[1].startswith("  tensors: 4: model.layers.0.")
    assert lines[-1] == "Fix: change a weight, or use normalize=False"
    assert plan_merge(tmp_path / "a", tmp_path / "b", method="linear", weight=weight, normalize=False)
    with pytest.raises(SettingsError, match=r"Fix: use weight=1\.0$"):
        plan_merge(tmp_path / "a", tmp_path / "b", method="linear", weight=0)


@pytest.mark.parametrize("weight", [{"c": 1}, {"a": 1, "base": 2}, {"d": [0, 1]}], ids=str)
def test_values_for_models_that_are_not_there_are_refused(tmp_path, weight):
    with pytest.raises(SettingsError) as caught:
        plan_merge(*models(tmp_path, "ab"), method="linear", weight=weight)
    (unknown,) = weight.keys() - set("ab")
    whose = "the base" if unknown == "base" else f"model {unknown}, which is not merged"
    lines = str(caught.value).splitlines()
    assert lines[0] == f"weight has a value for {whose}"
    assert lines[1:3] == [f"  found: {unknown}", "  needed: a, b"]
    slices = [{"a": [0, 2], "b": [0, 2], "weight": weight}]
    with pytest.raises(SettingsError, match=f"weight has a value for {whose}"):
        plan_merge(tmp_path / "a", tmp_path / "b", method="linear", slices=slices)


@pytest.mark.parametrize("labels", ["", "a", "abc"])
def test_slerp_takes_two_models(tmp_path, labels):
    with pytest.raises(SettingsError) as caught:
        plan_merge(*models(tmp_path, labels))
    lines = str(caught.value).splitlines()
    assert lines[0] == f"slerp merges exactly 2 models, not {len(labels)}"
    assert lines[-1].startswith("Fix: name exactly 2 models")
    assert (", or use method='linear'" in lines[-1]) == (len(labels) > 2)


def test_the_other_method_is_advised_without_the_options_that_it_lacks(tmp_path):
    folders = models(tmp_path, "abc")
    with pytest.raises(SettingsError) as caught:
        plan_merge(*folders, t=0.3, epsilon=0)
    fix = caught.value.message("command").splitlines()[-1]
    assert fix.startswith("Fix: name exactly 2 models, or use --method linear without t, epsilon")
    assert plan_merge(*folders, method="linear")


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_any_number_of_models_are_averaged(tmp_path, n):
    folders = models(tmp_path, "abcdefghi"[:n], 1)
    plan = plan_merge(*folders, method="linear")
    assert list(plan.parents) == list("abcdefghi"[:n])
    merge(*folders, out=tmp_path / "child", method="linear")
    child = load_file(tmp_path / "child/model.safetensors")
    name = "model.norm.weight"
    expected = np.mean([tiny_tensors(seed)[name].astype("f8") for seed in range(n)], axis=0)
    np.testing.assert_allclose(child[name], expected, rtol=1e-6)


def test_no_model_is_refused():
    with pytest.raises(SettingsError, match="linear merges at least 1 models, not 0"):
        plan_merge(method="linear")


def test_a_single_model_is_copied_or_scaled(tmp_path):
    tensors = tiny_tensors(1) | {"ids": np.arange(4)}
    a = write_checkpoint(tmp_path / "a", tensors=tensors)
    plan = plan_merge(a, method="linear", weight=2)
    assert set(map(str, works(plan).values())) == {"copy a"}
    plan = plan_merge(a, method="linear", weight=2, normalize=False)
    assert isinstance(works(plan)["ids"], CopyIfEqual)
    merge(a, out=tmp_path / "child", method="linear", weight=2, normalize=False)
    child = load_file(tmp_path / "child/model.safetensors")
    assert all(
        np.array_equal(child[name], each if name == "ids" else 2 * each) for name, each in tensors.items()
    )


def test_integers_must_be_equal_in_all_models_unless_one_alone_counts(tmp_path):
    folders = [
        write_checkpoint(tmp_path / name, tensors=tiny_tensors(seed) | {"ids": np.arange(3) + seed})
        for seed, name in enumerate("abc")
    ]
    plan = plan_merge(*folders, method="linear", weight={"a": 1, "b": 1, "c": 0})
    assert str(works(plan)["ids"]) == "copy if equal"
    plan = plan_merge(*folders, method="linear", weight={"a": 0, "b": 0, "c": 4})
    assert works(plan)["ids"] == Copy("c", "values")


def test_slices_of_three_models(tmp_path):
    folders = models(tmp_path, "abc", 3)
    slices = [
        {"a": [0, 2], "b": [1, 3], "c": [0, 2]},
        {"a": [0, 1], "b": [0, 1], "c": [2, 3], "weight": {"c": 3}},
    ]
    merge(*folders, out=tmp_path / "child", method="linear", slices=slices, weight={"a": 2})
    child = load_file(tmp_path / "child/model.safetensors")
    of = [load_file(folder / "model.safetensors") for folder in folders]
    layers = [(0, 1, 0, (2, 1, 1)), (1, 2, 1, (2, 1, 1)), (0, 0, 2, (2, 1, 3))]
    for i, (*places, factors) in enumerate(layers):
        parts = [
            factor * tensors[Q.format(place)].astype("f8")
            for tensors, place, factor in zip(of, places, factors, strict=True)
        ]
        np.testing.assert_allclose(child[Q.format(i)], sum(parts) / sum(factors), rtol=1e-6)
