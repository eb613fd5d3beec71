"""Plans of merges of large models, made from headers alone: their weight files are sparse and take no space.

The shapes are those of published configs: Qwen2.5-72B, Llama-3.1-405B, and Kimi-K2, a mixture of 384 experts
with a trillion parameters. All are in bfloat16.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from checkpoints import header_of

import fusion_slerp
from fusion_slerp import plan_merge
from fusion_slerp.planning.plan import MergePlan

Shapes = dict[str, tuple[int, ...]]

INPUT_SHARD_NBYTES = 5_000_000_000
"""Of the source models' weight files."""


@dataclass(frozen=True, slots=True)
class Dense:
    """The sizes of a model of Llama's kind, with heads of 128 elements."""

    model_type: str
    n_layers: int
    hidden: int
    intermediate: int
    key_value: int
    vocabulary: int
    has_bias: bool = False

    def shapes(self) -> Shapes:
        """Every tensor with its dimensions."""
        h, kv = self.hidden, self.key_value
        layer: Shapes = {
            "input_layernorm.weight": (h,),
            **_mlp("mlp", h, self.intermediate),
            "post_attention_layernorm.weight": (h,),
            "self_attn.k_proj.weight": (kv, h),
            "self_attn.o_proj.weight": (h, h),
            "self_attn.q_proj.weight": (h, h),
            "self_attn.v_proj.weight": (kv, h),
        }
        if self.has_bias:
            layer |= {f"self_attn.{x}_proj.bias": (n,) for x, n in {"q": h, "k": kv, "v": kv}.items()}
        return _model([layer] * self.n_layers, h, self.vocabulary)

    def config(self) -> dict[str, Any]:
        """The keys of config.json that a merge looks at."""
        return {
            "architectures": [f"{self.model_type.capitalize()}ForCausalLM"],
            "model_type": self.model_type,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.hidden // 128,
            "num_key_value_heads": self.key_value // 128,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }


@dataclass(frozen=True, slots=True)
class Experts:
    """The sizes of a mixture of experts of DeepSeek-V3's kind; those of Kimi-K2, unless given."""

    n_layers: int = 61
    n_experts: int = 384
    hidden: int = 7168
    dense_intermediate: int = 18432
    intermediate: int = 2048
    n_heads: int = 64
    query_rank: int = 1536
    key_value_rank: int = 512
    vocabulary: int = 163840

    def shapes(self) -> Shapes:
        """Every tensor with its dimensions; the first layer has no experts."""
        h = self.hidden
        attention: Shapes = {
            "input_layernorm.weight": (h,),
            "post_attention_layernorm.weight": (h,),
            "self_attn.kv_a_layernorm.weight": (self.key_value_rank,),
            "self_attn.kv_a_proj_with_mqa.weight": (self.key_value_rank + 64, h),
            "self_attn.kv_b_proj.weight": (self.n_heads * 256, self.key_value_rank),
            "self_attn.o_proj.weight": (h, self.n_heads * 128),
            "self_attn.q_a_layernorm.weight": (self.query_rank,),
            "self_attn.q_a_proj.weight": (self.query_rank, h),
            "self_attn.q_b_proj.weight": (self.n_heads * 192, self.query_rank),
        }
        sparse: Shapes = {"mlp.gate.weight": (self.n_experts, h), "mlp.gate.e_score_correction_bias": (384,)}
        for i in range(self.n_experts):
            sparse |= _mlp(f"mlp.experts.{i}", h, self.intermediate)
        sparse |= _mlp("mlp.shared_experts", h, self.intermediate)
        first = attention | _mlp("mlp", h, self.dense_intermediate)
        return _model([first, *[attention | sparse] * (self.n_layers - 1)], h, self.vocabulary)

    def config(self) -> dict[str, Any]:
        """The keys of config.json that a merge looks at."""
        return {
            "architectures": ["DeepseekV3ForCausalLM"],
            "model_type": "deepseek_v3",
            "hidden_size": self.hidden,
            "intermediate_size": self.dense_intermediate,
            "moe_intermediate_size": self.intermediate,
            "num_hidden_layers": self.n_layers,
            "first_k_dense_replace": 1,
            "n_routed_experts": self.n_experts,
            "n_shared_experts": 1,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_heads,
            "q_lora_rank": self.query_rank,
            "kv_lora_rank": self.key_value_rank,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }


MODELS: dict[str, Dense | Experts] = {
    "72B": Dense("qwen2", 80, 8192, 29568, 1024, 152064, has_bias=True),
    "405B": Dense("llama", 126, 16384, 53248, 1024, 128256),
    "1T": Experts(),
}
"""By the name on the command line."""


def plans_of(model: Dense | Experts, folder: Path) -> Callable[[str], MergePlan]:
    """Returns the plans of a merge of two such models, by the largest size of a weight file.

    Args:
        model: The sizes.
        folder: An empty folder for the headers, as long as plans are made.
    """
    for label in "ab":
        write_headers(folder / label, model.shapes(), model.config())
    return lambda max_shard_size: plan_merge(folder / "a", folder / "b", max_shard_size=max_shard_size)


def write_headers(
    folder: Path, shapes: Shapes, config: dict[str, Any], shard_nbytes: int = INPUT_SHARD_NBYTES
) -> None:
    """Writes a checkpoint in bfloat16 whose weights are holes in its files."""
    folder.mkdir(parents=True)
    shards: list[Shapes] = [{}]
    free = shard_nbytes
    for name, shape in shapes.items():
        nbytes = 2 * prod(shape)
        if nbytes > free and shards[-1]:
            shards.append({})
            free = shard_nbytes
        shards[-1][name] = shape
        free -= nbytes
    files = {f"model-{i:05d}-of-{len(shards):05d}.safetensors": s for i, s in enumerate(shards, start=1)}
    for name, shard in files.items():
        _write_header(folder / name, shard)
    index = {
        "metadata": {},
        "weight_map": {tensor: name for name, shard in files.items() for tensor in shard},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config))
    demo = Path(fusion_slerp.__file__).parent / "demo" / "plays"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(demo / name, folder / name)


def _write_header(file: Path, shapes: Shapes) -> None:
    header, end = header_of(shapes)
    with file.open("wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + end)


def _mlp(name: str, hidden: int, intermediate: int) -> Shapes:
    return {
        f"{name}.down_proj.weight": (hidden, intermediate),
        f"{name}.gate_proj.weight": (intermediate, hidden),
        f"{name}.up_proj.weight": (intermediate, hidden),
    }


def _model(layers: list[Shapes], hidden: int, vocabulary: int) -> Shapes:
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for i, layer in enumerate(layers):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (hidden,)
    return shapes | {"lm_head.weight": (vocabulary, hidden)}
