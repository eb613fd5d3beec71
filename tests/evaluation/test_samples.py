"""What models write: greedy, whatever they prefer, and within their positions."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fusion_slerp.errors import Problem
from fusion_slerp.evaluation.samples import by_prompt, check_fit, generate
from tests.evaluation.demo import PLAYS

pytestmark = pytest.mark.usefixtures("one_thread")

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(PLAYS, dtype=torch.float32).eval()


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(PLAYS)


@torch.no_grad()
def likeliest(model, tokenizer, text: str, n_tokens: int) -> str:
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    for _ in range(n_tokens):
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    return tokenizer.decode(ids[0, start:], skip_special_tokens=True)


def test_the_likeliest_token_is_taken(model, tokenizer):
    [sample] = generate(model, tokenizer, ["My lord,"], max_new_tokens=8)
    assert sample == {"prompt": "My lord,", "text": likeliest(model, tokenizer, "My lord,", 8)}


def test_the_models_own_preferences_do_not_count(model, tokenizer, monkeypatch):
    plain = generate(model, tokenizer, ["My lord,"], max_new_tokens=8)
    for name, value in {"do_sample": True, "temperature": 5.0, "repetition_penalty": 3.0}.items():
        monkeypatch.setattr(model.generation_config, name, value)
    assert generate(model, tokenizer, ["My lord,"], max_new_tokens=8) == plain


def test_a_chat_template_is_applied_if_asked_for(model, tokenizer):
    tokenizer.chat_template = TEMPLATE
    [sample] = generate(model, tokenizer, ["Hello"], max_new_tokens=5, chat=True)
    assert sample["text"] == likeliest(model, tokenizer, "user: Hello\nassistant:", 5)


def test_text_ends_at_the_last_position(model, tokenizer):
    limit = model.config.max_position_embeddings
    prompt = tokenizer.decode(tokenizer("a " * 2 * limit)["input_ids"][: limit - 3])
    n_tokens = len(tokenizer(prompt)["input_ids"])
    [sample] = generate(model, tokenizer, [prompt])
    assert len(tokenizer(sample["text"])["input_ids"]) <= limit - n_tokens


def test_prompts_that_do_not_fit_are_problems(model, tokenizer):
    problems: list[Problem] = []
    check_fit("m", model.config, tokenizer, ["fine", "a " * 5000], False, problems)
    check_fit("m", model.config, tokenizer, ["fine"], True, problems)
    assert [each.headline for each in problems] == [
        "a prompt has no token, or too many",
        "m has no chat template",
    ]


def test_samples_are_put_side_by_side():
    samples = {name: [{"prompt": p, "text": f"{name} {p}"} for p in ("x", "y")] for name in ("a", "b")}
    assert by_prompt(samples) == {"x": {"a": "a x", "b": "b x"}, "y": {"a": "a y", "b": "b y"}}
