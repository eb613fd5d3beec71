"""Heads where the config does not state whether they are tied, and files with one of the two."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from fusion_slerp import merge, plan_merge, slerp
from tests.models import tiny_tensors, write_checkpoint

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
GEMMA = {"model_type": "gemma", "tie_word_embeddings": None}
"""A type whose head is tied unless the config says otherwise."""


def child_of(tmp_path, a, b):
    merge(a, b, out=tmp_path / "child", t=0.3)
    config = json.loads((tmp_path / "child/config.json").read_text())
    return load_file(tmp_path / "child/model.safetensors"), config


def without(*names, seed):
    return {name: tensor for name, tensor in tiny_tensors(seed).items() if name not in names}


def test_a_type_that_ties_by_default_has_no_head(tmp_path):
    a, b = (
        write_checkpoint(tmp_path / n, tensors=without(HEAD, seed=i), config=GEMMA)
        for i, n in enumerate("ab")
    )
    child, config = child_of(tmp_path, a, b)
    assert HEAD not in child
    assert "tie_word_embeddings" not in config


def test_a_copy_that_is_tied_by_default_and_a_head_of_its_own(tmp_path):
    """The child stores both, so its config must say that they are not tied."""
    tensors = tiny_tensors(1)
    tensors[HEAD] = tensors[EMBEDDING].copy()
    a = write_checkpoint(tmp_path / "a", tensors=tensors, config=GEMMA)
    b = write_checkpoint(tmp_path / "b", 2, config=GEMMA | {"tie_word_embeddings": False})
    child, config = child_of(tmp_path, a, b)
    assert np.array_equal(child[HEAD], slerp(0.3, tensors[EMBEDDING], tiny_tensors(2)[HEAD]))
    assert config["tie_word_embeddings"] is False


def test_heads_that_differ_from_embeddings_tied_by_default(tmp_path):
    a, b = (write_checkpoint(tmp_path / name, i, config=GEMMA) for i, name in enumerate("ab"))
    assert all("tie_word_embeddings is true by default" in warning for warning in plan_merge(a, b).warnings)
    child, config = child_of(tmp_path, a, b)
    assert np.array_equal(child[HEAD], slerp(0.3, tiny_tensors(0)[HEAD], tiny_tensors(1)[HEAD]))
    assert config["tie_word_embeddings"] is False


@pytest.mark.parametrize("model_type", ["llama", "gemma"])
def test_a_head_of_a_type_that_says_nothing(tmp_path, model_type):
    """Every release unties llama by default; the config needs no key. Gemma's needs it."""
    config = {"model_type": model_type, "tie_word_embeddings": None}
    a, b = (write_checkpoint(tmp_path / name, i, config=config) for i, name in enumerate("ab"))
    _, config = child_of(tmp_path, a, b)
    assert config.get("tie_word_embeddings") is (None if model_type == "llama" else False)


@pytest.mark.parametrize("only_head", ["a", "b", "ab"])
def test_a_tied_model_that_stores_only_its_head(tmp_path, only_head):
    folders = []
    for i, name in enumerate("ab"):
        tensors = without(HEAD, seed=i)
        if name in only_head:
            tensors = {HEAD if key == EMBEDDING else key: each for key, each in tensors.items()}
        folders.append(
            write_checkpoint(tmp_path / name, tensors=tensors, config={"tie_word_embeddings": True})
        )
    child, config = child_of(tmp_path, *folders)
    stored = HEAD if only_head == "ab" else EMBEDDING
    assert np.array_equal(child[stored], slerp(0.3, tiny_tensors(0)[EMBEDDING], tiny_tensors(1)[EMBEDDING]))
    assert len({HEAD, EMBEDDING} & child.keys()) == 1
    assert config["tie_word_embeddings"] is True
