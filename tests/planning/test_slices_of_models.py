"""Slices that name different models: whose layers, embedding, norm and head the merged model gets."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from fusion_slerp import MismatchError, SettingsError, merge, plan_merge, slerp
from fusion_slerp.planning.stand_ins import Model, orders
from fusion_slerp.settings.merge_settings import make_settings
from tests.models import TOKENS, tiny_tensors, write_checkpoint, write_json
from tests.settings.test_schedule import deep

STACK = {"method": "passthrough", "slices": [{"a": [0, 3]}, {"b": [2, 6]}]}
Q = "model.layers.{}.self_attn.q_proj.weight"
EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


@pytest.fixture
def two(tmp_path):
    """Models of four and six layers, and their tensors."""
    (a, of_a), (b, of_b) = deep(tmp_path / "a", 1, 4), deep(tmp_path / "b", 2, 6)
    return a, b, of_a, of_b


def child_of(tmp_path, *models, **options):
    merge(*models, out=tmp_path / "child", **options)
    return load_file(tmp_path / "child/model.safetensors"), config_of(tmp_path / "child")


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def with_config(folder, **changes):
    write_json(folder / "config.json", {**config_of(folder), **changes})
    return folder


def test_layers_are_stacked_and_numbered_anew(two, tmp_path):
    a, b, of_a, of_b = two
    child, config = child_of(tmp_path, a, b, **STACK)
    for new, (of, old) in enumerate([(of_a, i) for i in range(3)] + [(of_b, i) for i in range(2, 6)]):
        assert np.array_equal(child[Q.format(new)], of[Q.format(old)]), new
    assert np.array_equal(child[EMBEDDING], of_a[EMBEDDING])
    assert np.array_equal(child[NORM], of_b[NORM])
    assert np.array_equal(child[HEAD], of_b[HEAD])
    assert config["num_hidden_layers"] == 7
    assert len(child) == 3 + 7 * 3


def test_an_empty_last_slice_chooses_the_head(two, tmp_path):
    a, b, of_a, of_b = two
    child, config = child_of(tmp_path, a, b, method="passthrough", slices=[*STACK["slices"], {"a": [4, 4]}])
    assert config["num_hidden_layers"] == 7
    assert np.array_equal(child[NORM], of_a[NORM])
    assert np.array_equal(child[HEAD], of_a[HEAD])
    assert np.array_equal(child[Q.format(6)], of_b[Q.format(5)])


def test_the_files_hold_layer_after_layer(two, tmp_path):
    """So neighbours are read from one model, and a shard holds whole layers."""
    a, b, *_ = two
    names = [tensor.out.name for tensor in plan_merge(a, b, **STACK).tensors]
    layers = [int(name.split(".")[2]) for name in names if ".layers." in name]
    assert layers == sorted(layers)


def test_one_model_stacked_on_itself(tmp_path):
    """The tie of head and embedding stays: both are one model's."""
    _, tensors = deep(tmp_path / "untied", 1, 4)
    del tensors[HEAD]
    config = {"num_hidden_layers": 4, "tie_word_embeddings": True}
    a = write_checkpoint(tmp_path / "a", tensors=tensors, config=config)
    child, config = child_of(tmp_path, a, method="passthrough", slices=[{"a": [0, 3]}, {"a": [1, 4]}])
    assert HEAD not in child
    assert config["tie_word_embeddings"]
    assert np.array_equal(child[Q.format(3)], tensors[Q.format(1)])


def tied(tmp_path, embedding=EMBEDDING):
    """Two tied models without a stored head, and their embeddings."""
    folders, embeddings = [], []
    for seed, label in enumerate("ab", 1):
        tensors = tiny_tensors(seed)
        del tensors[HEAD]
        embeddings.append(tensors.pop(EMBEDDING))
        folders.append(
            write_checkpoint(
                tmp_path / label,
                tensors=tensors | {embedding: embeddings[-1]},
                config={"tie_word_embeddings": True},
            )
        )
    return folders, embeddings


def test_tied_models_get_the_head_of_the_last(tmp_path):
    folders, (of_a, of_b) = tied(tmp_path)
    slices = [{"a": [0, 1]}, {"b": [0, 1]}]
    child, config = child_of(tmp_path, *folders, method="passthrough", slices=slices)
    assert config["tie_word_embeddings"] is False
    assert np.array_equal(child[EMBEDDING], of_a)
    assert np.array_equal(child[HEAD], of_b)
    remarks = plan_merge(*folders, method="passthrough", slices=slices).warnings
    assert any(
        "stores lm_head.weight, which is the embedding of the last slice's" in each for each in remarks
    )


