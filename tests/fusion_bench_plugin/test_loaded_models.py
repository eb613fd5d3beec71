"""Models in memory are merged as those on disk are: the same types, and nothing else of them changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fusion_bench.modelpool import BaseModelPool, CausalLMPool
from transformers import AutoModelForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM

from fusion_slerp import DareLinearForCausalLM, OutputError, SlerpForCausalLM
from tests.models import save_transformers_model


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parents")
    types = {"a": "bfloat16", "b": "float32"}
    return [
        str(save_transformers_model(folder / name, "llama", seed, dtype=dtype))
        for seed, (name, dtype) in enumerate(types.items())
    ]


def both_ways(parents, **settings):
    """The child of loaded models, and that of their files."""
    loaded = {
        name: AutoModelForCausalLM.from_pretrained(parent) for name, parent in zip("xy", parents, strict=True)
    }
    child = SlerpForCausalLM(t=0.4, **settings).run(BaseModelPool(loaded))
    pool = CausalLMPool(dict(zip("xy", parents, strict=True)), tokenizer=None)
    return child, SlerpForCausalLM(t=0.4, **settings).run(pool)


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16", "float32"])
def test_the_type_is_that_of_a_merge_of_files_and_rope_keeps_its_digits(parents, dtype):
    child, streamed = both_ways(parents, dtype=dtype)
    found, same = dict(child.state_dict()), dict(streamed.state_dict())
    assert found.keys() == same.keys()
    assert all(
        torch.equal(found[name], same[name]) and found[name].dtype == same[name].dtype for name in same
    )
    buffers = dict(streamed.named_buffers())
    assert buffers
    for name, buffer in child.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


def save_router(folder, seed):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "moe_intermediate_size": 8, "vocab_size": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": 4, "kv_lora_rank": 4}
    dims = {
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 4,
        "n_routed_experts": 4,
        "n_group": 2,
    }
    layers = {"num_hidden_layers": 1, "first_k_dense_replace": 0, "topk_group": 1, "num_experts_per_tok": 2}
    tokens = {"bos_token_id": 1, "eos_token_id": 2}
    model = DeepseekV3ForCausalLM(DeepseekV3Config(**sizes, **heads, **dims, **layers, **tokens))
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_()
    model.save_pretrained(folder)
    return str(folder)


def test_a_routing_bias_stays_float32_under_dtype(tmp_path):
    parents = [save_router(tmp_path / name, seed) for seed, name in enumerate("ab")]
    child, streamed = both_ways(parents, dtype="bfloat16")
    name = "model.layers.0.mlp.gate.e_score_correction_bias"
    assert child.state_dict()[name].dtype == torch.float32
    assert torch.equal(child.state_dict()[name], streamed.state_dict()[name])
    assert child.lm_head.weight.dtype == torch.bfloat16


@pytest.fixture
def held(parents):
    """A pool of models in memory, and the models."""
    models = {
        name: AutoModelForCausalLM.from_pretrained(parent) for name, parent in zip("xy", parents, strict=True)
    }
    return BaseModelPool(models)


def test_the_tokenizer_comes_from_where_the_first_model_came_from(parents, held, tmp_path):
    SlerpForCausalLM(t=0.4, model_save_path=str(tmp_path / "child")).run(held)
    found, given = (
        (folder / "tokenizer.json").read_bytes() for folder in (tmp_path / "child", Path(parents[0]))
    )
    assert found == given


def test_a_folder_that_a_model_was_loaded_from_is_not_replaced(parents, held):
    method = SlerpForCausalLM(t=0.4, model_save_path=parents[1], overwrite="any")
    with pytest.raises(OutputError, match=r"the output is model y"):
        method.run(held)


@pytest.mark.parametrize("names", [None, {"x": "first", "b": "second"}])
def test_loaded_models_are_named_as_in_the_pool(tmp_path, parents, names):
    """The elements that are drawn depend on the names; both ways make the same if these are equal."""
    options: dict[str, Any] = {"density": 0.5, "seed": 3}
    base = str(save_transformers_model(tmp_path / "base", "llama", 7))
    entries = {"_pretrained_": base, "x": parents[0], "y": parents[1]}
    loaded = {name: AutoModelForCausalLM.from_pretrained(parent) for name, parent in entries.items()}
    child = DareLinearForCausalLM(**options, names=names).run(BaseModelPool(loaded)).state_dict()
    own = {"a": "x", "b": "y"} if names is None else {"a": "first", "b": "second"}
    for given, is_same in ((own, True), ({"a": "x", "b": "z"}, False)):
        method = DareLinearForCausalLM(**options, names=given)
        streamed = method.run(CausalLMPool(entries, tokenizer=None)).state_dict()
        assert all(torch.equal(child[key], streamed[key]) for key in streamed) == is_same
