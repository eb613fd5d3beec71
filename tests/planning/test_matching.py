"""Parents whose tensors differ: tied and untied heads, prefixes, tensors that one lacks."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file

from fusion_slerp import CheckpointError, MismatchError, make_settings, merge, plan_merge, slerp
from fusion_slerp.engine.in_memory import combine_tensors
from tests.models import tiny_tensors, write_checkpoint

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}


def checkpoint(folder, seed: int, *, tied: bool, **changes):
    """A tiny checkpoint; a tied one stores no head. A change of None removes a tensor."""
    tensors = tiny_tensors(seed) | changes
    if tied and HEAD not in changes:
        tensors[HEAD] = None
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return write_checkpoint(folder, tensors=tensors, config=TIED if tied else UNTIED)


def child_of(tmp_path, a, b, **options):
    """The child's tensors, its config, and the plan's warnings."""
    result = merge(a, b, out=tmp_path / "child", t=0.3, **options)
    config = json.loads((tmp_path / "child/config.json").read_text())
    return load_file(tmp_path / "child/model.safetensors"), config, result.plan.warnings


@pytest.mark.parametrize("tied_parent", ["a", "b"])
def test_a_tied_parents_head_is_its_embedding_and_the_child_is_untied(tmp_path, tied_parent):
    a = checkpoint(tmp_path / "a", 1, tied=tied_parent == "a")
    b = checkpoint(tmp_path / "b", 2, tied=tied_parent == "b")
    child, config, warnings = child_of(tmp_path, a, b)
    of_a, of_b = tiny_tensors(1), tiny_tensors(2)
    heads = {"a": (of_a[EMBEDDING], of_b[HEAD]), "b": (of_a[HEAD], of_b[EMBEDDING])}[tied_parent]
    assert np.array_equal(child[HEAD], slerp(0.3, *heads))
    assert np.array_equal(child[EMBEDDING], slerp(0.3, of_a[EMBEDDING], of_b[EMBEDDING]))
    assert child.keys() == of_a.keys()
    assert config["tie_word_embeddings"] is False
    assert any(f"ties {HEAD} to {EMBEDDING}" in warning for warning in warnings)


@pytest.mark.parametrize("t", [0, 1])
def test_at_an_end_the_head_is_that_parents(tmp_path, t):
    a, b = checkpoint(tmp_path / "a", 1, tied=True), checkpoint(tmp_path / "b", 2, tied=False)
    merge(a, b, out=tmp_path / "child", t=t)
    child = load_file(tmp_path / "child/model.safetensors")
    assert np.array_equal(child[HEAD], tiny_tensors(2)[HEAD] if t else tiny_tensors(1)[EMBEDDING])


def test_two_tied_parents_have_one_tensor_and_their_config(tmp_path):
    a, b = (checkpoint(tmp_path / name, seed, tied=True) for seed, name in enumerate("ab"))
    child, _, warnings = child_of(tmp_path, a, b)
    assert HEAD not in child
    assert (tmp_path / "child/config.json").read_bytes() == (a / "config.json").read_bytes()
    assert warnings == ()


def test_a_copy_of_the_embedding_stored_as_head_is_no_head(tmp_path):
    """As some libraries save tied models."""
    a, b = (
        checkpoint(tmp_path / name, seed, tied=True, **{HEAD: tiny_tensors(seed)[EMBEDDING]})
        for seed, name in enumerate("ab")
    )
    child, config, _ = child_of(tmp_path, a, b)
    assert HEAD not in child
    assert config["tie_word_embeddings"] is True


def test_a_copy_stored_on_one_side_and_a_real_head_on_the_other(tmp_path):
    a = checkpoint(tmp_path / "a", 1, tied=True, **{HEAD: tiny_tensors(1)[EMBEDDING]})
    b = checkpoint(tmp_path / "b", 2, tied=False)
    child, config, _ = child_of(tmp_path, a, b)
    assert np.array_equal(child[HEAD], slerp(0.3, tiny_tensors(1)[EMBEDDING], tiny_tensors(2)[HEAD]))
    assert config["tie_word_embeddings"] is False


def test_a_head_that_is_not_the_embedding_though_the_config_says_so_is_kept_and_told(tmp_path):
    a, b = (
        checkpoint(tmp_path / name, seed, tied=True, **{HEAD: tiny_tensors(seed)[HEAD]})
        for seed, name in enumerate("ab")
    )
    child, config, warnings = child_of(tmp_path, a, b)
    assert np.array_equal(child[HEAD], slerp(0.3, tiny_tensors(0)[HEAD], tiny_tensors(1)[HEAD]))
    assert config["tie_word_embeddings"] is False
    assert sum("is not the embedding" in warning for warning in warnings) == 2


def test_a_head_missing_from_an_untied_model_is_missing(tmp_path):
    a = checkpoint(tmp_path / "a", 1, tied=False, **{HEAD: None})
    b = checkpoint(tmp_path / "b", 2, tied=False)
    with pytest.raises(MismatchError, match=r"only in b: 1: lm_head\.weight"):
        plan_merge(a, b)


@pytest.mark.parametrize("prefix", ["model.", "transformer.", "gpt_neox."])
@pytest.mark.parametrize("longer", ["a", "b"])
def test_prefixes_are_matched_and_told(tmp_path, prefix, longer):
    names = {"embed_tokens.weight": (6, 4), "layers.0.up.weight": (8, 4), "norm.weight": (4,)}
    rng = np.random.default_rng(0)
    tensors = [{name: rng.normal(size=shape).astype("f4") for name, shape in names.items()} for _ in "ab"]
    folders = []
    for parent, own in zip("ab", tensors, strict=True):
        saved = {(prefix if parent == longer else "") + name: tensor for name, tensor in own.items()}
        folders.append(
            write_checkpoint(tmp_path / parent, tensors=saved, config={"tie_word_embeddings": True})
        )
    child, _, warnings = child_of(tmp_path, *folders)
    before = prefix if longer == "a" else ""
    for name in names:
        assert np.array_equal(child[before + name], slerp(0.3, tensors[0][name], tensors[1][name]))
    assert child.keys() == {before + name for name in names}
    assert any("names 3 tensors" in warning and repr(prefix) in warning for warning in warnings)


def test_a_tensor_that_one_parent_lacks_is_an_error_that_names_the_setting(tmp_path):
    a = checkpoint(tmp_path / "a", 1, tied=False, **{"model.bias": np.ones(4, "f4")})
    b = checkpoint(tmp_path / "b", 2, tied=False)
    with pytest.raises(MismatchError) as caught:
        merge(a, b, out=tmp_path / "child")
    assert "only in a: 1: model.bias" in str(caught.value)
    assert "use missing='copy'" in str(caught.value).splitlines()[-1]


def test_or_is_copied_and_told(tmp_path):
    mine, other = np.arange(4, dtype="f4"), np.arange(3, dtype="i8")
    a = checkpoint(tmp_path / "a", 1, tied=False, **{"model.bias": mine})
    b = checkpoint(tmp_path / "b", 2, tied=False, **{"model.steps": other})
    child, _, warnings = child_of(tmp_path, a, b, missing="copy")
    assert np.array_equal(child["model.bias"], mine)
    assert np.array_equal(child["model.steps"], other)
    assert np.array_equal(child[HEAD], slerp(0.3, tiny_tensors(1)[HEAD], tiny_tensors(2)[HEAD]))
    assert [warning for warning in warnings if "copied" in warning] == [
        f"only in {a}, copied: model.bias",
        f"only in {b}, copied: model.steps",
    ]


def test_copying_is_not_advised_where_the_configs_forbid_the_merge(tmp_path):
    a = checkpoint(tmp_path / "a", 1, tied=False, **{"model.bias": np.ones(4, "f4")})
    b = write_checkpoint(tmp_path / "b", 2, config={"model_type": "mistral"} | UNTIED)
    with pytest.raises(MismatchError) as caught:
        plan_merge(a, b)
    assert [problem.headline for problem in caught.value.problems] == [
        "the models differ in model_type",
        "the tensor names differ",
    ]
    assert "missing" not in str(caught.value)


def test_strict_makes_errors_of_what_is_else_a_warning(tmp_path):
    a = write_checkpoint(tmp_path / "a", 1)
    b = write_checkpoint(tmp_path / "b", 2, config={"rope_theta": 1e4, "rms_norm_eps": 1e-6})
    told = "the configs differ in rope_theta: 500000.0 (a), 10000.0 (b)"
    assert told in plan_merge(a, b).warnings
    with pytest.raises(MismatchError) as caught:
        plan_merge(a, b, strict=True)
    assert "2 problems" in str(caught.value)
    assert told in str(caught.value)
    assert "Fix: use strict=False" in str(caught.value)
    assert plan_merge(a, a, strict=True).warnings == ()


# --- three models ---------------------------------------------------------------------------------------

WEIGHT = {"a": 0.5, "b": 0.25, "c": 0.25}


def average(**tensors: np.ndarray) -> np.ndarray:
    """The tensor that a merge makes of the models that have it, by label."""
    values = {"weight": {label: WEIGHT[label] for label in tensors}}
    return combine_tensors(tensors, make_settings(method="linear"), "w", values)[0]


def averaged(tmp_path, *folders, **options):
    """The child's tensors, its config, and the plan."""
    result = merge(*folders, out=tmp_path / "child", method="linear", weight=WEIGHT, **options)
    config = json.loads((tmp_path / "child/config.json").read_text())
    return load_file(tmp_path / "child/model.safetensors"), config, result.plan


