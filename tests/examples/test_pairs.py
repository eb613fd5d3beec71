"""The preference pairs of examples/dpo: what the trainer needs, and nothing that gives the judgement away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import fusion_slerp

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/dpo"
DEMO = Path(fusion_slerp.__file__).parent / "demo"
SIZES = {"train": 192, "held_out": 64}


def pairs_of(name: str) -> list[dict[str, str]]:
    lines = (EXAMPLE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", SIZES)
def test_columns_and_number(name):
    pairs = pairs_of(name)
    assert len(pairs) == SIZES[name]
    assert {tuple(pair) for pair in pairs} == {("prompt", "chosen", "rejected")}
    assert all(pair["chosen"] != pair["rejected"] and all(pair.values()) for pair in pairs)


@pytest.mark.parametrize("name", SIZES)
def test_the_tokens_of_a_prompt_are_those_it_has_with_either_continuation(name):
    tokenizer = Tokenizer.from_file(str(DEMO / "plays/tokenizer.json"))
    for pair in pairs_of(name):
        prompt = tokenizer.encode(pair["prompt"]).ids
        for key in ("chosen", "rejected"):
            ids = tokenizer.encode(pair["prompt"] + pair[key]).ids
            assert ids[: len(prompt)] == prompt
            assert len(ids) < 256  # what the demo models were made for, with an end-of-text token


def test_no_passage_is_in_both_sets_or_in_the_texts_that_judge():
    train, held_out = ({pair["prompt"] + pair["chosen"] for pair in pairs_of(name)} for name in SIZES)
    assert len(train) == SIZES["train"]
    assert not train & held_out
    judging = [(DEMO / f"texts/{name}.txt").read_text(encoding="utf-8") for name in ("plays", "code")]
    assert not any(pair["chosen"] in text for name in SIZES for pair in pairs_of(name) for text in judging)
