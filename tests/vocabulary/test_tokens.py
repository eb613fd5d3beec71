"""The rows of tokens, from tokenizer files of every kind."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from fusion_slerp.vocabulary.sentencepiece_model import read_pieces
from fusion_slerp.vocabulary.tokens import MAX_NBYTES, read_all, read_tokens
from tests.models import ROWS, TOKENS, sentencepiece_model, tokenizer_json, write_json

ROW_OF = {token: row for row, token in enumerate(TOKENS)}


def rows(folder: Path) -> dict[str, int] | None:
    tokens = read_tokens(folder)
    return dict(tokens.rows) if tokens else None


def test_the_test_tokenizer_is_a_real_one(tmp_path):
    write_json(tmp_path / "tokenizer.json", tokenizer_json(added={"<new>": ROWS}))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.get_vocab(with_added_tokens=True) == ROW_OF | {"<new>": ROWS}
    assert rows(tmp_path) == tokenizer.get_vocab(with_added_tokens=True)


@pytest.mark.parametrize(
    "model",
    [
        {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
        {"type": "WordPiece", "vocab": {"a": 0, "b": 1, "ab": 2}},
        {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "ab": 2}, "unk_token": "a"},
        {"type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0], ["ab", -3.0]], "unk_id": 0},
    ],
    ids=lambda model: model["type"],
)
def test_every_kind_of_model(tmp_path, model):
    content = tokenizer_json(added={"<s>": 3, "a": 0}) | {"model": model}
    write_json(tmp_path / "tokenizer.json", content)
    assert rows(tmp_path) == {"a": 0, "b": 1, "ab": 2, "<s>": 3}


def test_the_older_files(tmp_path):
    write_json(tmp_path / "vocab.json", {"a": 0, "b": 1})
    assert rows(tmp_path) == {"a": 0, "b": 1}
    write_json(tmp_path / "added_tokens.json", {"<s>": 2})
    assert rows(tmp_path) == {"a": 0, "b": 1, "<s>": 2}
    write_json(tmp_path / "tokenizer.json", tokenizer_json())
    assert rows(tmp_path) == ROW_OF | {"<s>": ROWS}, "transformers adds the tokens of the other file"


def test_word_pieces_line_by_line(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n##ing\nго\n", encoding="utf-8")
    assert rows(tmp_path) == {"[PAD]": 0, "[UNK]": 1, "##ing": 2, "го": 3}
    decoder = {"4": {"content": "<extra>"}, "0": {"content": "[PAD]"}}
    write_json(tmp_path / "tokenizer_config.json", {"added_tokens_decoder": decoder})
    assert rows(tmp_path) == {"[PAD]": 0, "[UNK]": 1, "##ing": 2, "го": 3, "<extra>": 4}


@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model"])
def test_sentencepiece_models(tmp_path, name):
    tokens = ["<unk>", "<s>", "▁the", "é" * 200, "<0x0A>"] + [f"▁t{i}" for i in range(300)]
    (tmp_path / name).write_bytes(sentencepiece_model(tokens))
    assert rows(tmp_path) == {token: row for row, token in enumerate(tokens)}
    write_json(tmp_path / "added_tokens.json", {"<extra>": 305})
    assert (rows(tmp_path) or {})["<extra>"] == 305


def test_a_piece_that_an_added_token_renames(tmp_path):
    """As transformers loads it: the row has the new name alone. Others are numbered after the pieces."""
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(["<unk>", "▁the", "[UNUSED_7]"]))
    write_json(tmp_path / "added_tokens.json", {"<late>": 9, "<|im_end|>": 2})
    tokens = read_tokens(tmp_path)
    assert tokens is not None
    assert dict(tokens.rows) == {"<unk>": 0, "▁the": 1, "<|im_end|>": 2, "<late>": 3}
    assert dict(tokens.moved) == {"<late>": 9}


def test_equal_files_of_classes_that_number_otherwise(tmp_path):
    """The file's order is not that of its ids."""
    content = tokenizer_json(added={"<y>": ROWS + 1, "<x>": ROWS})
    for name, of_class in (
        ("a", "PreTrainedTokenizerFast"),
        ("b", "GPT2Tokenizer"),
        ("c", "GPT2TokenizerFast"),
    ):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "tokenizer.json", content)
        write_json(tmp_path / name / "tokenizer_config.json", {"tokenizer_class": of_class})
    tokens = read_all({name: tmp_path / name for name in "abc"})
    assert [each and (each.rows["<x>"], each.rows["<y>"]) for each in tokens.values()] == [
        (ROWS + 1, ROWS),
        *[(ROWS, ROWS + 1)] * 2,
    ]
    assert tokens["b"] is tokens["c"]


@pytest.mark.parametrize("cut", [1, 2, 5, 40, -1])
def test_damaged_sentencepiece_models_tell_nothing(tmp_path, cut):
    data = sentencepiece_model(["<unk>", "▁the"])
    (tmp_path / "tokenizer.model").write_bytes(data[:cut])
    assert rows(tmp_path) is None


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_no_bytes_hang_or_crash_the_reading(data):
    with contextlib.suppress(ValueError):
        assert all(isinstance(piece, str) for piece in read_pieces(data))


def test_a_huge_file_is_not_read(tmp_path):
    with (tmp_path / "vocab.txt").open("wb") as stream:
        stream.truncate(MAX_NBYTES + 1)
    assert rows(tmp_path) is None


UNREADABLE = {
    "nothing": None,
    "not JSON": "{",
    "a list": "[]",
    "no model": '{"added_tokens": []}',
    "no vocabulary": '{"model": {}, "added_tokens": []}',
    "a vocabulary of numbers": '{"model": {"vocab": [1, 2]}, "added_tokens": []}',
    "added tokens without rows": '{"model": {"vocab": {}}, "added_tokens": [{"content": "x"}]}',
    "a row of no number": '{"model": {"vocab": {"a": "0"}}, "added_tokens": []}',
    "a negative row": '{"model": {"vocab": {"a": -1}}, "added_tokens": []}',
    "a row beyond every number": '{"model": {"vocab": {"a": 99999999999999999999}}, "added_tokens": []}',
    "deep": "[" * 100_000,
    "not UTF-8": "\udcff",
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_files_that_tell_nothing(tmp_path, kind):
    text = UNREADABLE[kind]
    if text is not None:
        (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    assert rows(tmp_path) is None
