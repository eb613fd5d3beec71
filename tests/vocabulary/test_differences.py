"""Tokenizers with equal tokens that differ otherwise: one line each, with whose the merged model has."""

import json
from pathlib import Path
from typing import Any

import pytest

from fusion_slerp import merge, plan_merge
from fusion_slerp.sources.json_files import parse_json
from tests.models import write_checkpoint, write_json
from tests.tokenizer_kinds import KINDS, added_token, tokenizer
from tests.vocabulary.aligned import aligned, model_with, models_with

SPLIT = {"type": "Split", "pattern": {"Regex": r"\d"}, "behavior": "Isolated", "invert": False}
SPLIT_3 = SPLIT | {"pattern": {"Regex": r"\d{1,3}"}}
ADDS = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<unk>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<unk>": {"id": "<unk>", "ids": [0], "tokens": ["<unk>"]}},
}


def content(**changes: Any) -> dict[str, Any]:
    return tokenizer("WordLevel", ["hello"], {"<tool>": {}}) | changes


def listing(**flags: bool) -> list[dict[str, Any]]:
    return [added_token("<tool>", 2, **flags)]


def on_differences(models, **options: Any) -> list[str]:
    """What is said of them, without names of folders."""
    said = aligned(models, **options).remarks
    short = [line.replace(f"{models['a'].folder.parent}/", "") for line in said]
    return [line for line in short if " differ" in line and " from that of " in line]


FOLLOWS_A = "; the merged model follows a"
PARTS = {
    "pre_tokenizer": (
        {"pre_tokenizer": SPLIT},
        {"pre_tokenizer": SPLIT_3},
        r"pre_tokenizer (Split '\\d{1,3}', not Split '\\d')",
    ),
    "normalizer": ({}, {"normalizer": {"type": "Lowercase"}}, "normalizer (Lowercase, not none)"),
    "post_processor": ({}, {"post_processor": ADDS}, "post_processor (TemplateProcessing, not none)"),
    "decoder": ({}, {"decoder": {"type": "Fuse"}}, "decoder (Fuse, not none)"),
    "special": (
        {"added_tokens": listing()},
        {"added_tokens": listing(special=True)},
        "added tokens (1 token special in b alone: '<tool>')",
    ),
    "lstrip": (
        {"added_tokens": listing(lstrip=True)},
        {"added_tokens": listing()},
        "added tokens (1 token lstrip in a alone: '<tool>')",
    ),
    "model": (
        {},
        {"model": {**content()["model"], "unk_token": "hello"}},
        "model (unk_token hello, not <unk>)",
    ),
}


@pytest.mark.parametrize("case", PARTS)
@pytest.mark.parametrize("choice", ["union", "b"])
def test_what_differs_is_named_with_whose_the_child_has(tmp_path, case, choice):
    one, two, what = PARTS[case]
    models = models_with(tmp_path, a=content(**one), b=content(**two))
    said = on_differences(models, tokenizer=choice)
    if choice == "union":
        assert said == [f"the tokenizer of b differs from that of a in its {what}{FOLLOWS_A}"]
    else:
        assert [line.split(" (")[0] for line in said] == [
            f"the tokenizer of a differs from that of b in its {what.split(' (')[0]}"
        ]
        assert said[0].endswith("; the merged model follows b")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_said_of_files_that_say_the_same(tmp_path, kind):
    """Other spacing and order of keys, and flags without an effect."""
    one = tokenizer(kind, ["hello"], ["<x>"])
    two = json.loads(json.dumps(one, sort_keys=True))
    if one["normalizer"] is None:
        two["added_tokens"] = [{**each, "normalized": True} for each in two["added_tokens"]]
    models = models_with(tmp_path, a=one, b=two)
    (models["b"].folder / "tokenizer.json").write_text(json.dumps(two))
    assert on_differences(models) == []


def test_an_added_token_that_is_an_ordinary_one_elsewhere(tmp_path):
    ordinary = content(added_tokens=[])
    ordinary["model"] = {**ordinary["model"], "vocab": {**ordinary["model"]["vocab"], "<tool>": 2}}
    assert on_differences(models_with(tmp_path, a=content(), b=ordinary)) == [
        f"the tokenizer of b differs from that of a in its added tokens "
        f"(1 token added in a alone: '<tool>'){FOLLOWS_A}"
    ]


