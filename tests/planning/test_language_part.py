"""Language models as parts of larger models."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from fusion_slerp import MismatchError, merge, plan_merge, slerp
from tests.models import CONFIG, tiny_tensors, write_checkpoint

TEXT = {key: CONFIG[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
LARGER = {
    "model_type": "made_up_vl",
    "text_config": {**TEXT, "model_type": "llama"},
    "vision_config": {"hidden_size": 3, "model_type": "made_up_vision"},
    **dict.fromkeys(TEXT, None),
}
NEW = {"model.": "model.language_model.", "lm_head.": "lm_head."}
OLD = {"model.": "language_model.model.", "lm_head.": "language_model.lm_head."}


def named(tensors, names):
    """The tensors of a text model under the names that they have in a larger one."""
    start = {name: next(start for start in names if name.startswith(start)) for name in tensors}
    return {names[start[n]] + n.removeprefix(start[n]): each for n, each in tensors.items()}


def vision(seed, start):
    rng = np.random.default_rng(seed)
    return {f"{start}visual.blocks.{i}.fc.weight": rng.standard_normal((3, 3)).astype("f4") for i in (0, 1)}


def larger(folder, seed, names, start="model.", **config):
    tensors = named(tiny_tensors(seed), names) | vision(seed, start)
    return write_checkpoint(folder, tensors=tensors, config=LARGER | config)


@pytest.mark.parametrize("names", [NEW, OLD])
def test_a_text_model_is_merged_into_the_language_part(tmp_path, names):
    a, b = larger(tmp_path / "a", 1, names), write_checkpoint(tmp_path / "b", 2)
    plan = merge(a, b, out=tmp_path / "child", t=0.3).plan
    child = load_file(tmp_path / "child/model.safetensors")
    of_a, of_b = tiny_tensors(1), tiny_tensors(2)
    expected = named({name: slerp(0.3, of_a[name], of_b[name]) for name in of_a}, names) | vision(1, "model.")
    assert child.keys() == expected.keys()
    for name, tensor in expected.items():
        assert np.array_equal(child[name], tensor), name
    assert (tmp_path / "child/config.json").read_bytes() == (a / "config.json").read_bytes()
    assert any("a text model, merged into the language model of" in warning for warning in plan.warnings)
    assert {w.of for t in plan.tensors if (w := t.work) and "visual" in t.out.name} == {"a"}


def test_the_larger_model_comes_first(tmp_path):
    a, b = larger(tmp_path / "a", 1, NEW), write_checkpoint(tmp_path / "b", 2)
    with pytest.raises(MismatchError) as caught:
        plan_merge(b, a)
    assert str(caught.value).startswith("a text model comes before a model with more parts\n")
    assert f"name {a} first" in str(caught.value).splitlines()[-1]


def test_two_releases_name_one_model_differently(tmp_path):
    a, b = larger(tmp_path / "a", 1, NEW), larger(tmp_path / "b", 2, OLD, start="")
    merge(a, b, out=tmp_path / "child", t=0.3)
    child = load_file(tmp_path / "child/model.safetensors")
    for name, tensor in vision(1, "model.").items():
        other = vision(2, "model.")[name]
        assert np.array_equal(child[name], slerp(0.3, tensor, other)), name
    assert child.keys() == load_file(a / "model.safetensors").keys()


def test_a_tensor_that_the_language_part_has_and_the_text_model_lacks_is_missing(tmp_path):
    tensors = tiny_tensors(2)
    del tensors["model.norm.weight"]
    a, b = larger(tmp_path / "a", 1, NEW), write_checkpoint(tmp_path / "b", tensors=tensors)
    with pytest.raises(MismatchError, match=r"only in a: 1: model\.language_model\.norm\.weight"):
        plan_merge(a, b)


def test_the_sizes_of_the_language_models_are_compared(tmp_path):
    a = larger(tmp_path / "a", 1, NEW, text_config={**TEXT, "model_type": "llama", "num_attention_heads": 4})
    b = write_checkpoint(tmp_path / "b", 2)
    with pytest.raises(MismatchError, match="the models differ in num_attention_heads"):
        plan_merge(a, b)


@pytest.mark.parametrize(
    ("part", "text", "fits"),
    [
        ("qwen2_5_vl_text", "qwen2", True),
        ("qwen3_vl_text", "qwen3", True),
        ("gemma3_text", "gemma3_text", True),
        ("llama", "mistral", False),
    ],
)
def test_types_of_language_models(tmp_path, part, text, fits):
    a = larger(tmp_path / "a", 1, NEW, text_config={**TEXT, "model_type": part})
    b = write_checkpoint(tmp_path / "b", 2, config={"model_type": text})
    if fits:
        assert plan_merge(a, b).tensors
    else:
        with pytest.raises(MismatchError, match="the models differ in model_type"):
            plan_merge(a, b)


def test_the_tokens_of_pictures_are_kept(tmp_path):
    """Only the larger model has them: their rows are copied."""
    tokens = ("<unk>", "to", "be", "or", "not", "##s", "<image>")
    tensors = tiny_tensors(1)
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        tensors[name] = np.concatenate([tensors[name], np.full((1, 4), 7, "f4")])
    config = LARGER | {"text_config": {**TEXT, "model_type": "llama", "vocab_size": 7}, "image_token_id": 6}
    folder = tmp_path / "a"
    a = write_checkpoint(
        folder, tensors=named(tensors, NEW) | vision(1, "model."), config=config, tokens=tokens
    )
    b = write_checkpoint(tmp_path / "b", 2)
    merge(a, b, out=tmp_path / "child", t=0.3)
    child = load_file(tmp_path / "child/model.safetensors")
    assert np.array_equal(child["model.language_model.embed_tokens.weight"][6], np.full(4, 7, "f4"))
    written = json.loads((tmp_path / "child/config.json").read_text())
    assert (written["image_token_id"], written["text_config"]["vocab_size"]) == (6, 7)


def test_a_larger_model_with_a_flat_config(tmp_path):
    """As Qwen2-VL was first published: its language model is described at the top."""
    tensors = tiny_tensors(1) | vision(1, "")
    config = {"model_type": "qwen2_vl", "vision_config": {"depth": 2}}
    a = write_checkpoint(tmp_path / "a", tensors=tensors, config=config)
    b = write_checkpoint(tmp_path / "b", 2, config={"model_type": "qwen2"})
    merge(a, b, out=tmp_path / "child", t=0.3)
    child = load_file(tmp_path / "child/model.safetensors")
    assert child.keys() == tensors.keys()
    for name, tensor in tiny_tensors(2).items():
        assert np.array_equal(child[name], slerp(0.3, tensors[name], tensor)), name
    with pytest.raises(MismatchError, match="a text model comes before a model with more parts"):
        plan_merge(b, a)


def test_a_token_that_the_config_needs_is_not_lost(tmp_path):
    """Transformers would not load a model without its token for pictures."""
    tokens = ("<unk>", "to", "be", "or", "not", "##s", "<image>")
    tensors = tiny_tensors(1)
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        tensors[name] = np.concatenate([tensors[name], np.ones((1, 4), "f4")])
    config = {"image_token_id": 6, "vocab_size": 7}
    a = write_checkpoint(tmp_path / "a", tensors=tensors, config=config, tokens=tokens)
    b = write_checkpoint(tmp_path / "b", 2)
    with pytest.raises(MismatchError, match="lacks a token that its config needs\n  key: image"):
        plan_merge(a, b, tokenizer="b")
    assert plan_merge(a, b, tokenizer="union").tensors
