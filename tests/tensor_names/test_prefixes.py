"""The beginnings of names: wrappers, and the prefix of the language model."""

import pytest

from fusion_slerp.tensor_names.prefixes import adapter_parts, beginnings, renamed_like, without_wrappers

TEXT = [
    "model.embed_tokens.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.norm.weight",
    "lm_head.weight",
]
NEW = ["model.language_model." + name.removeprefix("model.") for name in TEXT[:3]] + ["lm_head.weight"]
OLD = ["language_model." + name for name in TEXT]


@pytest.mark.parametrize(
    "prefix", ["module.", "base_model.model.", "_orig_mod.", "module._orig_mod.", "module.module."]
)
def test_a_wrapper_of_the_whole_model_is_taken_off(prefix):
    assert without_wrappers([prefix + name for name in TEXT]) == {prefix + name: name for name in TEXT}


@pytest.mark.parametrize(
    "part",
    ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "base_layer"],
)
def test_a_wrapper_of_one_layer_is_taken_off(part):
    wrapped = f"model.layers.0.{part}.mlp.up_proj.weight"
    assert without_wrappers([*TEXT, wrapped]) == {wrapped: "model.layers.0.mlp.up_proj.weight"}


def test_a_module_of_that_name_is_no_wrapper_if_others_are_next_to_it():
    assert without_wrappers(["module.weight", *TEXT]) == {}


def test_names_without_wrappers_stay():
    assert without_wrappers(TEXT) == {}
    assert without_wrappers([]) == {}


@pytest.mark.parametrize(("first", "other"), [(NEW, TEXT), (OLD, TEXT), (NEW, OLD), (OLD, NEW), (TEXT, OLD)])
def test_language_models_match_alone_and_as_parts(first, other):
    assert renamed_like(first, other) == {b: a for a, b in zip(first, other, strict=True) if a != b}


def test_other_parts_of_older_files_match_those_of_newer_ones():
    new, old = "model.visual.blocks.0.mlp.fc1.weight", "visual.blocks.0.mlp.fc1.weight"
    assert renamed_like([*NEW, new], [*TEXT, old]) == {old: new, **dict(zip(TEXT[:3], NEW[:3], strict=True))}


@pytest.mark.parametrize("top", ["gpt_neox", "bert", "any"])
def test_the_prefix_of_the_bare_model_may_be_missing(top):
    bare = [name.removeprefix("model.") for name in TEXT[:3]]
    full = [f"{top}.{name}" for name in bare]
    assert renamed_like(full, bare) == dict(zip(bare, full, strict=True))
    assert renamed_like(bare, full) == dict(zip(full, bare, strict=True))


def test_equal_and_unlike_names_are_not_renamed():
    assert renamed_like(TEXT, TEXT) == {}
    assert renamed_like(TEXT, [*TEXT, "model.bias"]) == {}
    assert renamed_like([*TEXT, "model.a.weight"], [*TEXT, "model.b.weight"]) == {}


def test_names_that_would_coincide_are_not_renamed():
    assert renamed_like(["model.text_model.x"], ["model.x", "language_model.x"]) == {}


def test_how_renamed_names_begin():
    renamed = dict(zip(OLD, NEW, strict=True))
    assert beginnings(renamed) == ("language_model.model.", "model.language_model.")


def test_layers_of_an_adapter_are_found():
    lora = [f"model.layers.0.self_attn.q_proj.lora_{side}.default.weight" for side in "AB"]
    assert adapter_parts([*TEXT, *lora, "model.lora_norm.weight"]) == lora
