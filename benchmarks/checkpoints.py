"""Makes the synthetic parents of a benchmark: TinyLlama's shape at any depth, bf16, sharded.

    python benchmarks/checkpoints.py FOLDER N_LAYERS

The weights are noise of a real model's size (0.02), and b is a plus a quarter of it, as two
fine-tunes of one ancestor are. One block of noise is written again and again at other offsets: no
merging tool's speed depends on the values.
"""

from __future__ import annotations

import json
import shutil
import sys
from math import prod
from pathlib import Path

import numpy as np

import fusion_slerp

HIDDEN, INTERMEDIATE, KEY_VALUE, VOCABULARY = 2048, 5632, 256, 32000
BLOCK_ELEMENTS = (1 << 23) + 4099
TENSORS_PER_LAYER = {
    "input_layernorm.weight": (HIDDEN,),
    "mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
    "mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
    "post_attention_layernorm.weight": (HIDDEN,),
    "self_attn.k_proj.weight": (KEY_VALUE, HIDDEN),
    "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
    "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
    "self_attn.v_proj.weight": (KEY_VALUE, HIDDEN),
}


def make_parents(folder: Path, n_layers: int, shard_nbytes: int = 500_000_000) -> tuple[Path, Path]:
    """Writes the checkpoints `a` and `b` into a folder; 22 layers are 1.1B parameters, 2.2 GB each."""
    rng = np.random.default_rng(0)
    ancestor = rng.standard_normal(BLOCK_ELEMENTS, dtype=np.float32) * np.float32(0.02)
    noise = rng.standard_normal(BLOCK_ELEMENTS, dtype=np.float32) * np.float32(0.005)
    for name, values in (("a", ancestor), ("b", ancestor + noise)):
        words = (values.view(np.uint32) >> 16).astype(np.uint16)
        _write(folder / name, n_layers, words, shard_nbytes)
    return folder / "a", folder / "b"


def _shapes(n_layers: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(n_layers):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in TENSORS_PER_LAYER.items()}
    return shapes | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}


def _write(folder: Path, n_layers: int, words: np.ndarray, shard_nbytes: int) -> None:
    folder.mkdir(parents=True)
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in _shapes(n_layers).items():
        if sum(2 * prod(other) for other in shards[-1].values()) + 2 * prod(shape) > shard_nbytes:
            shards.append({})
        shards[-1][name] = shape
    weight_map = {}
    for i, shard in enumerate(shards, start=1):
        file_name = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(shard, file_name)
        _write_shard(folder / file_name, shard, words)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    _write_json(folder / "config.json", _config(n_layers))
    demo = Path(fusion_slerp.__file__).parent / "demo" / "plays"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(demo / name, folder / name)


def _write_shard(file: Path, shapes: dict[str, tuple[int, ...]], words: np.ndarray) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        position = 0
        while position < end:  # a prime block length: no two tensors start alike
            part = words[: (end - position) // 2]
            stream.write(part.tobytes())
            position += part.nbytes


def _config(n_layers: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-05,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    make_parents(Path(sys.argv[1]), n_layers=int(sys.argv[2]))
