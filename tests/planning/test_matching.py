"""Parents whose tensors do not quite match: tied and untied heads, prefixes, tensors that one lacks."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from fusion_slerp import MismatchError, merge, plan_merge, slerp
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


@pytest.mark.parametrize("prefix", ["model.", "transformer.", "base_model.model."])
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
    assert "missing: copy" in str(caught.value).splitlines()[-1]


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


def test_strict_makes_errors_of_what_is_else_a_warning(tmp_path):
    a = write_checkpoint(tmp_path / "a", 1)
    b = write_checkpoint(tmp_path / "b", 2, config={"rope_theta": 1e4, "rms_norm_eps": 1e-6})
    told = "the configs differ in rope_theta: 500000.0 (a), 10000.0 (b)"
    assert told in plan_merge(a, b).warnings
    with pytest.raises(MismatchError) as caught:
        plan_merge(a, b, strict=True)
    assert "2 problems" in str(caught.value)
    assert told in str(caught.value)
    assert "Fix: set strict: false" in str(caught.value)
    assert plan_merge(a, a, strict=True).warnings == ()
