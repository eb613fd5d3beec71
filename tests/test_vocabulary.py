"""Whether rows stand for the same tokens, from tokenizer files of every kind."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from fusion_slerp import MismatchError, merge, plan_merge
from fusion_slerp.checkpoint.folder import open_checkpoint
from fusion_slerp.sentencepiece_model import read_pieces
from fusion_slerp.vocabulary import MAX_NBYTES, compare_vocabularies, read_vocabulary
from tests.models import ROWS, TOKENS, tokenizer_json, write_checkpoint, write_json

ROW_OF = {token: row for row, token in enumerate(TOKENS)}


def compared(a: Path, b: Path) -> tuple[list[str], list[str]]:
    """The problems as texts, and the warnings."""
    runs, problems, warnings = compare_vocabularies(open_checkpoint(a), open_checkpoint(b))
    assert runs is None
    assert all(problem.kind is MismatchError and problem.fix for problem in problems)
    return [str(problem) for problem in problems], warnings


# --- reading --------------------------------------------------------------------------------------------


def test_the_test_tokenizer_is_a_real_one(tmp_path):
    write_json(tmp_path / "tokenizer.json", tokenizer_json(added={"<new>": ROWS}))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.get_vocab(with_added_tokens=True) == ROW_OF | {"<new>": ROWS}
    assert read_vocabulary(tmp_path) == tokenizer.get_vocab(with_added_tokens=True)


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
    assert read_vocabulary(tmp_path) == {"a": 0, "b": 1, "ab": 2, "<s>": 3}


def test_the_older_files(tmp_path):
    write_json(tmp_path / "vocab.json", {"a": 0, "b": 1})
    assert read_vocabulary(tmp_path) == {"a": 0, "b": 1}
    write_json(tmp_path / "added_tokens.json", {"<s>": 2})
    assert read_vocabulary(tmp_path) == {"a": 0, "b": 1, "<s>": 2}
    write_json(tmp_path / "tokenizer.json", tokenizer_json())
    assert read_vocabulary(tmp_path) == ROW_OF


def test_word_pieces_line_by_line(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n##ing\nго\n", encoding="utf-8")
    assert read_vocabulary(tmp_path) == {"[PAD]": 0, "[UNK]": 1, "##ing": 2, "го": 3}
    decoder = {"4": {"content": "<extra>"}, "0": {"content": "[PAD]"}}
    write_json(tmp_path / "tokenizer_config.json", {"added_tokens_decoder": decoder})
    assert read_vocabulary(tmp_path) == {"[PAD]": 0, "[UNK]": 1, "##ing": 2, "го": 3, "<extra>": 4}


def sentencepiece_model(tokens: list[str]) -> bytes:
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


@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model"])
def test_sentencepiece_models(tmp_path, name):
    tokens = ["<unk>", "<s>", "▁the", "é" * 200, "<0x0A>"] + [f"▁t{i}" for i in range(300)]
    (tmp_path / name).write_bytes(sentencepiece_model(tokens))
    assert read_vocabulary(tmp_path) == {token: row for row, token in enumerate(tokens)}
    write_json(tmp_path / "added_tokens.json", {"<extra>": 305})
    assert (read_vocabulary(tmp_path) or {})["<extra>"] == 305


@pytest.mark.parametrize("cut", [1, 2, 5, 40, -1])
def test_damaged_sentencepiece_models_tell_nothing(tmp_path, cut):
    data = sentencepiece_model(["<unk>", "▁the"])
    (tmp_path / "tokenizer.model").write_bytes(data[:cut])
    assert read_vocabulary(tmp_path) is None


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_no_bytes_hang_or_crash_the_reading(data):
    with contextlib.suppress(ValueError):
        assert all(isinstance(piece, str) for piece in read_pieces(data))


def test_a_huge_file_is_not_read(tmp_path):
    with (tmp_path / "vocab.txt").open("wb") as stream:
        stream.truncate(MAX_NBYTES + 1)
    assert read_vocabulary(tmp_path) is None


UNREADABLE = {
    "nothing": None,
    "not JSON": "{",
    "a list": "[]",
    "no model": '{"added_tokens": []}',
    "no vocabulary": '{"model": {}, "added_tokens": []}',
    "a vocabulary of numbers": '{"model": {"vocab": [1, 2]}, "added_tokens": []}',
    "added tokens without rows": '{"model": {"vocab": {}}, "added_tokens": [{"content": "x"}]}',
    "deep": "[" * 100_000,
    "not UTF-8": "\udcff",
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_files_that_tell_nothing(tmp_path, kind):
    text = UNREADABLE[kind]
    if text is not None:
        (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    assert read_vocabulary(tmp_path) is None


# --- comparing ------------------------------------------------------------------------------------------


def test_equal_vocabularies(tmp_path, parents):
    assert compared(*parents) == ([], [])


def test_equal_rows_in_another_order_or_file(tmp_path):
    a, b = (write_checkpoint(tmp_path / name, tokens=None) for name in "ab")
    write_json(a / "tokenizer.json", tokenizer_json(TOKENS[:-1], added={TOKENS[-1]: ROWS - 1}))
    write_json(b / "vocab.json", dict(reversed(ROW_OF.items())))
    assert compared(a, b) == ([], [])


def test_permuted_tokens_are_refused(tmp_path):
    """The worst of all silent faults: every shape fits, and every row is a blend of two tokens."""
    a = write_checkpoint(tmp_path / "a", seed=1)
    b = write_checkpoint(tmp_path / "b", seed=2, tokens=(TOKENS[0], *reversed(TOKENS[1:])))
    (message,), warnings = compared(a, b)
    assert warnings == []
    assert message.splitlines() == [
        "the tokenizers differ",
        f"  a: {a / 'tokenizer.json'}",
        f"  b: {b / 'tokenizer.json'}",
        f"  found: 4 of {ROWS} shared tokens have other rows; 0 tokens only in a, 0 only in b",
        "  for example: '##s', 'be', 'not', ... and 1 more",
        "Fix: merge models that share one tokenizer; rows of different tokens must not be mixed",
    ]
    with pytest.raises(MismatchError, match="the tokenizers differ"):
        merge(a, b, out=tmp_path / "child", t=0)
    assert not (tmp_path / "child").exists()


def test_two_added_tokens_in_another_order(tmp_path):
    a, b = (write_checkpoint(tmp_path / name) for name in "ab")
    write_json(a / "tokenizer.json", tokenizer_json(added={"<x>": 6, "<y>": 7}))
    write_json(b / "tokenizer.json", tokenizer_json(added={"<y>": 6, "<x>": 7}))
    (message,), _ = compared(a, b)
    assert f"found: 2 of {ROWS + 2} shared tokens have other rows" in message
    assert "for example: '<x>', '<y>'" in message


@pytest.mark.parametrize(
    ("only_in", "found"), [("a", "1 tokens only in a, 0 only in b"), ("b", "0 tokens only in a, 1")]
)
def test_a_token_of_one_side_only(tmp_path, only_in, found):
    for name in "ab":
        folder = write_checkpoint(tmp_path / name)
        added = {"<x>": ROWS} if name == only_in else {}
        write_json(folder / "tokenizer.json", tokenizer_json(added=added))
    (message,), _ = compared(tmp_path / "a", tmp_path / "b")
    assert f"found: 0 of {ROWS} shared tokens have other rows; {found}" in message
    assert "for example: '<x>'" in message


def test_the_file_that_was_read_is_named(tmp_path):
    a, b = (write_checkpoint(tmp_path / name, tokens=None) for name in "ab")
    write_json(a / "vocab.json", {"x": 0})
    write_json(b / "vocab.json", {"x": 1})
    (message,), _ = compared(a, b)
    assert f"a: {a / 'vocab.json'}\n" in message
    assert f"b: {b / 'vocab.json'}\n" in message


@pytest.mark.parametrize("unread", ["a", "b", "ab"])
def test_what_could_not_be_compared_is_said(tmp_path, unread):
    folders = [write_checkpoint(tmp_path / name, seed=i) for i, name in enumerate("ab")]
    for name in unread:
        (tmp_path / name / "tokenizer.json").write_text(f"{{ {name}")
    _, (warning,) = compared(*folders)
    assert warning.startswith("the vocabularies could not be compared; no readable tokenizer in ")
    assert [str(folder) in warning for folder in folders] == [name in unread for name in "ab"]
    assert warning in plan_merge(*folders).warnings


def test_models_without_any_tokenizer_need_no_word(tmp_path):
    a, b = (write_checkpoint(tmp_path / name, tokens=None) for name in "ab")
    assert compared(a, b) == ([], [])


def test_an_unknown_format_that_is_the_same_in_both_needs_no_word(tmp_path):
    a, b = (write_checkpoint(tmp_path / name, tokens=None) for name in "ab")
    for folder in (a, b):
        (folder / "tokenizer.model").write_bytes(b"sentencepiece")
    assert compared(a, b) == ([], [])
    (b / "tokenizer.model").write_bytes(b"other pieces")
    problems, warnings = compared(a, b)
    assert problems == []
    assert len(warnings) == 1