def test_the_order_of_merges_is_said_where_the_tokens_are_equal(tmp_path):
    one = tokenizer("byte-level BPE", ["hello", "world"])
    two = {**one, "model": {**one["model"], "merges": one["model"]["merges"][::-1]}}
    more = tokenizer("byte-level BPE", ["hello", "world", "tree"])
    assert on_differences(models_with(tmp_path / "equal", a=one, b=two)) == [
        f"the tokenizer of b differs from that of a in its merges "
        f"(the same tokens, but texts are cut differently){FOLLOWS_A}"
    ]
    assert on_differences(models_with(tmp_path / "more", a=one, b=more)) == []


SWITCHES = [  # of a, of b, and what is said
    ({"add_bos_token": True}, {"add_bos_token": False}, "add_bos_token (False, not True)"),
    ({"tokenizer_class": "LlamaTokenizer"}, {"add_bos_token": False}, "add_bos_token (False, not True)"),
    (
        {"tokenizer_class": "LlamaTokenizer"},
        {"add_bos_token": True, "tokenizer_class": "LlamaTokenizer"},
        None,
    ),
    ({"tokenizer_class": "GPT2Tokenizer"}, {"add_bos_token": False}, None),
    ({}, {"add_bos_token": True}, None),
    ({"add_eos_token": True}, {"model_max_length": 8}, "add_eos_token (False, not True)"),
    ({"add_prefix_space": True}, {"add_prefix_space": False}, "add_prefix_space (False, not True)"),
    ({"add_prefix_space": None}, {"add_prefix_space": False}, None),
    ({"eos_token": "hello"}, {"eos_token": {"content": "<tool>"}}, "eos_token ('<tool>', not 'hello')"),
    ({"eos_token": "<tool>"}, {"eos_token": {"content": "<tool>", "lstrip": False}}, None),
    ({"pad_token": "<unk>"}, {"padding_side": "left"}, None),
]


@pytest.mark.parametrize("case", range(len(SWITCHES)))
def test_switches_of_the_config(tmp_path, case):
    one, two, what = SWITCHES[case]
    models = models_with(
        tmp_path, a=content(added_tokens=listing(special=True)), b=content(added_tokens=listing(special=True))
    )
    for label, config in (("a", one), ("b", two)):
        write_json(models[label].folder / "tokenizer_config.json", config)
    expected = [f"the tokenizer of b differs from that of a in its {what}{FOLLOWS_A}"] if what else []
    assert [line for line in on_differences(models) if "added tokens" not in line] == expected


def test_kinds_of_bpe_are_said_instead_of_their_parts(tmp_path):
    models = models_with(
        tmp_path, a=tokenizer("byte-level BPE", ["hello"]), b=tokenizer("byte-fallback BPE", ["hello"])
    )
    (line,) = on_differences(models, tokenizer="a")
    assert line == (
        "the tokenizer of b differs from that of a in its kind (SentencePiece BPE, not byte-level BPE: equal "
        f"strings may stand for different texts){FOLLOWS_A}"
    )


def test_several_models_share_a_line(tmp_path):
    models = models_with(
        tmp_path,
        a=content(),
        b=content(normalizer={"type": "NFC"}),
        c=content(),
        d=content(normalizer={"type": "NFC"}),
    )
    assert on_differences(models) == [
        f"the tokenizers of b and d differ from that of a in their normalizer (NFC, not none){FOLLOWS_A}"
    ]


def test_a_tokenizer_of_no_model(tmp_path):
    """Both models are compared with it: neither's behaviour is the merged model's."""
    models = models_with(tmp_path, a=content(), b=content())
    third = tmp_path / "third"
    third.mkdir()
    write_json(third / "tokenizer.json", content(normalizer={"type": "NFC"}))
    assert on_differences(models, tokenizer=str(third)) == [
        "the tokenizers of a and b differ from that of third in their normalizer (none, not NFC); "
        "the merged model follows third"
    ]


@pytest.mark.parametrize("part", [5, "ByteLevel", [1], {"pretokenizers": 3}], ids=str)
def test_damaged_steps_say_nothing(tmp_path, part):
    """The rows of the tokens are known all the same."""
    alignment = aligned(models_with(tmp_path, a=content(pre_tokenizer=part), b=content()))
    assert alignment.is_certain
    assert alignment.remarks == ()


