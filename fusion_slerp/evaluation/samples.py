"""Text that models write after given prompts, to be read side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fusion_slerp.errors import Problem, SettingsError
from fusion_slerp.evaluation.losses import position_limit

DEFAULT_NEW_TOKENS = 64

GREEDY = {
    "do_sample": False,
    "num_beams": 1,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
}
"""The same for all models: a model's own generation config would set other values."""


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int = DEFAULT_NEW_TOKENS,
    chat: bool = False,
) -> list[dict[str, str]]:
    """Returns what a model writes after each prompt, always taking the likeliest token: `{"prompt", "text"}`.

    Args:
        model: A transformers causal language model in evaluation mode; it runs where its parameters are.
        tokenizer: Its tokenizer.
        prompts: Each is continued by itself.
        max_new_tokens: The text ends after this many tokens, at the end-of-text token, or at the model's last
            position.
        chat: Whether a prompt is what a user says in a conversation, by the tokenizer's chat template.
    """
    return [
        {
            "prompt": prompt,
            "text": _continued(model, tokenizer, _encoded(tokenizer, prompt, chat), max_new_tokens),
        }
        for prompt in prompts
    ]


def check_fit(
    name: str, config: Any, tokenizer: Any, prompts: Sequence[str], chat: bool, problems: list[Problem]
) -> None:
    """Adds a problem for each prompt that leaves a model no room for a token, or if it has no chat template.

    Args:
        name: The model, for messages.
        config: Its config.
        tokenizer: Its tokenizer.
        prompts: As in `generate`.
        chat: As in `generate`.
        problems: To be added to.
    """
    if chat and prompts and not getattr(tokenizer, "chat_template", None):
        fields = (("needed", "a tokenizer with a chat template"),)
        fix = "leave out the chat template: prompts are then continued as plain text"
        problems.append(Problem(SettingsError, f"{name} has no chat template", fields, fix))
        return
    limit = position_limit(config.get_text_config())
    for prompt in prompts:
        n_tokens = _encoded(tokenizer, prompt, chat).shape[1]
        if not n_tokens or (limit is not None and n_tokens >= limit):
            fields = (("prompt", prompt), ("found", f"{n_tokens} tokens of {name}"))
            needed = "at least one" + (f", less than {limit}" if limit is not None else "")
            headline, fix = "a prompt has no token, or too many", "change the prompt"
            problems.append(Problem(SettingsError, headline, (*fields, ("needed", needed)), fix))


def _encoded(tokenizer: Any, prompt: str, chat: bool) -> Tensor:
    """The prompt's token ids: int64, shape [1, tokens]."""
    if chat:
        messages = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
    else:
        ids = tokenizer(prompt, verbose=False)["input_ids"]
    return torch.tensor([ids], dtype=torch.int64)


def _continued(model: Any, tokenizer: Any, ids: Tensor, max_new_tokens: int) -> str:
    limit = position_limit(model.config.get_text_config())
    n_tokens = ids.shape[1]
    ids = ids.to(next(model.parameters()).device)
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    with torch.no_grad():
        written = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens if limit is None else min(max_new_tokens, limit - n_tokens),
            pad_token_id=_padding(tokenizer, ends),
            **GREEDY,
        )
    return tokenizer.decode(written[0, n_tokens:], skip_special_tokens=True)


def _padding(tokenizer: Any, ends: int | Sequence[int] | None) -> int:
    """A token to fill up with, which generation asks for although nothing is filled up."""
    own = tokenizer.pad_token_id
    first = ends[0] if isinstance(ends, Sequence) and ends else ends
    return own if own is not None else first if isinstance(first, int) else 0


def by_prompt(samples: Mapping[str, Sequence[Mapping[str, str]]]) -> dict[str, dict[str, str]]:
    """Returns samples that are listed by model, by prompt: prompt -> model -> text."""
    prompts = dict.fromkeys(each["prompt"] for texts in samples.values() for each in texts)
    return {
        prompt: {
            name: each["text"]
            for name, texts in samples.items()
            for each in texts
            if each["prompt"] == prompt
        }
        for prompt in prompts
    }