def test_tied_models_of_an_unknown_kind(tmp_path):
    folders, _ = tied(tmp_path, "encoder.tok_embeddings.weight")
    with pytest.raises(MismatchError, match="the head and the embedding would be those of different models"):
        plan_merge(*folders, method="passthrough", slices=[{"a": [0, 1]}, {"b": [0, 1]}])
    plan_merge(*folders, method="passthrough", slices=[{"a": [0, 1]}, {"b": [0, 1]}, {"a": [1, 1]}])


# How many models a slice names.


def test_pairs_that_differ_from_slice_to_slice(tmp_path):
    models = [deep(tmp_path / label, seed, 3) for seed, label in enumerate("abc", 1)]
    (a, of_a), (b, of_b), (c, of_c) = models
    slices = [{"a": [0, 2], "b": [0, 2]}, {"b": [1, 3], "c": [1, 3], "t": 0.25}]
    child, _ = child_of(tmp_path, a, b, c, t=0.5, slices=slices)
    assert np.array_equal(child[Q.format(1)], slerp(0.5, of_a[Q.format(1)], of_b[Q.format(1)]))
    assert np.array_equal(child[Q.format(2)], slerp(0.25, of_b[Q.format(1)], of_c[Q.format(1)]))
    assert np.array_equal(child[EMBEDDING], slerp(0.5, of_a[EMBEDDING], of_b[EMBEDDING]))
    assert np.array_equal(child[HEAD], slerp(0.25, of_b[HEAD], of_c[HEAD]))


def test_any_number_of_models_in_each_slice(tmp_path):
    """A weight that is not divided applies to a slice of one model as well."""
    models = [deep(tmp_path / label, seed, 3) for seed, label in enumerate("abc", 1)]
    slices = [{"a": [0, 2]}, {"a": [1, 3], "b": [1, 3], "c": [0, 2]}]
    child, _ = child_of(
        tmp_path,
        *(folder for folder, _ in models),
        method="linear",
        weight=0.5,
        normalize=False,
        slices=slices,
    )
    assert np.array_equal(child[Q.format(0)], models[0][1][Q.format(0)] * np.float32(0.5))
    total = sum(of[Q.format(i)].astype("f8") * 0.5 for (_, of), i in zip(models, (1, 1, 0), strict=True))
    np.testing.assert_allclose(child[Q.format(2)], total, rtol=1e-6)


def test_several_models_without_slices(two):
    a, b, *_ = two
    with pytest.raises(SettingsError) as caught:
        plan_merge(a, b, method="passthrough")
    lines = str(caught.value).splitlines()
    assert lines[0] == "passthrough merges exactly 1 model, not 2"
    assert "stack layers of each: slices=[{'a': [0, 3]}, {'b': [1, 6]}]" in lines[-1]
    plan_merge(a, b, method="passthrough", slices=[{"a": [0, 3]}, {"b": [1, 6]}])


def test_slices_that_do_not_fit(two):
    a, b, *_ = two
    slices = [{"a": [0, 5]}, {"a": [0, 1], "b": [0, 1]}, {"c": [0, 1]}]
    with pytest.raises(MismatchError) as caught:
        plan_merge(a, b, method="passthrough", slices=slices)
    found = [
        (each.headline, dict(each.fields)["found"], dict(each.fields)["needed"])
        for each in caught.value.problems
    ]
    assert found == [
        ("slices[1] does not fit the models", "a, b", "exactly 1 of a, b"),
        ("slices[2] does not fit the models", "c", "ranges of the models: a, b"),
        ("the slices do not fit the model", "a: [0, 5]", "at most 4: the model has layers 0 to 3"),
    ]
    assert str(caught.value).count("such as slices=[{'a': [0, 3]}, {'b': [1, 6]}]") == 3


def test_a_model_that_no_slice_names(two):
    a, b, *_ = two
    with pytest.raises(MismatchError) as caught:
        plan_merge(a, b, method="passthrough", slices=[{"b": [0, 2]}])
    assert "models that no slice names\n  found: a\n" in str(caught.value)


