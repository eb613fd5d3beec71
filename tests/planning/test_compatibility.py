"""Models that can be merged: configs, tensor names, shapes and types."""

import re
from pathlib import Path

import pytest

from fusion_slerp import plan_merge
from fusion_slerp.dtypes import BY_CODE
from fusion_slerp.errors import CheckpointError, MismatchError
from fusion_slerp.planning.compatibility import compare_configs, compare_ids, compare_tensors
from fusion_slerp.planning.matching import match_tensors
from fusion_slerp.planning.view import View, whole
from fusion_slerp.planning.vocabulary_tensors import vocabulary_tensors
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.header import TensorEntry
from tests.models import TOKENS, tokenizer_json, write_checkpoint, write_json


def checkpoint(name: str, config: dict | None = None, tensors: dict | None = None) -> Checkpoint:
    """A checkpoint without files; tensors are `{name: (code, *shape)}`."""
    folder = Path("models") / name
    entries = {
        key: TensorEntry(key, BY_CODE[code], tuple(shape), folder / "model.safetensors", 0, 0)
        for key, (code, *shape) in (tensors or {}).items()
    }
    return Checkpoint(name, folder, None, config or {}, entries)


def views(*parents: Checkpoint) -> dict[str, View]:
    return {parent.source: whole(parent.source, parent) for parent in parents}


def of_configs(a: dict, b: dict) -> tuple[list[str], list[str]]:
    """The headlines of the problems, and the warnings."""
    problems, warnings = compare_configs(views(checkpoint("a", a), checkpoint("b", b)))
    assert all(problem.kind is MismatchError for problem in problems)
    assert all(problem.fix for problem in problems)
    return [problem.headline for problem in problems], warnings


def of_tensors(a: dict, b: dict, config_a: dict | None = None, config_b: dict | None = None) -> list:
    both = views(checkpoint("a", config_a, a), checkpoint("b", config_b, b))
    matching = match_tensors(both)
    following = vocabulary_tensors(both, matching.matches, {})
    return [*matching.problems, *compare_tensors(both, matching.matches, following.counts)]


# --- configs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "a", "b"),
    [
        ("model_type", "llama", "mistral"),
        ("hidden_size", 64, 96),
        ("intermediate_size", 128, 192),
        ("num_hidden_layers", 2, 3),
        ("num_attention_heads", 4, 8),
        ("num_key_value_heads", 4, 2),
        ("head_dim", 8, 16),
        ("n_head", 4, 8),
        ("num_local_experts", 2, 4),
        ("num_experts_per_tok", 1, 2),
    ],
)
def test_what_must_agree(key, a, b):
    same = {"hidden_act": "silu", key: a}
    assert of_configs(same, same) == ([], [])
    assert of_configs(same, same | {key: b}) == ([f"the models differ in {key}"], [])


def test_message_names_both_values_and_files():
    problems, _ = compare_configs(views(checkpoint("a", {"n_head": 4}), checkpoint("b", {"n_head": 8})))
    assert str(problems[0]).splitlines() == [
        "the models differ in n_head",
        "  key: n_head",
        f"  a: 4 in {Path('models/a/config.json')}",
        f"  b: 8 in {Path('models/b/config.json')}",
        "Fix: merge models of one architecture and size, fine-tuned from the same base model",
    ]


def test_all_differences_are_found():
    a = {"model_type": "llama", "num_attention_heads": 4, "rms_norm_eps": 1e-5, "hidden_act": "silu"}
    b = {"model_type": "mistral", "num_attention_heads": 8, "rms_norm_eps": 1e-6, "hidden_act": "gelu"}
    problems, warnings = of_configs(a, b)
    assert problems == ["the models differ in model_type", "the models differ in num_attention_heads"]
    assert warnings == [
        "the configs differ in hidden_act: 'silu' (a), 'gelu' (b)",
        "the configs differ in rms_norm_eps: 1e-05 (a), 1e-06 (b)",
    ]


@pytest.mark.parametrize(
    ("a", "b", "warning"),
    [
        ({"rope_theta": 1e4}, {"rope_theta": 5e5}, "rope_theta: 10000.0 (a), 500000.0 (b)"),
        ({"sliding_window": 4096}, {}, "sliding_window: 4096 (a), None (b)"),
        ({"sliding_window": None}, {"sliding_window": 512}, "sliding_window: None (a), 512 (b)"),
        (
            {"max_position_embeddings": 2048},
            {"max_position_embeddings": 4096},
            "max_position_embeddings: 2048",
        ),
        (
            {"layer_types": ["full", "full"]},
            {"layer_types": ["full", "sliding"]},
            "layer_types: ['full', 'full']",
        ),
    ],
)
def test_softer_differences_warn_with_both_values(a, b, warning):
    problems, (found,) = of_configs(a, b)
    assert problems == []
    assert found.startswith(f"the configs differ in {warning}")


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({}, {}),
        ({"torch_dtype": "float32"}, {"torch_dtype": "bfloat16"}),
        ({"torch_dtype": "float32"}, {"dtype": "float32"}),
        ({"_name_or_path": "x", "transformers_version": "4.40.0"}, {"transformers_version": "5.23.0"}),
        ({"bos_token_id": 1, "eos_token_id": 2}, {"bos_token_id": 0, "eos_token_id": [2, 3]}),
        ({"vocab_size": 1000}, {"vocab_size": 1003}),
        (
            {"use_cache": True, "architectures": ["LlamaForCausalLM"]},
            {"use_cache": False, "architectures": ["X"]},
        ),
        ({"head_dim": 64, "mlp_bias": False}, {"head_dim": None}),
        ({"pad_token_id": None}, {"pad_token_id": 7}),
    ],
)
def test_differences_without_meaning(a, b):
    assert of_configs(a, b) == of_configs(b, a) == ([], [])


