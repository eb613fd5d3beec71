"""The merged model's layers stacked from ranges of the source models' layers."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from fusion_slerp import MismatchError, SettingsError, merge, plan_merge, slerp
from fusion_slerp.settings.merge_settings import make_settings
from tests.models import write_checkpoint
from tests.settings.test_schedule import deep

PARTS = ("self_attn.q_proj", "mlp.up_proj", "input_layernorm")


def test_layers_are_taken_from_the_ranges(tmp_path):
    """Layers 0-2 of both, then 1-3 of a with 2-4 of b: one layer of a occurs twice."""
    (a, of_a), (b, of_b) = deep(tmp_path / "a", 1, 4), deep(tmp_path / "b", 2, 5)
    slices = [{"a": [0, 2], "b": [0, 2]}, {"a": [1, 3], "b": [2, 4], "t": [0.25, 0.75]}]
    result = merge(a, b, out=tmp_path / "child", t=[0.1, 0.9], slices=slices)
    child = load_file(tmp_path / "child/model.safetensors")
    layers = [(0, 0, 0.1), (1, 1, 0.9), (1, 2, 0.25), (2, 3, 0.75)]
    for i, (in_a, in_b, t) in enumerate(layers):
        for part in PARTS:
            pair = of_a[f"model.layers.{in_a}.{part}.weight"], of_b[f"model.layers.{in_b}.{part}.weight"]
            assert np.array_equal(child[f"model.layers.{i}.{part}.weight"], slerp(t, *pair)), (i, part)
    assert len([name for name in child if ".layers." in name]) == 4 * len(PARTS)
    t = {row.name: row.values["t"] for row in result.report}
    assert t["model.embed_tokens.weight"] == 0.1  # of the whole model, as the first slice has none
    assert t["model.norm.weight"] == t["lm_head.weight"] == 0.25  # of the last slice
    config = json.loads((tmp_path / "child/config.json").read_text())
    assert config["num_hidden_layers"] == 4
    assert "slices=" in (tmp_path / "child/README.md").read_text()


def test_all_layers_as_one_slice_change_nothing(tmp_path):
    (a, _), (b, _) = deep(tmp_path / "a", 1, 3), deep(tmp_path / "b", 2, 3)
    merge(a, b, out=tmp_path / "plain", t=[0, 1, 0.3])
    merge(a, b, out=tmp_path / "sliced", t=[0, 1, 0.3], slices=[{"a": [0, 3], "b": [0, 3]}])
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "sliced" / name).read_bytes()


def test_the_layers_types_follow(tmp_path):
    (a, _), (b, _) = deep(tmp_path / "a", 1, 3), deep(tmp_path / "b", 2, 3)
    for folder in (a, b):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"layer_types": ["full", "sliding", "full"]}))
    merge(a, b, out=tmp_path / "child", slices=[{"a": [1, 3], "b": [1, 3]}])
    assert json.loads((tmp_path / "child/config.json").read_text())["layer_types"] == ["sliding", "full"]


def test_layers_beyond_the_model(tmp_path):
    (a, _), (b, _) = deep(tmp_path / "a", 1, 3), deep(tmp_path / "b", 2, 2)
    with pytest.raises(MismatchError) as caught:
        plan_merge(a, b, slices=[{"a": [0, 3], "b": [0, 3]}])
    message = str(caught.value)
    assert message.startswith("the slices do not fit the model")
    assert "found: b: [0, 3]" in message
    assert "needed: at most 2: the model has layers 0 to 1" in message
    assert message.endswith(
        "Fix: use layers that every model has, such as slices=[{'a': [0, 2], 'b': [0, 2]}]"
    )
    plan_merge(a, b, slices=[{"a": [0, 2], "b": [0, 2]}])


def test_models_without_one_stack_of_layers_have_no_slices(tmp_path):
    folders = [write_checkpoint(tmp_path / n, tensors={"model.norm.weight": np.ones(4, "f4")}) for n in "ab"]
    with pytest.raises(MismatchError) as caught:
        plan_merge(*folders, slices=[{"a": [0, 1], "b": [0, 1]}])
    assert {problem.fix for problem in caught.value.problems} == {"leave out slices"}
    assert "found: 0 stacks of layers" in str(caught.value)


@pytest.mark.parametrize("labels", ["a", "b", "abc", "ac"])
def test_a_slice_needs_a_range_of_every_model(tmp_path, labels):
    (a, _), (b, _) = deep(tmp_path / "a", 1, 3), deep(tmp_path / "b", 2, 3)
    slices = [{"a": [0, 1], "b": [0, 1]}, {label: [1, 3] for label in labels}]
    with pytest.raises(MismatchError) as caught:
        plan_merge(a, b, slices=slices)
    lines = str(caught.value).splitlines()
    assert lines[0] == "slices[1] does not fit the models"
    assert lines[1:3] == [f"  found: {', '.join(labels)}", "  needed: a range of every model: a, b"]
    assert lines[3].endswith("such as slices=[{'a': [0, 3], 'b': [0, 3]}]")


@pytest.mark.parametrize(
    ("slices", "headline", "found"),
    [
        ([{"a": [0, 2], "b": [0, 3]}], "slices[0]", "2 layers of a, 3 of b"),
        ([{"a": [2, 0], "b": [2, 0]}], "slices[0].a", "[2, 0] (list)"),
        ([{"a": [0, 2], "b": [0, 2], "T": 1}], "slices[0]", "the key 'T' (did you mean 't'?)"),
        ([{"a": [0, 2], "b": [0, 2], "t": 3}], "slices[0].t", "3 (int)"),
        ([[0, 2]], "slices[0]", "[0, 2] (list)"),
    ],
)
def test_wrong_slices(slices, headline, found):
    with pytest.raises(SettingsError) as caught:
        make_settings(slices=slices)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"invalid {headline}"
    assert lines[1] == f"  found: {found}"