def test_a_tokenizer_json_is_parsed_once(tmp_path, monkeypatch):
    """It may have 30 MB; equal files are compared by their bytes."""
    models = models_with(tmp_path, a=content(), b=content(), c=content(normalizer={"type": "NFC"}))
    parsed = []

    def counting(raw: bytes, *more: Any) -> Any:
        parsed.append(raw)
        return parse_json(raw, *more)

    monkeypatch.setattr("fusion_slerp.sources.json_files.parse_json", counting)
    assert len(on_differences(models)) == 1
    assert len([raw for raw in parsed if b'"model"' in raw]) == 2


# --- chat templates -----------------------------------------------------------------------------------------

ONE, TWO = "{{ 'one' }}", "{{ 'two' }}"
TEMPLATES: list[tuple[dict[str, Any], dict[str, Any], str | None]] = [
    ({"chat_template.jinja": ONE}, {"chat_template.jinja": TWO}, "chat template"),
    ({"chat_template.jinja": ONE}, {"chat_template.jinja": f"{ONE}\n"}, None),
    ({"chat_template.jinja": ONE}, {"chat_template": ONE}, None),
    ({"chat_template.jinja": ONE}, {"chat_template": TWO}, "chat template"),
    ({"chat_template.jinja": ONE, "chat_template": TWO}, {"chat_template": ONE}, None),
    ({"chat_template.json": {"chat_template": ONE}}, {"chat_template": ONE}, None),
    ({"chat_template": [{"name": "default", "template": ONE}]}, {"chat_template": {"default": ONE}}, None),
    (
        {"chat_template": [{"name": "default", "template": ONE}, {"name": "tool_use", "template": ONE}]},
        {"chat_template": {"default": ONE, "tool_use": TWO}},
        "chat templates 'tool_use'",
    ),
    (
        {"chat_template.jinja": ONE, "additional_chat_templates/rag.jinja": TWO},
        {"chat_template.jinja": TWO},
        "chat templates 'default', 'rag'",
    ),
    (
        {"chat_template.jinja": ONE, "additional_chat_templates/rag.jinja": TWO},
        {"chat_template": [{"name": "rag", "template": TWO}, {"name": "default", "template": ONE}]},
        None,
    ),
    ({"chat_template.jinja": ONE}, {}, None),
]


def add_templates(folder: Path, files: dict[str, Any]) -> None:
    for name, text in files.items():
        if name == "chat_template":
            write_json(folder / "tokenizer_config.json", {"chat_template": text})
        elif isinstance(text, dict):
            write_json(folder / name, text)
        else:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)


@pytest.mark.parametrize("case", range(len(TEMPLATES)))
def test_chat_templates(tmp_path, case):
    of_a, of_b, what = TEMPLATES[case]
    models = models_with(tmp_path, a=content(), b=content())
    add_templates(models["a"].folder, of_a)
    add_templates(models["b"].folder, of_b)
    expected = [f"the tokenizer of b differs from that of a in its {what}{FOLLOWS_A}"] if what else []
    assert on_differences(models) == expected
    assert on_differences(models, chat_template="{{ 'mine' }}") == []


def test_a_template_that_a_union_takes_from_b(tmp_path):
    """a has none, c another one."""
    models = {
        label: model_with(tmp_path / label, ["<unk>", f"word{label}"], template=template)
        for label, template in (("a", None), ("b", ONE), ("c", TWO))
    }
    assert on_differences(models) == [
        f"the tokenizer of c differs from that of a in its chat template{FOLLOWS_A}"
    ]


def test_the_plan_and_the_report_say_so(tmp_path):
    a, b = (write_checkpoint(tmp_path / name, seed=i) for i, name in enumerate("ab"))
    (a / "chat_template.jinja").write_text(ONE)
    (b / "chat_template.jinja").write_text(TWO)
    line = f"the tokenizer of {b} differs from that of {a} in its chat template; the merged model follows {a}"
    assert line in plan_merge(a, b).warnings
    assert line in merge(a, b, out=tmp_path / "child").plan.warnings
    assert (tmp_path / "child/chat_template.jinja").read_text() == ONE
