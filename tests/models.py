"""Makes what the tests merge: checkpoints of a few hundred bytes, and real transformers models hardly larger.

torch and transformers are imported by the functions that need them, so that the others stay cheap.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

TOKENS = ("<unk>", "to", "be", "or", "not", "##s")
ROWS, WIDTH = len(TOKENS), 4

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": ROWS,
    "hidden_size": WIDTH,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}

SHAPES = {
    "lm_head.weight": (ROWS, WIDTH),
    "model.embed_tokens.weight": (ROWS, WIDTH),
    "model.layers.0.mlp.up_proj.weight": (8, WIDTH),
    "model.norm.weight": (WIDTH,),
}


def partial_folder(target: Path) -> Path:
    """Makes the partial folder of a merge that died when it had its lock."""
    folder = target.with_name(f".{target.name}.partial")
    folder.mkdir()
    (folder / "lock").write_text("process 1 on a machine")
    return folder


def tiny_tensors(seed: int, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Normally distributed tensors of `SHAPES`."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}


def tokenizer_json(tokens: Sequence[str] = TOKENS, added: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The content of a tokenizer.json that the tokenizers library loads: one row per token, in order."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": row, "content": token, **flags} for token, row in (added or {}).items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {token: row for row, token in enumerate(tokens)},
            "unk_token": tokens[0],
        },
    }


def sentencepiece_model(tokens: Sequence[str]) -> bytes:
    """As the protocol buffers library writes it, with all the rest of such a file."""
    from transformers.utils import sentencepiece_model_pb2_new as proto

    model = proto.ModelProto()
    for row, token in enumerate(tokens):
        piece = model.pieces.add()
        piece.piece, piece.score, piece.type = token, -row / 7, 1 + row % 3
    model.trainer_spec.model_prefix = "spm"
    model.trainer_spec.vocab_size = len(tokens)
    model.normalizer_spec.name = "nmt_nfkc"
    model.normalizer_spec.precompiled_charsmap = bytes(range(256)) * 40
    return model.SerializeToString()


def write_json(file: Path, content: object) -> None:
    """Writes a JSON file as save_pretrained does: two spaces of indent and a line feed at the end."""
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_shards(folder: Path, tensors: Mapping[str, np.ndarray], n_shards: int) -> None:
    """Writes `model.safetensors`, or that many shards with an index; tensors are dealt out in turn."""
    if n_shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", {"format": "pt"})
        return
    weight_map = {}
    for i in range(n_shards):
        file_name = f"model-{i + 1:05d}-of-{n_shards:05d}.safetensors"
        part = {name: tensors[name] for name in list(tensors)[i::n_shards]}
        save_file(part, folder / file_name, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file_name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": weight_map},
    )


def write_torch_files(folder: Path, tensors: Mapping[str, Any], n_shards: int = 1) -> None:
    """Writes `pytorch_model.bin`, or that many shards with an index, as transformers did."""
    import torch

    if n_shards == 1:
        torch.save(dict(tensors), folder / "pytorch_model.bin")
        return
    weight_map = {}
    for i in range(n_shards):
        file_name = f"pytorch_model-{i + 1:05d}-of-{n_shards:05d}.bin"
        part = {name: tensors[name] for name in list(tensors)[i::n_shards]}
        torch.save(part, folder / file_name)
        weight_map |= dict.fromkeys(part, file_name)
    write_json(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": weight_map})


def as_torch_files(folder: Path, n_shards: int = 1) -> Path:
    """Replaces a checkpoint's safetensors files by torch files of the same tensors; returns the folder."""
    from safetensors.torch import load_file

    tensors = {}
    for file in sorted(folder.glob("*.safetensors*")):
        if file.suffix == ".safetensors":
            tensors |= load_file(file)
        file.unlink()
    write_torch_files(folder, tensors, n_shards)
    return folder


def write_checkpoint(
    folder: Path,
    seed: int = 0,
    *,
    tensors: Mapping[str, np.ndarray] | None = None,
    config: Mapping[str, Any] | None = None,
    tokens: Sequence[str] | None = TOKENS,
    n_shards: int = 1,
) -> Path:
    """Writes a tiny checkpoint and returns its folder.

    Args:
        folder: Where; made with its parents.
        seed: Of the weights.
        tensors: The weights, in place of `tiny_tensors(seed)`.
        config: Changes to `CONFIG`; a value of None removes the key.
        tokens: Of its tokenizer; None writes none.
        n_shards: Number of weight files; an index comes with more than one.
    """
    folder.mkdir(parents=True)
    content = CONFIG | dict(config or {})
    write_json(folder / "config.json", {key: value for key, value in content.items() if value is not None})
    write_shards(folder, tiny_tensors(seed) if tensors is None else tensors, n_shards)
    if tokens is not None:
        write_json(folder / "tokenizer.json", tokenizer_json(tokens))
        write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes, by relative path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def names_in(folder: Path) -> list[str]:
    """The names in a folder, hidden ones included, sorted."""
    return sorted(os.listdir(folder))


def transformers_config(family: str) -> Any:
    """The configuration of a tiny model of one family: llama, gpt2, qwen2 (tied) or mixtral."""
    import transformers

    if family == "gpt2":
        sizes = {"n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
        return transformers.GPT2Config(vocab_size=ROWS, bos_token_id=1, eos_token_id=2, **sizes)
    common = {
        "vocab_size": ROWS,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 32,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if family == "qwen2":
        return transformers.Qwen2Config(tie_word_embeddings=True, **common)
    if family == "mixtral":
        return transformers.MixtralConfig(num_local_experts=2, **common)
    return transformers.LlamaConfig(**common)


def save_transformers_model(
    folder: Path, family: str, seed: int, dtype: str = "bfloat16", **kwargs: Any
) -> Path:
    """Saves a random model of a family with a tokenizer; keyword arguments go to save_pretrained."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(transformers_config(family))
    model.to(getattr(torch, dtype)).save_pretrained(folder, **kwargs)
    write_json(folder / "tokenizer.json", tokenizer_json())
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    return folder