def test_an_example_fits_the_method():
    with pytest.raises(
        SettingsError, match=r"use ranges such as slices=\[\{'a': \[0, 1\]\}, \{'b': \[0, 2\]\}\]"
    ):
        make_settings(method="passthrough", slices=[{"a": [2, 1]}])


# The factor.


def test_scale_by_model_slice_and_name(two, tmp_path):
    a, b, of_a, of_b = two
    slices = [
        {"a": [0, 2]},
        {"b": [0, 2], "scale": {"b": [{"filter": "self_attn", "value": 0}]}},
        {"b": [2, 3]},
    ]
    child, _ = child_of(tmp_path, a, b, method="passthrough", slices=slices, scale={"b": [1, 3]})
    assert child[Q.format(1)].tobytes() == of_a[Q.format(1)].tobytes()
    assert not child[Q.format(2)].any()
    up = "model.layers.{}.mlp.up_proj.weight"
    assert np.array_equal(child[up.format(2)], of_b[up.format(0)])
    assert np.array_equal(child[up.format(3)], of_b[up.format(1)] * np.float32(3))
    assert np.array_equal(child[EMBEDDING], of_a[EMBEDDING])
    assert np.array_equal(child[up.format(4)], of_b[up.format(2)] * np.float32(3))


def test_a_value_for_a_model_that_its_slice_does_not_name(two):
    a, b, *_ = two
    slices = [{"a": [0, 2]}, {"b": [0, 2], "scale": {"a": 2}}]
    with pytest.raises(SettingsError) as caught:
        plan_merge(a, b, method="passthrough", slices=slices)
    lines = str(caught.value).splitlines()
    assert lines[0] == "slices[1].scale has a value for model a, which its slice does not name"
    assert lines[1:] == ["  found: a", "  needed: b", "Fix: leave a out of slices[1].scale"]


def test_the_report_has_the_values_of_the_models_that_are_used(two, tmp_path):
    a, b, *_ = two
    result = merge(a, b, out=tmp_path / "child", scale={"a": 2, "b": 3}, **STACK)
    values = {row.name: (row.rule, row.values["scale"]) for row in result.report}
    assert values[Q.format(0)] == ("scaled", {"a": 2})
    assert values[Q.format(6)] == ("scaled", {"b": 3})


# Tokens.


def test_rows_of_tokens_that_the_embeddings_model_lacks_come_from_the_other(tmp_path):
    """Embedding and head have the rows of the same tokens, though they are different models'."""
    of = {label: tiny_tensors(seed) for seed, label in enumerate("ab", 1)}
    swapped = [*TOKENS[:4], TOKENS[5], "new"]  # "not" is lacking
    a = write_checkpoint(tmp_path / "a", tensors=of["a"])
    b = write_checkpoint(tmp_path / "b", tensors=of["b"], tokens=swapped)
    slices = [{"a": [0, 1]}, {"b": [0, 1]}]
    child, config = child_of(tmp_path, a, b, method="passthrough", slices=slices)
    tokens = json.loads((tmp_path / "child/tokenizer.json").read_text())["model"]["vocab"]
    assert config["vocab_size"] == len(tokens) == 7
    of_a, of_b = ({t: i for i, t in enumerate(each)} for each in (TOKENS, swapped))
    for token, row in tokens.items():
        label, rows = ("a", of_a) if token in of_a else ("b", of_b)
        assert np.array_equal(child[EMBEDDING][row], of[label][EMBEDDING][rows[token]]), token
        label, rows = ("b", of_b) if token in of_b else ("a", of_a)
        assert np.array_equal(child[HEAD][row], of[label][HEAD][rows[token]]), token


def test_a_models_own_rows_stay_in_place(tmp_path):
    """With its tokenizer, they are copied as bytes, not row by row."""
    a = write_checkpoint(tmp_path / "a", 1)
    b = write_checkpoint(tmp_path / "b", 2, tokens=[*TOKENS[:4], "new", TOKENS[4]])
    plan = plan_merge(a, b, method="passthrough", slices=[{"a": [0, 1]}, {"b": [0, 1]}], tokenizer="a")
    rows = {tensor.out.name: tensor.rows for tensor in plan.tensors}
    assert rows[EMBEDDING] is None
    assert rows[HEAD] is not None


