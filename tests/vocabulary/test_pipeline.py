"""Files of one behaviour have equal pipelines, judged by the library that reads and writes such files."""

import json
from typing import Any

import pytest
from tokenizers import Tokenizer

from fusion_slerp.vocabulary.pipeline import described, kind_of, pipeline_of
from tests.models import tokenizer_json
from tests.tokenizer_kinds import KINDS, tokenizer

KINDS_AS_NAMED = {
    "byte-level BPE": "byte-level BPE",
    "byte-level BPE, pairs": "byte-level BPE",
    "byte-fallback BPE": "SentencePiece BPE",
    "Unigram": "Unigram",
    "WordPiece": "WordPiece '##'",
    "WordLevel": "WordLevel",
}

STEPS = [
    ("normalizer", {"type": "NFC"}),
    ("normalizer", {"type": "Sequence", "normalizers": []}),
    ("normalizer", {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}),
    (
        "normalizer",
        {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True},
    ),
    ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}),
    ("pre_tokenizer", {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}),
    ("pre_tokenizer", {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}),
    ("pre_tokenizer", {"type": "Digits", "individual_digits": True}),
    ("pre_tokenizer", {"type": "Punctuation"}),
    (
        "pre_tokenizer",
        {"type": "Split", "pattern": {"Regex": r"\d"}, "behavior": "Isolated", "invert": False},
    ),
    ("decoder", {"type": "WordPiece", "prefix": "##", "cleanup": True}),
    ("decoder", {"type": "BPEDecoder", "suffix": "</w>"}),
    ("decoder", {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}),
]


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_library_writes_is_no_difference(kind):
    """It adds defaults, and may write merges as pairs; older files lack the type of the model."""
    content = tokenizer(kind, ["hello", "world"], ["<x>"])
    written = json.loads(Tokenizer.from_str(json.dumps(content)).to_str())
    assert pipeline_of(written, with_order=True) == pipeline_of(content, with_order=True)
    assert pipeline_of(written).kind == KINDS_AS_NAMED[kind]


@pytest.mark.parametrize(("name", "step"), STEPS, ids=[step["type"] for _, step in STEPS])
def test_defaults_of_steps_are_no_difference(name, step):
    content = tokenizer_json() | {name: step}
    written = json.loads(Tokenizer.from_str(json.dumps(content)).to_str())
    assert pipeline_of(written) == pipeline_of(content)


TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
}
OTHER_ID = TEMPLATE | {"special_tokens": {"<s>": {"id": "<s>", "ids": [7], "tokens": ["<s>"]}}}
NO_TOKEN = TEMPLATE | {"single": TEMPLATE["pair"][:1], "special_tokens": {}}
ROBERTA = {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": True}
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}

EQUAL: list[tuple[str, Any, Any]] = [
    ("post_processor", TEMPLATE, OTHER_ID),
    ("post_processor", NO_TOKEN, None),
    ("post_processor", BYTES, None),
    ("post_processor", ROBERTA, ROBERTA | {"sep": ["</s>", 9], "trim_offsets": False}),
    ("post_processor", {"type": "Sequence", "processors": [BYTES, TEMPLATE]}, TEMPLATE),
    ("pre_tokenizer", BYTES, BYTES | {"trim_offsets": False}),
    ("decoder", BYTES, {"type": "ByteLevel"}),
    ("truncation", None, {"max_length": 8, "strategy": "LongestFirst", "direction": "Right", "stride": 0}),
]
DIFFERENT: list[tuple[str, Any, Any]] = [
    ("post_processor", TEMPLATE, None),
    ("post_processor", ROBERTA, ROBERTA | {"cls": ["<cls>", 0]}),
    ("pre_tokenizer", BYTES, BYTES | {"add_prefix_space": False}),
    ("pre_tokenizer", BYTES, BYTES | {"use_regex": False}),
    ("normalizer", {"type": "NFC"}, {"type": "NFKC"}),
    ("decoder", {"type": "ByteFallback"}, {"type": "Fuse"}),
]


@pytest.mark.parametrize(("name", "one", "two"), EQUAL)
def test_no_effect_on_ids_or_text(name, one, two):
    assert pipeline_of(tokenizer_json() | {name: one}) == pipeline_of(tokenizer_json() | {name: two})


@pytest.mark.parametrize(("name", "one", "two"), DIFFERENT)
def test_an_effect_on_ids_or_text(name, one, two):
    assert pipeline_of(tokenizer_json() | {name: one}) != pipeline_of(tokenizer_json() | {name: two})


def with_model(**options: Any) -> dict[str, Any]:
    content = tokenizer("byte-level BPE", ["hello"])
    return content | {"model": content["model"] | options}


def test_options_of_the_model():
    plain = pipeline_of(with_model())
    same = {"dropout": None, "continuing_subword_prefix": "", "fuse_unk": True, "unk_token": "<|end|>"}
    assert pipeline_of(with_model(**same)) == plain
    assert pipeline_of(with_model(ignore_merges=True)) != plain


def test_the_order_of_merges_and_the_scores():
    content = tokenizer("byte-level BPE", ["hello", "world"])
    backward = with_model(merges=content["model"]["merges"][::-1], vocab=content["model"]["vocab"])
    assert pipeline_of(content, with_order=True) != pipeline_of(backward, with_order=True)
    assert pipeline_of(content) == pipeline_of(backward), "not computed unless it is needed"
    unigram = tokenizer("Unigram", ["hello", "world"])
    other = unigram | {
        "model": unigram["model"] | {"vocab": [[t, s - 1] for t, s in unigram["model"]["vocab"]]}
    }
    permuted = unigram | {"model": unigram["model"] | {"vocab": unigram["model"]["vocab"][::-1]}}
    assert pipeline_of(unigram, with_order=True) != pipeline_of(other, with_order=True)
    assert pipeline_of(unigram, with_order=True).order == pipeline_of(permuted, with_order=True).order


@pytest.mark.parametrize("where", ["pre_tokenizer", "decoder"])
@pytest.mark.parametrize("nested", [False, True])
def test_bytes_are_known_by_any_step(where, nested):
    inner = {"pre_tokenizer": "pretokenizers", "decoder": "decoders"}[where]
    step = {"type": "Sequence", inner: [{"type": "Fuse"}, BYTES]} if nested else BYTES
    model = {"type": "BPE", "vocab": {"a": 0}, "merges": []}
    assert kind_of({"model": model, where: step}) == "byte-level BPE"
    assert kind_of({"model": model}) == "BPE"
    assert kind_of({"model": model | {"end_of_word_suffix": "</w>"}}) == "BPE '</w>'"


def test_steps_in_a_few_words():
    split = {"type": "Split", "pattern": {"Regex": r"\d"}, "behavior": "Isolated"}
    assert described({"type": "Sequence", "pretokenizers": [split, BYTES]}) == r"Split '\\d' + ByteLevel"
    assert described(None) == "none"