@pytest.mark.parametrize("tied", ["a", "b", "c", "ab", "bc", "ac"])
def test_tied_models_among_three_lend_their_embedding(tmp_path, tied):
    folders = [checkpoint(tmp_path / label, i, tied=label in tied) for i, label in enumerate("abc")]
    child, config, plan = averaged(tmp_path, *folders)
    of = {label: tiny_tensors(i) for i, label in enumerate("abc")}
    heads = {label: of[label][EMBEDDING if label in tied else HEAD] for label in "abc"}
    assert np.array_equal(child[HEAD], average(**heads))
    assert np.array_equal(child[EMBEDDING], average(**{label: of[label][EMBEDDING] for label in "abc"}))
    assert config["tie_word_embeddings"] is False
    told = [warning for warning in plan.warnings if f"ties {HEAD} to {EMBEDDING}" in warning]
    assert [warning.split(" ties ")[0] for warning in told] == [str(tmp_path / label) for label in tied]
    assert all("not all others do; the merged model stores both" in warning for warning in told)


def test_three_tied_models_have_one_tensor(tmp_path):
    folders = [checkpoint(tmp_path / label, i, tied=True) for i, label in enumerate("abc")]
    child, config, plan = averaged(tmp_path, *folders)
    assert HEAD not in child
    assert config["tie_word_embeddings"] is True
    assert plan.warnings == ()