def test_rows_that_move_cannot_be_scaled(tmp_path):
    a = write_checkpoint(tmp_path / "a", 1)
    with pytest.raises(SettingsError, match="change scale so that this tensor is copied"):
        plan_merge(a, method="passthrough", scale=0.5, pad_vocab_to_multiple_of=8)
    scale = [{"filter": "embed", "value": 1}, {"filter": "head", "value": 1}, {"value": 0.5}]
    plan_merge(a, method="passthrough", scale=scale, pad_vocab_to_multiple_of=8)


# Kinds of layers.

FULL, SLIDING = "full_attention", "sliding_attention"


def test_the_types_of_layers_of_different_models(two, tmp_path):
    a, b, *_ = two
    with_config(a, layer_types=[SLIDING, FULL, SLIDING, FULL])
    with_config(b, layer_types=[FULL, SLIDING, FULL, FULL, SLIDING, SLIDING])
    _, config = child_of(tmp_path, a, b, **STACK)
    assert config["layer_types"] == [SLIDING, FULL, SLIDING, FULL, FULL, SLIDING, SLIDING]


def test_a_kind_that_the_first_model_lacks(two):
    a, b, *_ = two
    with_config(a, layer_types=[FULL] * 4)
    with_config(b, layer_types=[FULL] * 5 + [SLIDING])
    with pytest.raises(MismatchError) as caught:
        plan_merge(a, b, **STACK)
    assert "a has no layer like one of b\n  layer: 5 of b: layer_types: " in str(caught.value)


def test_a_number_that_says_which_layers_are_dense():
    """`first_k_dense_replace` means other layers in each; a stand-in has the kind, not the number."""
    a, b = {"first_k_dense_replace": 2}, {"first_k_dense_replace": 1}
    slices = make_settings(method="passthrough", slices=[{"a": [0, 3]}, {"b": [1, 4]}]).layer_slices
    models = {label: Model({"num_hidden_layers": 4, **config}, 4) for label, config in (("a", a), ("b", b))}
    found, without = orders(slices or (), models)
    assert without == []
    assert found["a"] == (0, 1, 2, 2, 2, 3)
    assert found["b"] == (0, 0, 2, 1, 2, 3)


def test_defaults_that_one_config_states_and_the_other_leaves_out():
    """Gemma 2 alternates; an explicit list of the same types is the same."""
    types = [SLIDING, FULL] * 2
    slices = make_settings(method="passthrough", slices=[{"a": [0, 3]}, {"b": [1, 4]}]).layer_slices
    config = {"model_type": "gemma2", "num_hidden_layers": 4}
    models = {"a": Model(config, 4), "b": Model({**config, "layer_types": types}, 4)}
    found, without = orders(slices or (), models)
    assert (found["a"], without) == ((0, 1, 2, 1, 2, 3), [])


def test_layers_for_multi_token_prediction_are_those_of_the_last_slice(two, tmp_path):
    a, b, of_a, of_b = two
    for folder, of, n in ((a, of_a, 4), (b, of_b, 6)):
        more = {f"model.layers.{n}.eh_proj.weight": np.full((4, 4), n, "f4")}
        write_checkpoint(
            tmp_path / f"{folder.name}2",
            tensors=of | more,
            config={"num_hidden_layers": n, "num_nextn_predict_layers": 1},
        )
    child, config = child_of(tmp_path, tmp_path / "a2", tmp_path / "b2", **STACK)
    assert (child["model.layers.7.eh_proj.weight"] == 6).all()
    assert (config["num_hidden_layers"], config["num_nextn_predict_layers"]) == (7, 1)


def test_parts_for_pictures_stay_together(tmp_path):
    """The projector reads what the vision tower writes; both are next to the embedding."""
    folders, of = [], {}
    for seed, label in enumerate("ab", 1):
        extra = {
            "model.vision_tower.layers.0.fc.weight": np.full((2, 2), seed, "f4"),
            "model.multi_modal_projector.linear.weight": np.full((2, 2), seed, "f4"),
        }
        of[label] = tiny_tensors(seed) | extra
        folders.append(write_checkpoint(tmp_path / label, tensors=of[label]))
    child, _ = child_of(tmp_path, *folders, method="passthrough", slices=[{"a": [0, 1]}, {"b": [0, 1]}])
    assert (child["model.vision_tower.layers.0.fc.weight"] == 1).all()
    assert (child["model.multi_modal_projector.linear.weight"] == 1).all()
    assert np.array_equal(child[NORM], of["b"][NORM])
