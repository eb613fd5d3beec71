"""Cases of names, files, slices, heads and recipes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.models import write_torch_files
from tests.same_bytes.case import Case
from tests.same_bytes.entries import by_command, by_recipe
from tests.same_bytes.of_vocabularies import UNION
from tests.same_bytes.parents import Make, as_torch, both
from tests.same_bytes.weights import Weight, Weights, llama, random_weight, uniform, weight

FOUR = {"num_hidden_layers": 4, "layer_types": ["full", "sliding", "full", "sliding"]}
DEEP = both(partial(llama, n_layers=4), config=FOUR)
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


# --- heads and names --------------------------------------------------------------------------------------


def headless(seed: int) -> Weights:
    """A model whose head is its embedding, not stored."""
    return {name: each for name, each in llama(seed).items() if name != HEAD}


def twice(seed: int) -> Weights:
    """A model that stores its embedding again as its head."""
    weights = llama(seed)
    return weights | {HEAD: weights[EMBEDDING]}


def renamed(seed: int, before: str, after: str) -> Weights:
    """A model whose names have another prefix."""
    return {
        (after + name.removeprefix(before) if name.startswith(before) else name): each
        for name, each in llama(seed).items()
    }


def gpt2(seed: int, prefix: str = "transformer.") -> Weights:
    """Names of another family."""
    shapes = {"wte.weight": (6, 8), "wpe.weight": (16, 8), "ln_f.bias": (8,)}
    shapes |= {f"h.{i}.attn.c_attn.weight": (8, 24) for i in range(3)}
    return {prefix + name: random_weight(seed, name, shape) for name, shape in shapes.items()}


def with_integers(seed: int, alike: bool = True) -> Weights:
    """Tensors that are copied and never merged."""
    shift = 0 if alike else seed
    return llama(seed) | {
        "model.position_ids": Weight("I64", np.arange(11) + shift),
        "model.counter": Weight("I32", np.array(7 + shift, "<i4")),
        "model.layers.0.mask": Weight("BOOL", (np.arange(9) + shift) % 2 == 0),
    }


def long_integers(seed: int) -> Weights:
    """Integers over several chunks."""
    return {"model.ids": Weight("I32", np.arange((1 << 20) + 77, dtype="<i4")), **llama(seed)}


def with_more(seed: int) -> Weights:
    """Each with tensors that the other lacks."""
    more = {f"model.only_of_{seed}.weight": weight(uniform(seed, 4, 3), "BF16")}
    return llama(seed) | more | {f"extra.{seed}.bias": weight(uniform(seed + 9, 3))}


# --- files ------------------------------------------------------------------------------------------------


def as_torch_files(make: Make, which: str = "ab", n_shards: int = 1) -> Make:
    """The same parents, or one of them, in torch's format."""
    from safetensors.torch import load_file

    def made(folder: Path) -> tuple[Path, Path]:
        parents = make(folder)
        for name in which:
            file = folder / name / "model.safetensors"
            tensors = load_file(file)
            file.unlink()
            write_torch_files(folder / name, tensors, n_shards)
        return parents

    return made


def views(seed: int) -> dict[str, Any]:
    """Tensors that share storages, or whose elements lie in another order."""
    base = as_torch(weight(uniform(seed, 8, 6)))
    large = as_torch(weight(uniform(seed + 3, 1100, 1000), "BF16"))
    return {
        "plain": base,
        "rows": base[2:5],
        "transposed": base.t(),
        "expanded": base[:1].expand(7, 6),
        "steps": base[::2, 1::3],
        "large": large.t(),
        "columns": large[:, 17:],
        "count": as_torch(Weight("I64", np.arange(6))).reshape(2, 3).t(),
    }


def of_views(folder: Path) -> tuple[Path, Path]:
    """Parents in torch's format that hold views."""
    parents = both(lambda seed: {}, tokens=None)(folder)
    for seed, parent in enumerate(parents):
        (parent / "model.safetensors").unlink()
        write_torch_files(parent, views(seed + 1))
    return parents


def of_shared_heads(folder: Path) -> tuple[Path, Path]:
    """Parents in torch's format whose head and embedding share one storage."""
    parents = both(lambda seed: {}, config={"tie_word_embeddings": True})(folder)
    for seed, parent in enumerate(parents):
        (parent / "model.safetensors").unlink()
        tensors = {name: as_torch(each) for name, each in llama(seed + 1, "F16").items()}
        write_torch_files(parent, tensors | {HEAD: tensors[EMBEDDING]})
    return parents


