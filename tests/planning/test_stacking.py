"""The merged model's layers stacked from ranges of the source models' layers."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from fusion_slerp import MismatchError, SettingsError, merge, plan_merge, slerp
from fusion_slerp.planning.stacks import stacks_of
from fusion_slerp.settings.merge_settings import make_settings
from tests.models import tiny_tensors, write_checkpoint
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
        "Fix: use layers that the models have, such as slices=[{'a': [0, 2], 'b': [0, 2]}]"
    )
    plan_merge(a, b, slices=[{"a": [0, 2], "b": [0, 2]}])


def test_models_without_one_stack_of_layers_have_no_slices(tmp_path):
    folders = [write_checkpoint(tmp_path / n, tensors={"model.norm.weight": np.ones(4, "f4")}) for n in "ab"]
    with pytest.raises(MismatchError) as caught:
        plan_merge(*folders, slices=[{"a": [0, 1], "b": [0, 1]}])
    assert {problem.fix for problem in caught.value.problems} == {"leave out slices"}
    assert "found: 0 stacks of layers" in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "needed"),
    [
        ("a", "exactly 2 of a, b"),
        ("b", "exactly 2 of a, b"),
        ("abc", "ranges of the models: a, b"),
        ("ac", "ranges of the models: a, b"),
    ],
)
def test_a_slice_names_as_many_models_as_the_method_merges(tmp_path, labels, needed):
    (a, _), (b, _) = deep(tmp_path / "a", 1, 3), deep(tmp_path / "b", 2, 3)
    slices = [{"a": [0, 1], "b": [0, 1]}, {label: [1, 3] for label in labels}]
    with pytest.raises(MismatchError) as caught:
        plan_merge(a, b, slices=slices)
    lines = str(caught.value).splitlines()
    assert lines[0] == "slices[1] does not fit the models"
    assert lines[1:3] == [f"  found: {', '.join(labels)}", f"  needed: {needed}"]
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


# What the config says of the layers.

SOME = [{"a": [0, 1], "b": [0, 1]}, {"a": [3, 6], "b": [3, 6]}]


def six_layers(tmp_path, extra=None, **config):
    """Two models of six layers with these keys in their configs, and these tensors more."""
    folders = []
    for label, seed in (("a", 1), ("b", 2)):
        names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(6)]
        tensors = tiny_tensors(seed) | {name: np.full((8, 4), seed, "f4") for name in names}
        changes = {"num_hidden_layers": 6, **config}
        folders.append(write_checkpoint(tmp_path / label, tensors=tensors | (extra or {}), config=changes))
    return folders


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def test_keys_that_speak_of_layers_follow(tmp_path):
    parents = six_layers(
        tmp_path, first_k_dense_replace=1, mlp_only_layers=[3], hybrid_override_pattern="M-*M-*"
    )
    merge(*parents, out=tmp_path / "child", slices=SOME)
    config = config_of(tmp_path / "child")
    assert (config["num_hidden_layers"], config["first_k_dense_replace"]) == (4, 1)
    assert (config["mlp_only_layers"], config["hybrid_override_pattern"]) == ([1], "MM-*")


def test_a_key_that_cannot_follow_is_named_with_a_way_out(tmp_path):
    parents = six_layers(tmp_path, attn_layer_period=3)
    with pytest.raises(MismatchError) as caught:
        plan_merge(*parents, slices=SOME)
    lines = str(caught.value.problems[0]).splitlines()
    assert lines[0] == "attn_layer_period cannot follow the slices"
    assert lines[2] == f"  key: attn_layer_period: 3 in {parents[0] / 'config.json'}"
    assert lines[3] == "  found: layers [0, 3, 4, 5] of 6"
    assert lines[-1].endswith("give it in config_overrides, under the key attn_layer_period")
    merge(*parents, out=tmp_path / "child", slices=SOME, config_overrides={"attn_layer_period": 2})
    assert config_of(tmp_path / "child")["attn_layer_period"] == 2


def test_layers_of_other_parts_are_left_alone(tmp_path):
    """A model of pictures and text: the slices are those of its language model."""
    vision = {f"vision_tower.layers.{i}.fc.weight": np.ones((2, 2), "f4") for i in range(2)}
    text = {"num_hidden_layers": 6, "layer_types": list("abcdef")}
    parents = six_layers(tmp_path, vision, text_config=text, vision_config={"num_hidden_layers": 6})
    merge(*parents, out=tmp_path / "child", slices=SOME)
    config = config_of(tmp_path / "child")
    assert config["text_config"] == {"num_hidden_layers": 4, "layer_types": list("adef")}
    assert config["vision_config"] == {"num_hidden_layers": 6}
    assert vision.keys() <= load_file(tmp_path / "child/model.safetensors").keys()


def test_layers_for_multi_token_prediction_stay_behind_the_last(tmp_path):
    more = {"model.layers.6.mlp.up_proj.weight": np.ones((8, 4), "f4")}
    parents = six_layers(tmp_path, more, num_nextn_predict_layers=1, layer_types=list("abcdefn"))
    merge(*parents, out=tmp_path / "child", slices=SOME)
    layers = {name for name in load_file(tmp_path / "child/model.safetensors") if ".layers." in name}
    assert layers == {f"model.layers.{i}.mlp.up_proj.weight" for i in range(5)}
    config = config_of(tmp_path / "child")
    assert (config["num_nextn_predict_layers"], config["layer_types"]) == (1, list("adefn"))
    with pytest.raises(MismatchError, match="the model has layers 0 to 5"):
        plan_merge(*parents, slices=[{"a": [0, 7], "b": [0, 7]}])


def test_a_layer_with_tensors_of_its_own_stays_in_its_place(tmp_path):
    parents = six_layers(tmp_path, {"model.layers.0.first_norm.weight": np.ones(4, "f4")})
    for slices in ([{"a": [1, 3], "b": [1, 3]}], [*SOME, {"a": [0, 1], "b": [0, 1]}]):
        with pytest.raises(MismatchError) as caught:
            plan_merge(*parents, slices=slices)
        assert "found: layer 0 has other tensors than its like: first_norm.weight" in str(caught.value)
        assert str(caught.value).endswith("or let layer 0 be the first and take it once")
    plan_merge(*parents, slices=SOME)


def test_layers_whose_kinds_the_config_states_may_have_other_tensors(tmp_path):
    extra = {"model.layers.3.experts.weight": np.ones((4, 4), "f4")}
    parents = six_layers(tmp_path, extra, layer_types=["dense", "dense", "dense", "moe", "dense", "dense"])
    merge(*parents, out=tmp_path / "child", slices=SOME)
    assert config_of(tmp_path / "child")["layer_types"] == ["dense", "moe", "dense", "dense"]
    assert "model.layers.1.experts.weight" in load_file(tmp_path / "child/model.safetensors")


@pytest.mark.parametrize("count", [5, 7])
def test_a_config_that_counts_other_layers(tmp_path, count):
    parents = six_layers(tmp_path, num_hidden_layers=count)
    with pytest.raises(MismatchError) as caught:
        plan_merge(*parents)
    lines = str(caught.value.problems[0]).splitlines()
    assert lines[0] == "the config counts other layers than the files hold"
    assert lines[1] == f"  config: num_hidden_layers: {count} in {parents[0] / 'config.json'}"
    assert lines[2] == f"  found: layers up to model.layers.5 in {parents[0] / 'model.safetensors'}"


@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": 5, "num_nextn_predict_layers": 1},
        {"num_hidden_layers": None},
        {"num_hidden_layers": 3, "is_encoder_decoder": True},
    ],
)
def test_counts_that_are_not_certain(tmp_path, config):
    plan_merge(*six_layers(tmp_path, **config))


def test_a_layer_with_a_huge_number(tmp_path):
    """Nothing is made for each layer up to it."""
    extra = {"model.layers.999999999.mlp.up_proj.weight": np.ones((8, 4), "f4")}
    parents = six_layers(tmp_path, extra, num_hidden_layers=None, model_type="gemma2")
    with pytest.raises(MismatchError, match="more layers by their numbers than tensors"):
        plan_merge(*parents, slices=SOME)


def test_stacks_of_layers_by_their_names():
    names = ["h.0.w", "h.1.attn.c_attn.weight", "model.encoder.language_model.layers.3.scalar"]
    names += [
        "model.layers.2.mlp.experts.17.up_proj.weight",
        "model.vision_tower.layers.40.fc.weight",
        "norm.weight",
    ]
    found = {"h.": 2, "model.encoder.language_model.layers.": 4, "model.layers.": 3}
    assert stacks_of(names) == found
    assert stacks_of(names, n_layers=3) == {"model.layers.": 3}
    assert stacks_of(["altup.0.weight", *names]) == found