IN_A, IN_B = {"<s>": 0, "<img>": 1}, {"<img>": 0, "<s>": 1}


@pytest.mark.parametrize(
    ("a", "b", "keys"),
    [
        ({"image_token_id": 1}, {"image_token_id": 0}, []),
        ({"image_token_id": 1}, {"image_token_id": 1}, ["image_token_id"]),
        ({"part": {"boi_token_id": 1}}, {"part": {"boi_token_id": 9}}, ["part.boi_token_id"]),
        ({"image_token_index": 77}, {"image_token_index": 77}, []),
        ({"image_token_id": 1}, {}, []),
        ({"suppress_tokens": [0, 1]}, {"suppress_tokens": [1, 0]}, []),
        ({"bos_token_id": 1}, {"bos_token_id": 1}, []),
    ],
)
def test_ids_differ_if_they_stand_for_other_tokens(a, b, keys):
    """The merged model's follow their tokens; without tokens, an id stands for itself."""
    both = views(checkpoint("a", a), checkpoint("b", b))
    assert of_configs(a, b) == ([], [])
    warnings = compare_ids(both, {"a": IN_A, "b": IN_B})
    assert [line.split(":")[0] for line in warnings] == [f"the configs differ in {key}" for key in keys]
    assert compare_ids(both, {"a": IN_A, "b": IN_A}) == compare_ids(both, {})


def test_ids_of_a_plan(tmp_path):
    """Of whole models: `strict` refuses what is else a warning."""
    a = write_checkpoint(tmp_path / "a", config={"image_token_id": 1})
    b = write_checkpoint(tmp_path / "b", config={"image_token_id": 2})
    line = "the configs differ in image_token_id: 1 (a), 2 (b)"
    assert line in plan_merge(a, b).warnings
    with pytest.raises(MismatchError, match=re.escape(line)):
        plan_merge(a, b, strict=True)
    write_json(b / "tokenizer.json", tokenizer_json([TOKENS[i] for i in (0, 2, 1, 3, 4, 5)]))
    assert line not in plan_merge(a, b).warnings


OLD_PLAIN = {"rope_theta": 500000.0, "rope_scaling": None}
NEW_PLAIN = {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}
SCALED = {"rope_type": "llama3", "factor": 8.0}
OLD_SCALED = {"rope_theta": 500000.0, "rope_scaling": SCALED}
OLDER_SCALED = {"rope_theta": 500000.0, "rope_scaling": {"type": "llama3", "factor": 8.0}}
NEW_SCALED = {"rope_parameters": {"rope_theta": 500000.0, **SCALED}}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (OLD_PLAIN, NEW_PLAIN),
        (OLD_SCALED, NEW_SCALED),
        (OLDER_SCALED, NEW_SCALED),
        (OLD_SCALED, OLDER_SCALED),
    ],
)
def test_rope_is_compared_across_releases_of_transformers(a, b):
    assert of_configs(a, b) == of_configs(b, a) == ([], [])


@pytest.mark.parametrize("plain", [OLD_PLAIN, NEW_PLAIN])
def test_rope_that_differs_is_seen_across_releases(plain):
    changed = {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}
    assert of_configs(plain, changed) == ([], ["the configs differ in rope_theta: 500000.0 (a), 10000.0 (b)"])
    assert of_configs(plain, NEW_SCALED)[1] == [
        "the configs differ in factor: None (a), 8.0 (b)",
        "the configs differ in rope_type: None (a), 'llama3' (b)",
    ]


def test_nested_configs_are_compared_by_their_path():
    a = {"text_config": {"num_attention_heads": 4, "rope_theta": 1e4}}
    b = {"text_config": {"num_attention_heads": 8, "rope_parameters": {"rope_theta": 1e6}}}
    assert of_configs(a, b) == (
        ["the models differ in text_config.num_attention_heads"],
        ["the configs differ in text_config.rope_theta: 10000.0 (a), 1000000.0 (b)"],
    )


# --- tensors --------------------------------------------------------------------------------------------

LAYER = {f"model.layers.{i}.mlp.{part}.weight": ("BF16", 8, 4) for i in (0, 1) for part in ("up", "down")}