def as_links(make: Make) -> Make:
    """The same parents in folders of links, as in the hub's cache."""

    def made(folder: Path) -> tuple[Path, Path]:
        (folder / "blobs").mkdir()
        parents = make(folder)
        for parent in parents:
            for file in sorted(parent.iterdir()):
                blob = folder / "blobs" / f"{parent.name} {file.name}"
                file.rename(blob)
                os.symlink(blob, file)
        return parents

    return made


BESIDE = {
    "LICENSE": "free\n",
    "NOTICE.txt": "made of others\n",
    "modeling_own.py": "VALUE = 1\n",
    "preprocessor_config.json": {"size": 8},
    "generation_config.json": {"eos_token_id": 2, "temperature": 0.7},
    "notes.txt": "does not come along\n",
}
WITH_CODE = both(llama, config={"auto_map": {"AutoConfig": "modeling_own.Config"}}, files=BESIDE)
TIED, NOT_TIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
OVERLAPPING = [{"a": [0, 3], "b": [0, 3]}, {"a": [1, 4], "b": [1, 4], "t": [0.1, 0.9]}]
CROSSED = [
    {"a": [0, 2], "b": [2, 4], "t": [{"filter": "mlp", "value": [0, 0.8]}, {"value": 0.5}]},
    {"a": [3, 4], "b": [0, 1]},
]

_FILES = {
    "heads: both tied": Case(both(headless, config=TIED), {"t": 0.3}),
    "heads: both tied and stored": Case(both(twice, config=TIED), {"t": 0.3}),
    "heads: a tied": Case(both(headless, llama, config=TIED, b={"config": NOT_TIED}), {"t": 0.3}),
    "heads: b tied": Case(both(llama, headless, config=NOT_TIED, b={"config": TIED}), {"t": 0.3}),
    "heads: b tied, t = 1": Case(both(llama, headless, config=NOT_TIED, b={"config": TIED}), {"t": 1}),
    "heads: tied, but stored otherwise": Case(both(llama, twice, config=TIED), {"t": 0.3}),
    "names: b without a prefix": Case(both(llama, partial(renamed, before="model.", after="")), {"t": 0.3}),
    "names: a without a prefix": Case(both(partial(renamed, before="model.", after=""), llama), {"t": 0.3}),
    "names: another prefix": Case(
        both(llama, partial(renamed, before="model.", after="base_model.model.model.")), {"t": 0.3}
    ),
    "names: another family": Case(
        both(gpt2, partial(gpt2, prefix=""), config={"num_hidden_layers": 3}), {"t": [0.1, 0.5, 1]}
    ),
    "integers": Case(both(with_integers), {"t": 0.3}),
    "integers, t = 0": Case(both(partial(with_integers, alike=False)), {"t": 0, "dtype": "bfloat16"}),
    "integers, t = 1": Case(both(partial(with_integers, alike=False)), {"t": 1}),
    "integers, several chunks": Case(both(long_integers), {"t": 0.3}),
    "missing: copy": Case(both(with_more), {"t": 0.3, "missing": "copy"}),
    "missing: copy, to float32": Case(both(with_more), {"t": 1, "missing": "copy", "dtype": "float32"}),
    "files: small": Case(both(llama), {"t": 0.3, "max_shard_size": 900}),
    "files: a tensor each": Case(both(llama), {"t": 0.3, "max_shard_size": 1, "dtype": "bfloat16"}),
    "files: several of each parent": Case(both(llama, n_shards=3, b={"n_shards": 2}), {"t": 0.3}),
    "files: several of all": Case(both(llama, n_shards=3), {"t": 0.3, "max_shard_size": "2KB"}),
    "files: code, licence and the like": Case(WITH_CODE, {"t": 0.3, "dtype": "float16"}),
    "files: links": Case(as_links(both(llama)), {"t": 0.3, "follow_links": True}),
    "torch: both": Case(as_torch_files(both(partial(llama, code="BF16"))), {"t": 0.3}),
    "torch: a": Case(as_torch_files(both(llama), "a"), {"t": 0.3, "dtype": "bfloat16"}),
    "torch: b, in two files": Case(as_torch_files(both(llama), "b", 2), {"t": 0.3}),
    "torch: views": Case(of_views, {"t": 0.3}),
    "torch: views, rows": Case(of_views, {"t": 0.3, "granularity": "row"}),
    "torch: views, t = 0": Case(of_views, {"t": 0}),
    "torch: shared heads": Case(of_shared_heads, {"t": 0.3}),
    "torch: vocabularies": Case(as_torch_files(UNION), {"t": 0.3, "vocab_fill": "mean"}),
    "slices: overlapping, with their own t": Case(DEEP, {"t": 0.3, "slices": OVERLAPPING}),
    "slices: of other layers of b": Case(DEEP, {"t": [0.2, 0.6], "slices": CROSSED}),
    "slices: fewer, in small files": Case(
        DEEP, {"t": 0.5, "slices": [{"a": [1, 3], "b": [1, 3]}], "max_shard_size": "1KB", "dtype": "float16"}
    ),
}


