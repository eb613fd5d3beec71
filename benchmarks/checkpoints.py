"""Makes the synthetic parents of a benchmark in bfloat16.

    python benchmarks/checkpoints.py FOLDER SHAPE

SHAPE is a number of layers of TinyLlama's shape (22 are 1.1B parameters, 2.2 GB each, in shards of
500 MB), `one-tensor` (a single one of 1.1 GB), `small-tensors` (20,000 of 4 KB), `tiny` (a whole
model of 11 MB), `three` (22 layers, and a third model c), `vocabularies` (22 layers; beside `b` a parent
`b-...` for each way in which its tokens differ from a's), `family` (22 layers: three fine-tunes a, b, c of
the model `base`, whose differences are as small as those of real ones).

The weights are noise of a real model's size (0.02), and b is a plus a quarter of it, as two
fine-tunes of one ancestor are. One block of noise is written again and again at other offsets: no
merging tool's speed depends on the values.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

import fusion_slerp

BLOCK_ELEMENTS = (1 << 23) + 4099


@dataclass(frozen=True, slots=True)
class Llama:
    """The sizes of a model; those of TinyLlama unless said otherwise."""

    n_layers: int
    hidden: int = 2048
    intermediate: int = 5632
    key_value: int = 256
    vocabulary: int = 32000

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor with its dimensions."""
        layer = {
            "input_layernorm.weight": (self.hidden,),
            "mlp.down_proj.weight": (self.hidden, self.intermediate),
            "mlp.gate_proj.weight": (self.intermediate, self.hidden),
            "mlp.up_proj.weight": (self.intermediate, self.hidden),
            "post_attention_layernorm.weight": (self.hidden,),
            "self_attn.k_proj.weight": (self.key_value, self.hidden),
            "self_attn.o_proj.weight": (self.hidden, self.hidden),
            "self_attn.q_proj.weight": (self.hidden, self.hidden),
            "self_attn.v_proj.weight": (self.key_value, self.hidden),
        }
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.hidden)}
        for i in range(self.n_layers):
            shapes |= {f"model.layers.{i}.{name}": size for name, size in layer.items()}
        norm: dict[str, tuple[int, ...]] = {"model.norm.weight": (self.hidden,)}
        return shapes | norm | {"lm_head.weight": (self.vocabulary, self.hidden)}


WORDS = [f"▁word{i}" for i in range(32000)]
VOCABULARIES = {
    "b-32-more": [*WORDS, *(f"<extra{i}>" for i in range(32))],
    "b-own": [*WORDS[:31900], *(f"<own{i}>" for i in range(100))],
    "b-permuted": np.random.default_rng(1).permutation(WORDS).tolist(),
}
"""The tokens of further parents b."""

FAMILY = "family"

TINY = Llama(6, hidden=256, intermediate=704, key_value=64, vocabulary=2048)


def make_parents(folder: Path, shape: str, shard_nbytes: int = 500_000_000) -> None:
    """Writes the checkpoints `a` and `b`, for `three` also `c`, for families also `base`, into a folder."""
    rng = np.random.default_rng(0)
    ancestor = rng.standard_normal(BLOCK_ELEMENTS, dtype=np.float32) * np.float32(0.02)
    noise = rng.standard_normal(BLOCK_ELEMENTS, dtype=np.float32) * np.float32(0.005)
    models = {"a": ancestor, "b": ancestor + noise}
    if shape == "three":
        models["c"] = ancestor - noise
    if shape == FAMILY:
        tuned = (rng.standard_normal(BLOCK_ELEMENTS, dtype=np.float32) for _ in "abc")
        models = {name: ancestor + np.float32(0.0005) * each for name, each in zip("abc", tuned, strict=True)}
        models["base"] = ancestor
    for name, values in models.items():
        words = (values.view(np.uint32) >> 16).astype(np.uint16)
        _write(folder / name, _sizes(shape), _shapes(shape), words, shard_nbytes)
    if shape == "vocabularies":
        _add_vocabularies(folder, words, shard_nbytes)


def _add_vocabularies(folder: Path, words: np.ndarray, shard_nbytes: int) -> None:
    """Further parents b; where only the tokens differ, their weights are links to b's."""
    for name, tokens in {"a": WORDS, "b": WORDS, **VOCABULARIES}.items():
        if len(tokens) > len(WORDS):
            sizes = replace(_sizes("vocabularies"), vocabulary=len(tokens))
            _write(folder / name, sizes, sizes.shapes(), words, shard_nbytes)
        elif name in VOCABULARIES:
            shutil.copytree(folder / "b", folder / name, copy_function=os.link)
        model = {"type": "BPE", "vocab": {token: row for row, token in enumerate(tokens)}, "merges": []}
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name / file).unlink(missing_ok=True)
        _write_json(folder / name / "tokenizer.json", {"added_tokens": [], "model": model})


def _sizes(shape: str) -> Llama:
    named = {"tiny": TINY, "vocabularies": Llama(22), "three": Llama(22), FAMILY: Llama(22)}
    return named.get(shape) or Llama(int(shape) if shape.isdigit() else 1)


def _shapes(shape: str) -> dict[str, tuple[int, ...]]:
    if shape == "one-tensor":
        return {"lm_head.weight": (262_144, 2048)}
    if shape == "small-tensors":
        return {f"model.layers.{i // 100}.experts.{i % 100}.weight": (2048,) for i in range(20_000)}
    return _sizes(shape).shapes()


def _write(
    folder: Path, sizes: Llama, shapes: dict[str, tuple[int, ...]], words: np.ndarray, shard_nbytes: int
) -> None:
    folder.mkdir(parents=True)
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, dimensions in shapes.items():
        nbytes = 2 * prod(dimensions)
        if filled + nbytes > shard_nbytes and shards[-1]:
            shards.append({})
            filled = 0
        shards[-1][name] = dimensions
        filled += nbytes
    weight_map = {}
    for i, shard in enumerate(shards, start=1):
        file_name = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(shard, file_name)
        _write_shard(folder / file_name, shard, words)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    _write_json(folder / "config.json", _config(sizes))
    demo = Path(fusion_slerp.__file__).parent / "demo" / "plays"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(demo / name, folder / name)


def header_of(shapes: Mapping[str, tuple[int, ...]]) -> tuple[bytes, int]:
    """The header of a safetensors file of bfloat16 tensors, and the bytes of its data."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, end


def _write_shard(file: Path, shapes: dict[str, tuple[int, ...]], words: np.ndarray) -> None:
    header, end = header_of(shapes)
    with file.open("wb") as stream:
        stream.write(header)
        position = 0
        while position < end:  # an odd block length: in a shard, no two tensors start alike
            part = words[: (end - position) // 2]
            stream.write(part.tobytes())
            position += part.nbytes


def _config(sizes: Llama) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate,
        "num_hidden_layers": sizes.n_layers,
        "num_attention_heads": sizes.hidden // 64,
        "num_key_value_heads": sizes.key_value // 64,
        "vocab_size": sizes.vocabulary,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-05,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    make_parents(Path(sys.argv[1]), sys.argv[2])
