"""The files of a union: each one that a loader may read has the new tokens in their rows, or is left out."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from fusion_slerp import MismatchError
from fusion_slerp.vocabulary.alignment import Alignment
from tests.models import sentencepiece_model
from tests.tokenizer_kinds import added_token, tokenizer
from tests.vocabulary.aligned import aligned, files_of, models_with

BPE = "byte-level BPE"
FORMATS = {  # files next to a tokenizer.json: those that are kept where only added tokens are new
    "vocab.json": True,
    "merges.txt": True,
    "vocab.txt": True,
    "tokenizer.model": True,
    "tekken.json": False,
    "qwen.tiktoken": False,
}


def united(
    root: Path, a: dict[str, Any], b: dict[str, Any], files: dict[str, bytes], **options: Any
) -> Alignment:
    """Of a, whose folder has these files as well, and b."""
    models = models_with(root, a=a, b=b)
    for name, content in files.items():
        (models["a"].folder / name).write_bytes(content)
    return aligned(models, **options)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("new", ["words", "added tokens", "tokens"])
def test_no_file_without_the_new_tokens_is_left(tmp_path, name, new):
    words = ["hello", "world"] if new == "words" else ["hello"]
    b = tokenizer(BPE, words, ["<b1>"] if new == "added tokens" else [])
    options = {"tokens": {"<b1>": {"kind": "zero"}}} if new == "tokens" else {}
    alignment = united(tmp_path, tokenizer(BPE, ["hello"], ["<a1>"]), b, {name: b"{}"}, **options)
    is_kept = FORMATS[name] and new != "words"
    assert (name in alignment.tokenizer.files) == is_kept
    line = f"not in the merged model, as they lack the new tokens: {name}"
    assert (line in alignment.remarks) == (not is_kept)


@pytest.mark.parametrize("name", [name for name, is_kept in FORMATS.items() if is_kept])
def test_the_loaders_of_older_formats_find_the_added_tokens(tmp_path, name):
    """They read added_tokens.json, or the list in tokenizer_config.json."""
    a, b = tokenizer(BPE, ["hello"], ["<a1>"]), tokenizer(BPE, ["hello"], ["<b1>"])
    content = sentencepiece_model(["<unk>"]) if name.endswith(".model") else b"{}"
    alignment = united(tmp_path, a, b, {name: content})
    written = json.loads(alignment.tokenizer.files["added_tokens.json"])
    n = len(a["model"]["vocab"])
    assert written == {"<a1>": n, "<b1>": n + 1}
    child = files_of(alignment, tmp_path / "child")
    assert AutoTokenizer.from_pretrained(child).get_vocab() == alignment.child


def test_no_list_is_made_where_no_loader_needs_it(tmp_path):
    alignment = united(tmp_path, tokenizer(BPE, ["hello"]), tokenizer(BPE, ["hello"], ["<b1>"]), {})
    assert "added_tokens.json" not in alignment.tokenizer.files


def test_a_tokenizer_that_is_taken_unchanged_keeps_all_formats(tmp_path):
    files = dict.fromkeys(FORMATS, b"{}")
    alignment = united(tmp_path, tokenizer(BPE, ["hello"], ["<a1>"]), tokenizer(BPE, ["hello"]), files)
    assert alignment.tokenizer.written == {}
    assert FORMATS.keys() <= alignment.tokenizer.files.keys()


# --- rows ---------------------------------------------------------------------------------------------------


def test_a_post_processor_inserts_the_rows_of_its_tokens(tmp_path):
    """The file numbers them with a gap, and is loaded without it; the library inserts the ids unchecked."""
    a = tokenizer("WordLevel", ["hello"])
    n = len(a["model"]["vocab"])
    a["added_tokens"] = [added_token("<s>", n + 4, special=True), added_token("</s>", n + 9, special=True)]
    a["post_processor"] = {
        "type": "Sequence",
        "processors": [
            {
                "type": "TemplateProcessing",
                "single": [
                    {"SpecialToken": {"id": "<s>", "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}},
                ],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [n + 4], "tokens": ["<s>"]}},
            }
        ],
    }
    b = tokenizer("WordLevel", ["hello"], ["<b1>"])
    alignment = united(tmp_path, a, b, {})
    child = files_of(alignment, tmp_path / "child")
    ids = Tokenizer.from_file(str(child / "tokenizer.json")).encode("hello").ids
    assert ids == [alignment.child["<s>"], alignment.child["hello"]] == [n, n - 1]


@pytest.mark.parametrize("name", ["RobertaProcessing", "BertProcessing"])
def test_older_post_processors(tmp_path, name):
    a = tokenizer("WordLevel", ["hello"])
    n = len(a["model"]["vocab"])
    a["added_tokens"] = [added_token("<s>", n + 4, special=True), added_token("</s>", n + 9, special=True)]
    more = {"trim_offsets": True, "add_prefix_space": False} if name == "RobertaProcessing" else {}
    a["post_processor"] = {"type": name, "sep": ["</s>", n + 9], "cls": ["<s>", n + 4], **more}
    alignment = united(tmp_path, a, tokenizer("WordLevel", ["hello"], ["<b1>"]), {})
    child = files_of(alignment, tmp_path / "child")
    ids = Tokenizer.from_file(str(child / "tokenizer.json")).encode("hello").ids
    assert ids == [n, n - 1, n + 1]


# --- kinds --------------------------------------------------------------------------------------------------

BYTES, PIECES = tokenizer(BPE, ["hello"]), tokenizer("byte-fallback BPE", ["hello"])


@pytest.mark.parametrize("first", ["byte-level", "SentencePiece"])
def test_two_kinds_of_bpe_are_not_united(tmp_path, first):
    """No text would produce the tokens of the second; equal strings stand for different texts."""
    contents = {"byte-level": BYTES, "SentencePiece": PIECES}
    second = next(kind for kind in contents if kind != first)
    message = (
        rf"cannot be united(.|\n)*found: {second} BPE, not {first} BPE\n"
        r"Fix: use tokenizer='a' or tokenizer='b', so that"
    )
    with pytest.raises(MismatchError, match=message):
        united(tmp_path, contents[first], contents[second], {})
    fixed = aligned(models_with(tmp_path / "fixed", a=contents[first], b=contents[second]), tokenizer="b")
    assert fixed.tokenizer.giver == "b"
    assert any(f"its kind ({first} BPE, not {second} BPE" in line for line in fixed.remarks)


def test_added_tokens_are_united_whatever_the_kind(tmp_path):
    """a has all ordinary tokens of b, which has fewer."""
    few = {**BYTES, "model": {**PIECES["model"], "vocab": {"h": 0, "e": 1}, "merges": []}, "decoder": None}
    few |= {
        "pre_tokenizer": None,
        "normalizer": PIECES["normalizer"],
        "added_tokens": [added_token("<b1>", 2)],
    }
    alignment = united(tmp_path, BYTES, few, {})
    assert "<b1>" in alignment.child
    child = files_of(alignment, tmp_path / "child")
    loaded = Tokenizer.from_file(str(child / "tokenizer.json"))
    assert loaded.get_vocab(with_added_tokens=True) == alignment.child