# --- the command and recipes ------------------------------------------------------------------------------


def with_recipe(make: Make, text: str) -> Make:
    """The same parents with a recipe next to them; `A` and `B` stand for them in its text."""

    def made(folder: Path) -> tuple[Path, Path]:
        a, b = make(folder)
        (folder / "recipe.yml").write_text(
            text.replace("model: A", f"model: {a}").replace("model: B", f"model: {b}")
        )
        return a, b

    return made


def recipe(make: Make, text: str, options: Mapping[str, Any] | None = None) -> Case:
    """A case that a recipe describes."""
    return Case(with_recipe(make, text), options or {}, by_recipe)


LAZY = """
slices:
  - sources:
      - {model: A, layer_range: [0, 4]}
      - {model: B, layer_range: [0, 4]}
merge_method: slerp
base_model: {model: A}
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
dtype: bfloat16
"""
MODELS = """
merge_method: slerp
base_model: {model: B}
models: [{model: A}, {model: B}]
parameters: {t: 0.3}
tokenizer:
  source: union
  tokens:
    w3: {source: {model: A}, force: true}
    <b1>: {source: {kind: zero}}
  pad_to_multiple_of: 8
dtype: float32
out_dtype: bfloat16
chat_template: "{{ messages }}"
"""
SLICES = """
merge_method: slerp
base_model: {model: A}
slices:
  - sources: [{model: A, layer_range: [0, 3]}, {model: B, layer_range: [1, 4]}]
    parameters: {t: [0.1, 0.9]}
  - sources: [{model: B, layer_range: [0, 2]}, {model: A, layer_range: [2, 4]}]
parameters: {t: 0.4}
"""
NUSLERP = """
merge_method: nuslerp
models:
  - {model: A, parameters: {weight: [{filter: mlp, value: [1, 3]}, {value: 2}]}}
  - {model: B, parameters: {weight: [{filter: mlp, value: [3, 1]}, {value: 2}]}}
dtype: float32
"""
BY_VECTOR = """
merge_method: nuslerp
models: [{model: A, parameters: {weight: 0.6}}, {model: B, parameters: {weight: 0.4}}]
parameters: {nuslerp_flatten: false, nuslerp_row_wise: SWITCH}
tokenizer_source: union
"""

_COMMANDS = {
    "command: options": Case(
        DEEP,
        {"t": [0.2, 0.8], "dtype": "bfloat16", "max_shard_size": "2KB", "granularity": "row"},
        by_command,
    ),
    "command: vocabulary": Case(
        UNION,
        {"t": 0.3, "vocab_fill": "mean", "tokens": {"w3": {"source": "b", "force": True}}, "epsilon": 1e-9},
        by_command,
    ),
    "recipe: filters": recipe(DEEP, LAZY),
    "recipe: models and tokens": recipe(UNION, MODELS),
    "recipe: slices": recipe(DEEP, SLICES),
    "recipe: with options": recipe(DEEP, LAZY, {"t": 0.25, "dtype": "float16"}),
    "recipe: nuslerp": recipe(DEEP, NUSLERP),
    "recipe: nuslerp by row": recipe(DEEP, BY_VECTOR.replace("SWITCH", "false")),
    "recipe: nuslerp by column": recipe(DEEP, BY_VECTOR.replace("SWITCH", "true")),
}

OF_FILES = {**_FILES, **_COMMANDS}
