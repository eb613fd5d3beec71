"""Writes the parents that the cases merge, with the same bytes everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.models import TOKENS, write_checkpoint, write_json
from tests.same_bytes.weights import Weight, Weights

Make = Callable[[Path], tuple[Path, Path]]
"""Writes both parents into a folder, and returns their folders."""

Build = Callable[[int], Weights]
"""Makes the weights of a parent: 1 for a, 2 for b."""

LLAMA = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_key_value_heads": 2}
"""Keys in which the config of `weights.llama` differs from `tests.models.CONFIG`."""


def write_safetensors(file: Path, weights: Weights) -> None:
    """Writes a file of the format by hand, its tensors in the order given."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, each in weights.items():
        start, end = end, end + each.words.nbytes
        header[name] = {"dtype": each.code, "shape": each.words.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.writelines(each.words.tobytes() for each in weights.values())


def write_parent(
    folder: Path,
    weights: Weights,
    *,
    config: Mapping[str, Any] | None = None,
    tokens: Sequence[str] | None = TOKENS,
    n_shards: int = 1,
    files: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a checkpoint; returns its folder.

    Args:
        folder: The folder.
        weights: Its tensors.
        config: Changes to `tests.models.CONFIG`.
        tokens: The tokenizer's tokens; None writes none.
        n_shards: Number of weight files.
        files: More files by name: JSON, text or bytes.
    """
    write_checkpoint(folder, tensors={}, config={**LLAMA, **(config or {})}, tokens=tokens)
    (folder / "model.safetensors").unlink()
    _write_weights(folder, weights, n_shards)
    for name, content in (files or {}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        elif isinstance(content, str):
            (folder / name).write_text(content, encoding="utf-8")
        else:
            write_json(folder / name, content)
    return folder


def _write_weights(folder: Path, weights: Weights, n_shards: int) -> None:
    if n_shards == 1:
        write_safetensors(folder / "model.safetensors", weights)
        return
    names, weight_map = list(weights), {}
    for i in range(n_shards):
        file = f"model-{i + 1:05d}-of-{n_shards:05d}.safetensors"
        part = {name: weights[name] for name in names[i::n_shards]}
        write_safetensors(folder / file, part)
        weight_map |= dict.fromkeys(part, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def both(build: Build, of_b: Build | None = None, b: Mapping[str, Any] | None = None, **common: Any) -> Make:
    """Parents of one kind; `of_b` and `b` are the differences of b, `common` is passed to `write_parent`."""

    def make(folder: Path) -> tuple[Path, Path]:
        return (
            write_parent(folder / "a", build(1), **common),
            write_parent(folder / "b", (of_b or build)(2), **{**common, **(b or {})}),
        )

    return make


def as_torch(each: Weight) -> Any:
    """A weight as a tensor of torch."""
    import torch

    if each.code == "BF16":
        return torch.from_numpy(each.words.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(each.words.copy())