def test_equal_and_mixed_floating_types_fit():
    floats = {f"w{code}": (code, 2) for code in ("BF16", "F16", "F32", "F64")}
    turned = {name: (code, 2) for name, code in zip(floats, ("F64", "BF16", "F16", "F32"), strict=True)}
    assert of_tensors(floats, turned) == []
    exact = {code: (code, 3) for code in ("BOOL", "U8", "I64", "U16")}
    assert of_tensors(exact, exact) == []
    assert of_tensors(dict(LAYER), dict(reversed(LAYER.items()))) == []


def test_names_that_differ_come_with_the_nearest():
    b = {name.replace("up", "up_proj"): value for name, value in LAYER.items()}
    (problem,) = of_tensors(LAYER, b)
    assert problem.kind is MismatchError
    lines = str(problem).splitlines()
    assert lines[0] == "the tensor names differ"
    assert lines[1] == (
        "  only in a: 2: model.layers.0.mlp.up.weight (did you mean 'model.layers.0.mlp.up_proj.weight'?), "
        "model.layers.1.mlp.up.weight (did you mean 'model.layers.1.mlp.up_proj.weight'?)"
    )
    assert lines[2] == f"  folder: {Path('models/a')}"
    assert lines[3].startswith(
        "  only in b: 2: model.layers.0.mlp.up_proj.weight (did you mean 'model.layers.0.mlp.up."
    )
    assert lines[5].startswith("Fix: merge models of one architecture and depth")


def test_many_extra_names_are_counted():
    more = {f"model.layers.{i}.mlp.up.weight": ("BF16", 8, 4) for i in range(2, 12)}
    (problem,) = of_tensors(LAYER, LAYER | more)
    lines = str(problem).splitlines()
    assert lines[1].startswith("  only in b: 10: model.layers.2.mlp.up.weight")
    assert lines[1].endswith("... and 7 more")
    assert "only in a" not in str(problem)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_shapes_that_differ_are_one_problem(n):
    changed = {name: (code, rows, 5) for name, (code, rows, _) in list(LAYER.items())[:n]}
    (problem,) = of_tensors(LAYER, LAYER | changed)
    first, *others = changed
    file_a, file_b = (Path("models") / name / "model.safetensors" for name in "ab")
    assert str(problem).splitlines() == [
        f"the shapes of {n} tensors differ",
        f"  tensor: {first}",
        f"  a: [8, 4] in {file_a}",
        f"  b: [8, 5] in {file_b}",
        *([f"  also: {', '.join(others)}"] if others else []),
        "Fix: merge models of one size",
    ]


def vocabulary(rows: int) -> dict:
    return {"lm_head.weight": ("BF16", rows, 4), "model.embed_tokens.weight": ("BF16", rows, 4)}


def test_shapes_that_differ_by_the_vocabulary_alone():
    """Embedding and head may differ in their number of rows; tokenizers map rows to tokens."""
    assert of_tensors(LAYER | vocabulary(1000), LAYER | vocabulary(1003)) == []
    wider = vocabulary(1003) | {"lm_head.weight": ("BF16", 1003, 5)}
    (problem,) = of_tensors(LAYER | vocabulary(1000), LAYER | wider)
    assert problem.headline == "the shapes of 1 tensors differ"


def test_types_that_cannot_be_merged_with_each_other():
    (problem,) = of_tensors({"w": ("F32", 2), "ids": ("I64", 2)}, {"w": ("F32", 2), "ids": ("I32", 2)})
    assert problem.kind is MismatchError
    lines = str(problem).splitlines()
    assert lines[0] == "the types of 1 tensors cannot be merged"
    assert lines[1] == "  tensor: ids"
    assert [line.split(" in ")[0] for line in lines[2:4]] == ["  a: I64", "  b: I32"]
    (problem,) = of_tensors({"w": ("F32", 2)}, {"w": ("I32", 2)})
    assert problem.headline == "the types of 1 tensors cannot be merged"


@pytest.mark.parametrize("code", ["F8_E4M3", "F8_E5M2", "F8_E8M0"])
def test_types_that_cannot_be_interpolated_at_all(code):
    good, bad = {"w": ("F32", 2)}, {"w": (code, 2)}
    (problem,) = of_tensors(bad, bad)[:1]
    assert problem.kind is CheckpointError
    assert problem.headline == "tensors of a type that cannot be interpolated"
    assert f"found: w ({code})" in str(problem)
    assert f"folder: {Path('models/b')}" in str(of_tensors(good, bad)[0])


def test_all_kinds_of_difference_at_once():
    a = {
        "same": ("F32", 2),
        "shape": ("F32", 2),
        "type": ("I8", 2),
        "only a": ("F32", 1),
        "bad": ("F8_E5M2", 1),
    }
    b = {
        "same": ("F32", 2),
        "shape": ("F32", 3),
        "type": ("I64", 2),
        "only b": ("F32", 1),
        "bad": ("F8_E5M2", 1),
    }
    assert [problem.headline for problem in of_tensors(a, b)] == [
        "the tensor names differ",
        "tensors of a type that cannot be interpolated",
        "tensors of a type that cannot be interpolated",
        "the shapes of 1 tensors differ",
        "the types of 1 tensors cannot be merged",
    ]