@pytest.mark.parametrize("longer", ["a", "b", "c", "bc", "ac"])
def test_prefixes_of_three_models_are_matched(tmp_path, longer):
    names = {"embed_tokens.weight": (6, 4), "layers.0.up.weight": (8, 4), "norm.weight": (4,)}
    rng = np.random.default_rng(0)
    of, folders = {}, []
    for label in "abc":
        of[label] = {name: rng.normal(size=shape).astype("f4") for name, shape in names.items()}
        saved = {("model." if label in longer else "") + name: each for name, each in of[label].items()}
        folders.append(write_checkpoint(tmp_path / label, tensors=saved, config=TIED))
    child, _, plan = averaged(tmp_path, *folders)
    before = "model." if "a" in longer else ""
    for name in names:
        assert np.array_equal(child[before + name], average(**{label: of[label][name] for label in "abc"}))
    assert child.keys() == {before + name for name in names}
    others = [label for label in "bc" if (label in longer) != ("a" in longer)]
    told = [warning for warning in plan.warnings if "names 3 tensors" in warning]
    assert [warning.split(" names ")[0] for warning in told] == [str(tmp_path / label) for label in others]


def lacking(tmp_path) -> tuple[list, dict[str, np.ndarray]]:
    """Models of which some have a tensor that the others lack, named after its owners."""
    extra = {
        owners: np.arange(4, dtype="f4") + i for i, owners in enumerate(("a", "b", "c", "ab", "bc", "ac"))
    }
    folders = [
        checkpoint(
            tmp_path / label,
            i,
            tied=False,
            **{f"model.of_{owners}": each * (i + 1) for owners, each in extra.items() if label in owners},
        )
        for i, label in enumerate("abc")
    ]
    return folders, extra


