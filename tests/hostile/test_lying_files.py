"""Configs, tokenizers and indexes with wrong content: a plan, or an error of our own, quickly."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from fusion_slerp import FusionSlerpError, plan_merge
from tests.hostile.bounds import bounded, parse_s
from tests.hostile.lies import lying
from tests.models import CONFIG, TOKENS, tokenizer_json, write_checkpoint

SEED = 20_240_918
N_CASES = 10_000 if os.environ.get("FUSION_SLERP_TRIALS") == "full" else 300

FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
UNIGRAM = {
    "version": "1.0",
    "added_tokens": [{"id": 0, "content": "<unk>", **FLAGS}],
    "model": {"type": "Unigram", "unk_id": 0, "vocab": [[token, -0.5] for token in TOKENS]},
}
BPE = {
    "version": "1.0",
    "added_tokens": [{"id": 5, "content": "<s>", **FLAGS}],
    "model": {
        "type": "BPE",
        "vocab": dict(zip("abcde", range(5), strict=True)),
        "merges": ["a b", ["b", "c"]],
    },
}
FILES = {
    "config.json": CONFIG
    | {
        "rope_scaling": {"type": "linear", "factor": 2.0},
        "text_config": {"hidden_size": 4, "eos_token_id": [1, 2], "tie_word_embeddings": False},
        "layer_types": ["full_attention"],
        "eos_token_id": 2,
        "auto_map": {"AutoConfig": "own.Config"},
    },
    "generation_config.json": {"eos_token_id": [1, 2], "bos_token_id": 1, "suppress_tokens": None, "t": 0.5},
    "tokenizer.json": [tokenizer_json(), tokenizer_json(TOKENS[:4], {"or": 4, "<s>": 5}), UNIGRAM, BPE],
    "tokenizer_config.json": {
        "added_tokens_decoder": {"0": {"content": "<unk>", **FLAGS}, "6": {"content": "<s>", **FLAGS}},
        "eos_token": {"content": "be"},
        "bos_token": "to",
        "chat_template": [{"name": "default", "template": "<|im_end|>{{x}}"}],
    },
    "added_tokens.json": {"<s>": 6},
    "vocab.json": {token: row for row, token in enumerate(TOKENS)},
    "special_tokens_map.json": {"eos_token": "be"},
    "chat_template.json": {"chat_template": "{{x}}"},
    "model.safetensors.index.json": {
        "metadata": {},
        "weight_map": dict.fromkeys(("lm_head.weight", "model.norm.weight"), "model.safetensors"),
    },
}


def write_files(rng: random.Random, folder: Path, name: str) -> None:
    """All files whole but the named one, which lies; some are not there."""
    for other, content in FILES.items():
        path = folder / other
        whole = rng.choice(content) if isinstance(content, list) else content
        if other == name:
            path.write_text(lying(rng, whole), encoding="utf-8")
        elif other == "model.safetensors.index.json" or rng.random() < 0.4:
            path.unlink(missing_ok=True)
        else:
            path.write_text(json.dumps(whole), encoding="utf-8")
    (folder / "config.json").touch()


def try_plan(a: Path, b: Path, **options) -> str:
    """Plans the merge and looks at what it would publish; all that is said must be fit to be shown."""
    try:
        plan = plan_merge(a, b, **options)
    except FusionSlerpError as error:
        check_lines(str(error).split("\n"), 40_000)
        return "refused"
    assert isinstance(plan.tokenizer.config, dict)
    assert isinstance(plan.tokenizer.chat_template, (str, type(None)))
    check_lines(plan.warnings, 40_000)
    return "planned"


def check_lines(lines, most: int) -> None:
    """No control characters, no more characters than anybody reads."""
    assert [line for line in lines if not line.isprintable()] == []
    assert sum(map(len, lines)) < most


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_lies_is_refused_or_harmless(tmp_path, name):
    rng = random.Random(f"{SEED} {name}")
    a, b = write_checkpoint(tmp_path / "a", seed=1), write_checkpoint(tmp_path / "b", seed=2)
    weights = (b / "model.safetensors").read_bytes()
    outcomes, reference_s = set(), parse_s()
    for _ in range(N_CASES // 3):
        write_files(rng, b, name)
        if name.endswith("index.json"):
            (b / "model.safetensors").unlink(missing_ok=True)
            (b / "model-1.safetensors").write_bytes(weights)
        parents = (a, b) if rng.random() < 0.5 else (b, a)
        with bounded(reference_s=lambda: reference_s):
            outcomes.add(try_plan(*parents, tokenizer=rng.choice(("union", "union", "a", "b"))))
    assert "planned" in outcomes or name.endswith("index.json")
    shutil.rmtree(b)
