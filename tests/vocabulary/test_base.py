"""What the base gives the merged model besides its weights: nothing, unless its tokenizer is requested."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fusion_slerp import merge, plan_merge
from tests.models import CONFIG, TOKENS, WIDTH, tiny_tensors, write_checkpoint, write_json

EMBEDDING = "model.embed_tokens.weight"
CHAT = "<|chat|>"
ONLY_BASE = "<|only base|>"
TIES = {"method": "ties"}


def model(folder: Path, seed: int, tokens: Sequence[str] = TOKENS, **config) -> Path:
    rng = np.random.default_rng(seed)
    rows = {
        name: rng.standard_normal((len(tokens), WIDTH)).astype("float32")
        for name in (EMBEDDING, "lm_head.weight")
    }
    return write_checkpoint(
        folder, tensors=tiny_tensors(seed) | rows, tokens=tokens, config={"vocab_size": len(tokens), **config}
    )


def template(folder: Path, text: str) -> None:
    (folder / "chat_template.jinja").write_text(text)


def tokens_of(folder: Path) -> list[str]:
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    return sorted(vocabulary, key=vocabulary.__getitem__)


@pytest.fixture
def three(tmp_path) -> tuple[Path, Path, Path]:
    """Two models with a token for chats, and their base with a token of its own."""
    a, b = (model(tmp_path / name, seed, (*TOKENS, CHAT)) for seed, name in enumerate("ab", 1))
    return a, b, model(tmp_path / "base", 3, (*TOKENS, ONLY_BASE))


def test_a_union_has_the_tokens_of_the_models_alone(tmp_path, three):
    a, b, base = three
    result = merge(a, b, base=base, out=tmp_path / "child", **TIES)
    assert tokens_of(tmp_path / "child") == [*TOKENS, CHAT]
    assert json.loads((tmp_path / "child/config.json").read_text())["vocab_size"] == len(TOKENS) + 1
    assert not [each for each in result.plan.warnings if ONLY_BASE in each]


def test_rows_that_the_base_lacks_are_averaged_and_those_of_one_model_copied(tmp_path, three):
    a, b, base = three
    c = model(tmp_path / "c", 4, (*TOKENS, CHAT, "<|mine|>", "<|too|>"))
    merge(a, b, c, base=base, out=tmp_path / "child", **TIES)
    child, *models = (load_file(f / "model.safetensors")[EMBEDDING] for f in (tmp_path / "child", a, b, c))
    assert tokens_of(tmp_path / "child") == [*TOKENS, CHAT, "<|mine|>", "<|too|>"]
    mean = np.mean([each[len(TOKENS)].astype("float64") for each in models], axis=0)
    assert np.abs(child[len(TOKENS)] - mean).max() <= np.spacing(np.float32(2))
    assert (child[-1] == models[-1][-1]).all()


def test_the_base_s_tokenizer_can_be_requested(tmp_path, three):
    a, b, base = three
    merge(a, b, base=base, out=tmp_path / "child", tokenizer="base", **TIES)
    assert tokens_of(tmp_path / "child") == [*TOKENS, ONLY_BASE]
    child, of_base = (load_file(f / "model.safetensors")[EMBEDDING] for f in (tmp_path / "child", base))
    assert (child[-1] == of_base[-1]).all()


def test_the_base_s_tokenizer_is_taken_if_no_model_has_one(tmp_path):
    a, b = (write_checkpoint(tmp_path / name, seed, tokens=None) for seed, name in enumerate("ab", 1))
    base = write_checkpoint(tmp_path / "base", 3)
    plan = plan_merge(a, b, base=base, **TIES)
    assert plan.tokenizer.folder == base


def test_chat_template_special_tokens_and_side_files_are_the_models(tmp_path):
    a, b, base = (write_checkpoint(tmp_path / name, seed) for seed, name in enumerate(("a", "b", "base"), 1))
    for folder in (a, b):
        template(folder, "{{ of_models }}")
        write_json(folder / "tokenizer_config.json", {"eos_token": "not", "add_bos_token": True})
        write_json(folder / "generation_config.json", {"eos_token_id": 4})
        (folder / "LICENSE").write_text("of the models")
    template(base, "{{ of_base }}")
    write_json(base / "tokenizer_config.json", {"eos_token": "be", "add_bos_token": False})
    write_json(base / "generation_config.json", {"eos_token_id": 2})
    (base / "LICENSE").write_text("of the base")
    result = merge(a, b, base=base, out=tmp_path / "child", **TIES)
    assert result.plan.warnings == ()
    for name in ("chat_template.jinja", "tokenizer_config.json", "generation_config.json", "LICENSE"):
        assert (tmp_path / "child" / name).read_bytes() == (a / name).read_bytes()


def test_a_tokenizer_of_another_kind_is_reported(tmp_path):
    a, b, base = (write_checkpoint(tmp_path / name, seed) for seed, name in enumerate(("a", "b", "base"), 1))
    content = json.loads((base / "tokenizer.json").read_text())
    content["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    write_json(base / "tokenizer.json", content)
    (warning,) = plan_merge(a, b, base=base, **TIES).warnings
    assert str(base) in warning
    assert "pre_tokenizer" in warning


def test_config_and_types_are_those_of_the_first_model(tmp_path):
    config = {"torch_dtype": "float16"}
    a, b = (
        write_checkpoint(tmp_path / name, tensors=tiny_tensors(seed, "float16"), config=config)
        for seed, name in enumerate("ab", 1)
    )
    base = write_checkpoint(tmp_path / "base", 3, config={"rope_theta": 10000.0})
    result = merge(a, b, base=base, out=tmp_path / "child", **TIES)
    assert result.plan.warnings == (
        f"the configs differ in rope_theta: {CONFIG['rope_theta']} (a), 10000.0 (base)",
    )
    child = tmp_path / "child"
    assert {str(x.dtype) for x in load_file(child / "model.safetensors").values()} == {"float16"}
    assert (child / "config.json").read_bytes() == (a / "config.json").read_bytes()