def test_what_some_of_three_models_lack_is_an_error_that_names_the_owners(tmp_path):
    folders, _ = lacking(tmp_path)
    with pytest.raises(MismatchError) as caught:
        averaged(tmp_path, *folders)
    message = str(caught.value)
    assert message.startswith("the tensor names differ\n")
    found = re.findall(r"only in ([\w, ]+): (\d): (model\.\w+)", message)
    assert {(owners.replace(", ", ""), n, name) for owners, n, name in found} == {
        (owners, "1", f"model.of_{owners}") for owners in ("a", "b", "c", "ab", "bc", "ac")
    }


def test_or_is_copied_from_its_only_owner_and_merged_of_several(tmp_path):
    folders, extra = lacking(tmp_path)
    child, _, plan = averaged(tmp_path, *folders, missing="copy")
    scale = {"a": 1, "b": 2, "c": 3}
    for owners, each in extra.items():
        of = {label: each * np.float32(scale[label]) for label in owners}
        expected = of[owners] if len(owners) == 1 else average(**of)
        assert np.array_equal(child[f"model.of_{owners}"], expected), owners
    works = {tensor.out.name: str(tensor.work) for tensor in plan.tensors}
    assert {owners: works[f"model.of_{owners}"] for owners in extra} == {
        owners: f"copy {owners}" if len(owners) == 1 else "merge" for owners in extra
    }
    a, b, c = folders
    assert set(plan.warnings) == {
        f"only in {a}, copied: model.of_a",
        f"only in {b}, copied: model.of_b",
        f"only in {c}, copied: model.of_c",
        f"only in {a} and {b}, merged: model.of_ab",
        f"only in {b} and {c}, merged: model.of_bc",
        f"only in {a} and {c}, merged: model.of_ac",
    }


def test_the_fix_for_missing_tensors_of_three_models(tmp_path):
    """If only one model has more tensors, copying them is the fix."""
    folders = [
        checkpoint(
            tmp_path / label, i, tied=False, **({"model.bias": np.ones(4, "f4")} if label == "c" else {})
        )
        for i, label in enumerate("abc")
    ]
    with pytest.raises(MismatchError) as caught:
        averaged(tmp_path, *folders)
    assert "only in c: 1: model.bias" in str(caught.value)
    assert "use missing='copy'" in str(caught.value).splitlines()[-1]


def test_types_and_shapes_are_those_of_the_first_model_that_has_the_tensor(tmp_path):
    folders = [
        checkpoint(tmp_path / label, i, tied=False, **more)
        for i, (label, more) in enumerate(
            {
                "a": {},
                "b": {"model.late": np.ones(3, "f2")},
                "c": {"model.late": np.ones(3, "f8")},
            }.items()
        )
    ]
    child, _, _ = averaged(tmp_path, *folders, missing="copy")
    assert (child["model.late"].dtype, child["model.late"].shape) == (np.float16, (3,))


# --- wrappers, buffers, layers for multi-token prediction -------------------------------------------------


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "base_model.model.", "module._orig_mod."])
@pytest.mark.parametrize("wrapped", ["a", "b", "ab"])
def test_wrappers_are_taken_off_in_every_model_and_told(tmp_path, prefix, wrapped):
    folders = []
    for i, label in enumerate("ab"):
        before = prefix if label in wrapped else ""
        tensors = {before + name: tensor for name, tensor in tiny_tensors(i).items()}
        folders.append(write_checkpoint(tmp_path / label, tensors=tensors))
    child, _, warnings = child_of(tmp_path, *folders)
    of_a, of_b = tiny_tensors(0), tiny_tensors(1)
    assert child.keys() == of_a.keys()
    for name in child:
        assert np.array_equal(child[name], slerp(0.3, of_a[name], of_b[name])), name
    told = [warning for warning in warnings if "a wrapper gave them" in warning]
    assert [w.split(":")[0] for w in told] == [str(tmp_path / label) for label in wrapped]


