"""The evaluation of a demo model against a plain computation with transformers; texts for several models."""

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fusion_slerp.errors import SettingsError
from fusion_slerp.evaluation.evaluation import difference
from fusion_slerp.evaluation.evaluator import Candidate, Evaluator
from tests.evaluation.demo import CODE, PLAYS, TEXTS

pytestmark = pytest.mark.usefixtures("one_thread")

MAX_TOKENS = 1000


@pytest.fixture(scope="module")
def plays():
    return AutoModelForCausalLM.from_pretrained(PLAYS, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(PLAYS)


@torch.no_grad()
def plain_perplexity(model, ids: torch.Tensor, context_length: int, stride: int) -> float:
    """As in transformers' documentation, with the labels counted."""
    model.eval()
    nll_sum, n_scored, previous_end = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + context_length, len(ids))
        window, labels = ids[None, begin:end], ids[None, begin:end].clone()
        labels[:, : -(end - previous_end)] = -100
        scored = int((labels[:, 1:] != -100).sum())
        nll_sum += model(input_ids=window, labels=labels).loss.item() * scored
        n_scored, previous_end = n_scored + scored, end
        if end == len(ids):
            break
    return math.exp(nll_sum / n_scored)


def test_perplexity_is_that_of_a_plain_computation(plays, tokenizer):
    evaluation = Evaluator(TEXTS, max_tokens=MAX_TOKENS).evaluate(plays, tokenizer)
    context_length = plays.config.max_position_embeddings
    for name, file in TEXTS.items():
        ids = tokenizer(file.read_text(encoding="utf-8"), return_tensors="pt")["input_ids"][0, :MAX_TOKENS]
        expected = plain_perplexity(plays, ids, context_length, context_length // 2)
        assert evaluation.texts[name].perplexity == pytest.approx(expected, rel=1e-4)


def test_bits_per_byte_are_those_of_the_text(plays, tokenizer, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("To be, or not to be: that is the question. Größe", encoding="utf-8")
    text = Evaluator({"a": file}).evaluate(plays, tokenizer).texts["a"]
    first = tokenizer.decode(tokenizer(file.read_text(encoding="utf-8"))["input_ids"][:1])
    n_bytes = file.stat().st_size - len(first.encode())
    assert text.bits_per_byte == pytest.approx(sum(text.losses[0]) / math.log(2) / n_bytes)


def test_a_prepared_evaluation_follows_the_weights(plays, tokenizer):
    prepared = Evaluator(TEXTS, max_tokens=200).prepare({"x": Candidate(plays.config, tokenizer)})
    first = prepared.evaluate("x", plays)
    other = AutoModelForCausalLM.from_pretrained(CODE, dtype=torch.float32)
    second = prepared.evaluate("x", other)
    assert difference(first, prepared.evaluate("x", plays))["average"].value == 0
    assert difference(first, second)["plays"].high < 0 < difference(first, second)["code"].low


class Words:
    """A tokenizer of its own kind: a token for each word and each gap, from a vocabulary of 50."""

    is_fast = False

    def __call__(self, text: str, verbose: bool) -> dict[str, list[int]]:
        self.words = text.split(" ")
        return {"input_ids": [len(word) % 50 for word in self.words]}

    def convert_ids_to_tokens(self, ids) -> list[str]:
        return self.words[: len(ids)]

    def decode(self, ids, skip_special_tokens: bool) -> str:
        return " ".join(self.words[: len(ids)])


def test_a_model_with_other_tokens_reads_the_same_passage(plays, tokenizer, tmp_path):
    documents = ["one two three four", "five six seven", "eight nine"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in documents))
    candidates = {"x": Candidate(plays.config, Words()), "y": Candidate(plays.config, tokenizer)}
    prepared = Evaluator({"a": tmp_path / "a.jsonl"}, max_tokens=6).prepare(candidates)
    assert prepared.tokens["x"]["a"].stops == [18, 8]
    assert prepared.tokens["y"]["a"].stops == [18, 8]
    assert prepared.tokens["y"]["a"].digest != prepared.tokens["x"]["a"].digest


def test_texts_are_read_to_their_end_only_without_max_tokens(plays, tokenizer, tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": "To be, or not to be"}) + "\nnot JSON\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="line 2 is not JSON"):
        Evaluator({"a": file})
    assert Evaluator({"a": file}, max_tokens=4).evaluate(plays, tokenizer).texts["a"].n_tokens == 3
    with pytest.raises(SettingsError, match="line 2 is not JSON") as caught:
        Evaluator({"a": file}, max_tokens=400).evaluate(plays, tokenizer)
    assert caught.value.message("command").endswith("\nFix: use --text a=FILE.txt")


def test_all_problems_are_reported_at_once(tmp_path):
    with pytest.raises(SettingsError) as caught:
        Evaluator({"a": tmp_path / "none.txt", "samples": "x.txt"}, stride=0, max_new_tokens=0, prompts="x")
    message = caught.value.message("python")
    for part in ("5 problems, nothing was evaluated", "cannot read the text a", "invalid text samples"):
        assert part in message
    assert "Fix: use stride=512" in message
    assert "Fix: use max_new_tokens=64" in message
    assert "Fix: use prompts=['Once upon a time']" in message


def test_prompts_alone_are_enough(plays, tokenizer):
    prepared = Evaluator({}, prompts=["To be"], max_new_tokens=3).prepare(
        {"x": Candidate(plays.config, tokenizer)}
    )
    assert prepared.evaluate("x", plays).texts == {}
    [sample] = prepared.samples("x", plays)
    assert sample["prompt"] == "To be"
    assert len(tokenizer(sample["text"])["input_ids"]) <= 3
