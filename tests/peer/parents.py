"""Makes pairs of tiny real Llama models, similar token by token, with byte-level BPE tokenizers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.models import write_json

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
END = "<|end|>"
PLAY = "to be or not to be, that is the question whether 'tis nobler in the mind to suffer"
CODE = "def merge(a, b): return [x for x in a if x in b] or [y for y in b if y not in a]"
N_ORDINARY = 290
"""At most: 256 bytes and what a short text can be merged to."""

WIDTH = 16
COSINE = 0.5
"""Of the parents' rows, on average: an angle of 60 degrees."""


@dataclass(frozen=True)
class Model:
    """A checkpoint as the tests see it: tokens and values, no files.

    Attributes:
        folder: Where it is.
        row_of: The row of every token.
        tensors: Its weights as float64.
    """

    folder: Path
    row_of: dict[str, int]
    tensors: dict[str, np.ndarray]

    def rows(self, name: str, tokens: Sequence[str]) -> np.ndarray:
        """The rows of some tokens, in their order."""
        return self.tensors[name][[self.row_of[token] for token in tokens]]


def read(folder: Path) -> Model:
    """Returns a checkpoint; the tokens as transformers reads them."""
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= {name: tensor.double().numpy() for name, tensor in load_file(file).items()}
    return Model(folder, AutoTokenizer.from_pretrained(folder).get_vocab(), tensors)


def tokenizer_json(
    text: str, added: Sequence[str], order: np.random.Generator | None = None
) -> dict[str, Any]:
    """The content of a tokenizer.json, trained on a text; its ordinary tokens in another order if asked."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=N_ORDINARY, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
    content = json.loads(tokenizer.to_str())
    if order is not None:
        vocab = content["model"]["vocab"]
        rows = order.permutation(len(vocab)).tolist()
        content["model"]["vocab"] = {token: rows[row] for token, row in vocab.items()}
    return content


def save(
    folder: Path,
    tokenizer: Mapping[str, Any],
    dtype: str,
    *,
    seed: int,
    n_rows: int | None = None,
    ancestor: Model | None = None,
) -> Model:
    """Saves a model with a tokenizer and returns it.

    Args:
        folder: Where.
        tokenizer: The content of its tokenizer.json.
        dtype: Of all its weights.
        seed: Of the weights.
        n_rows: Of embedding and head; default: one for each token.
        ancestor: A model that its weights are similar to, token by token.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    row_of = dict(tokenizer["model"]["vocab"]) | {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    end = row_of[END]
    config = LlamaConfig(
        vocab_size=n_rows or len(row_of),
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=end,
        eos_token_id=end,
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    if ancestor is not None:
        for name, own in model.state_dict().items():
            similar = _similar(own.numpy(), name, row_of, ancestor)
            own.copy_(torch.from_numpy(similar))
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    )
    return read(folder)


def _similar(own: np.ndarray, name: str, row_of: Mapping[str, int], ancestor: Model) -> np.ndarray:
    theirs = ancestor.tensors[name]
    if name in (EMBEDDING, HEAD):
        shared = [token for token in row_of if token in ancestor.row_of]
        mixed = own.copy()
        at = [row_of[token] for token in shared]
        mixed[at] = COSINE * ancestor.rows(name, shared) + (1 - COSINE**2) ** 0.5 * own[at]
        return mixed
    return (COSINE * theirs + (1 - COSINE**2) ** 0.5 * own).astype(own.dtype)