def test_layers_of_an_adapter_among_the_weights_are_refused(tmp_path):
    name = "model.layers.0.mlp.up_proj"
    more = {
        f"{name}.lora_A.default.weight": np.ones((2, 4), "f4"),
        f"{name}.lora_B.default.weight": np.ones((8, 2), "f4"),
    }
    a = checkpoint(tmp_path / "a", 1, tied=False, **more)
    b = checkpoint(tmp_path / "b", 2, tied=False, **more)
    with pytest.raises(CheckpointError, match=r"LoRA layers in them\n.*\n  found: 2: .*lora_A"):
        plan_merge(a, b)


OLD_BUFFERS = {
    "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, "f4"),
    "model.layers.0.attn.masked_bias": np.array(-1e4, "f4"),
    "model.layers.0.attn.bias": np.ones((1, 1, 3, 3), "u1"),
}


@pytest.mark.parametrize("owner", ["a", "b"])
def test_buffers_that_only_older_releases_store_are_left_out(tmp_path, owner):
    folders = [
        checkpoint(tmp_path / label, i, tied=False, **(OLD_BUFFERS if label == owner else {}))
        for i, label in enumerate("ab")
    ]
    child, _, warnings = child_of(tmp_path, *folders)
    assert child.keys() == tiny_tensors(0).keys()
    (warning,) = warnings
    assert warning.startswith(f"{tmp_path / owner}: left out")


def test_buffers_that_all_store_are_kept(tmp_path):
    folders = [checkpoint(tmp_path / label, i, tied=False, **OLD_BUFFERS) for i, label in enumerate("ab")]
    child, _, warnings = child_of(tmp_path, *folders)
    assert child.keys() == {*tiny_tensors(0), *OLD_BUFFERS}
    assert warnings == ()


MTP = {
    "model.layers.1.eh_proj.weight": np.ones((4, 8), "f4"),
    "model.layers.1.mlp.up_proj.weight": np.full((8, 4), 2, "f4"),
}
"""A layer for multi-token prediction after the only layer."""


def test_a_layer_for_multi_token_prediction_that_one_model_lacks_is_called_so(tmp_path):
    a = checkpoint(tmp_path / "a", 1, tied=False, **MTP)
    b = checkpoint(tmp_path / "b", 2, tied=False)
    with pytest.raises(MismatchError, match=r"only in a: 2: .*\(layers for multi-token prediction, MTP\)"):
        plan_merge(a, b)
    assert any(
        "(layers for multi-token prediction, MTP)" in w for w in plan_merge(a, b, missing="copy").warnings
    )


def test_a_layer_for_multi_token_prediction_does_not_count_as_depth(tmp_path):
    """A gradient ends at the model's own last layer."""
    more = {"model.layers.1.mlp.up_proj.weight": np.ones((8, 4), "f4")}
    mtp = {name.replace(".1.", ".2."): tensor for name, tensor in MTP.items()}
    config = UNTIED | {"num_hidden_layers": 2, "num_nextn_predict_layers": 1}
    folders = [
        write_checkpoint(tmp_path / name, tensors=tiny_tensors(i) | more | mtp, config=config)
        for i, name in enumerate("ab")
    ]
    plan = plan_merge(*folders, t=[0, 1])
    values = {tensor.out.name: tensor.values["t"] for tensor in plan.tensors}
    assert [values[f"model.layers.{i}.mlp.up_proj.weight"] for i in range(3)] == [0, 1, 1]


@pytest.mark.parametrize("value", [np.inf, 3.0])
def test_an_equal_bound_of_activations_is_copied_though_it_is_infinite(tmp_path, value):
    name = "model.audio.layers.0.ffw.input_max"
    folders = [
        checkpoint(tmp_path / n, i, tied=False, **{name: np.array(value, "f4")}) for i, n in enumerate("ab")
    ]
    child, _, _ = child_of(tmp_path, *folders)
    assert child[name] == value
    report = json.loads((tmp_path / "child/merge_report.json").read_text())
    (entry,) = (each for each in report["tensors"] if each["name"] == name)
    assert entry["why"] == "equal"


def test_bounds_that_differ_are_merged(tmp_path):
    name = "model.audio.layers.0.ffw.output_min"
    folders = [
        checkpoint(tmp_path / n, i, tied=False, **{name: np.array(-i - 1.0, "f4")})
        for i, n in enumerate("ab")
    ]
    child, _, _ = child_of(tmp_path, *folders)
    assert np.isclose(child[name], -1.3)
