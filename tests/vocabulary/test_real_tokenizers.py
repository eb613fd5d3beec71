"""Unions of real tokenizers: every token of every merged model, row by row, and texts cut by the result."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from fusion_slerp import merge
from tests.models import write_checkpoint, write_json
from tests.tokenizer_kinds import added_token
from tests.vocabulary.real_tokenizers import byte_level, pieces, sentencepiece

pytestmark = pytest.mark.long

TENSORS = ("lm_head.weight", "model.embed_tokens.weight")
MARKS = {"a": 1.0, "b": 3.0}
"""The second column of each model's rows. The first is the token's number, equal in both."""

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "def main(argv: list[str]) -> int:\n    return 0  # done\n\n",
    "Größe, naïve café, Ελληνικά, русский, 中文字符, 日本語, 한국어, עברית, 🙂🎉",
    "  spaces   and\ttabs, 1234567890, 3.14159e-10, https://example.org/?q=%20",
)


def with_added(content: dict[str, Any], *tokens: str) -> dict[str, Any]:
    n = len(content["model"]["vocab"])
    new = [added_token(token, n + i, special=True) for i, token in enumerate(tokens)]
    return {**content, "added_tokens": [*content["added_tokens"], *new]}


def without(content: dict[str, Any], first: int, last: int) -> dict[str, Any]:
    """The tokenizer of pieces without some of them: fewer merges, and later rows are shifted."""
    tokens = list(content["model"]["vocab"])
    return sentencepiece(tokens[:first] + tokens[last:])


PAIRS = {
    "GPT-2 and Whisper": lambda: (byte_level("gpt2"), byte_level("multilingual")),
    "Whisper and GPT-2, each with tokens of its own": lambda: (
        with_added(byte_level("multilingual"), "<|startoftranscript|>", "<|both|>"),
        with_added(byte_level("gpt2"), "<|endoftext|>", "<|im_start|>", "<|both|>"),
    ),
    "Mistral v1 and v7": lambda: (sentencepiece(pieces("v1")), sentencepiece(pieces("v7"))),
    "Mistral v7 and v1 with chat tokens": lambda: (
        sentencepiece(pieces("v7")),
        with_added(sentencepiece(pieces("v1")), "<|im_start|>", "<|im_end|>"),
    ),
    "Mistral v2 and v7": lambda: (sentencepiece(pieces("v2")), sentencepiece(pieces("v7"))),
    "two parts of Mistral v1": lambda: (
        without(sentencepiece(pieces("v1")), 9000, 11000),
        without(sentencepiece(pieces("v1")), 20000, 23000),
    ),
}


def parent(folder: Path, content: dict[str, Any], numbers: dict[str, int]) -> dict[str, int]:
    """Makes a model whose rows say which token they belong to; returns its tokens as they are loaded."""
    rows = Tokenizer.from_str(json.dumps(content)).get_vocab(with_added_tokens=True)
    matrix = np.full((max(rows.values()) + 1, 2), MARKS[folder.name], "f4")
    for token, row in rows.items():
        matrix[row, 0] = numbers.setdefault(token, len(numbers))
    tensors = {**dict.fromkeys(TENSORS, matrix), "model.norm.weight": np.ones(2, "f4")}
    config = {"vocab_size": len(matrix), "hidden_size": 2}
    write_checkpoint(folder, tensors=tensors, config=config, tokens=None)
    write_json(folder / "tokenizer.json", content)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    return rows


def expected_mark(token: str, parents: dict[str, dict[str, int]]) -> float:
    """The second column of a token's row: the mean over the models that have the token."""
    return float(np.mean([MARKS[label] for label, rows in parents.items() if token in rows]))


@pytest.mark.parametrize("case", PAIRS)
def test_every_row_of_every_token(tmp_path, case):
    """A token of both models has the mean of their rows, a token of one its row, wherever the rows were."""
    numbers: dict[str, int] = {}
    contents = dict(zip("ab", PAIRS[case](), strict=True))
    parents = {label: parent(tmp_path / label, each, numbers) for label, each in contents.items()}
    child = tmp_path / "child"
    plan = merge(tmp_path / "a", tmp_path / "b", out=child, method="linear", weight=0.5).plan

    rows = AutoTokenizer.from_pretrained(child).get_vocab()
    assert rows == plan.tokenizer.rows
    assert len(set(rows.values())) == len(rows)
    lost = parents["a"].keys() - rows.keys() | parents["b"].keys() - rows.keys()
    assert all(token.startswith("[control_") for token in lost), "renamed in place"
    found = {token: [numbers[token], expected_mark(token, parents)] for token in rows}
    written = load_file(child / "model.safetensors")
    for name in TENSORS:
        assert np.array_equal(written[name][list(rows.values())], np.array(list(found.values()), "f4"))

    base = plan.tokenizer.giver or "a"
    before, after = (Tokenizer.from_file(str(tmp_path / each / "tokenizer.json")) for each in (base, "child"))
    n_unchanged = 0
    for text in TEXTS:
        ids = after.encode(text).ids
        assert after.decode(ids).strip() == text.strip()
        if max(ids) < before.get_vocab_size():
            n_unchanged += 1
            assert ids == before.encode(text).ids
    assert n_unchanged, "a text in which the union uses no new token"
