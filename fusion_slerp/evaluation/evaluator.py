"""Evaluates models on texts: checks the settings, cuts the texts into tokens, and measures the losses."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from fusion_slerp.errors import Problem, raise_all
from fusion_slerp.evaluation.evaluation import Evaluation, TextEvaluation
from fusion_slerp.evaluation.losses import DEFAULT_CONTEXT_LENGTH, position_limit, ready, token_losses
from fusion_slerp.evaluation.samples import DEFAULT_NEW_TOKENS, check_fit, generate
from fusion_slerp.evaluation.settings import (
    SO,
    check_number,
    check_prompts,
    check_stride,
    check_tokens,
    is_usable,
    open_texts,
    unreadable,
    wrong,
)
from fusion_slerp.evaluation.texts import Text, TextError
from fusion_slerp.evaluation.tokens import Tokens, cut

MODEL = "model"
"""The name of a model that is evaluated alone."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model before its weights are needed.

    Attributes:
        config: Its transformers config.
        tokenizer: The tokenizer to cut the texts with.
    """

    config: Any
    tokenizer: Any


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """How models go through a text; see `fusion_slerp.evaluation.losses.token_losses`."""

    context_length: int
    stride: int
    batch_size: int


@dataclass(frozen=True, slots=True)
class Prompts:
    """What models are to continue; see `fusion_slerp.evaluation.samples.generate`."""

    texts: tuple[str, ...]
    max_new_tokens: int
    chat: bool


class Evaluator:
    """Loss and perplexity of models on texts.

    The windows are those of transformers' documentation ("Perplexity of fixed-length models"), each token is
    scored once, and the mean is exact: see `fusion_slerp.evaluation.losses`. A model reads about
    `context_length / stride` times the tokens of the texts.

    Args:
        texts: Name -> file or folder: `.txt`, `.jsonl`, `.parquet`, or a folder saved by `datasets`; see
            `fusion_slerp.evaluation.texts.Text`. Documents do not see each other. May be empty if there are
            prompts.
        context_length: Positions that a model sees at once, at least 2 and at most what each model was made
            for. None takes the smallest such limit, but at most 1024.
        stride: Positions from one window to the next, from 1 to `context_length - 1`; less gives tokens more
            context and takes longer. None takes half of `context_length`.
        batch_size: Windows in one forward pass, at least 1. Changes the result by rounding only.
        max_tokens: Read at most this many tokens of each text, at least 2; None reads all.
        device: A torch device such as `"cuda:1"`, or `"auto"`: the accelerator that the model is on already,
            else CUDA if available, else the CPU. Models are put back where they were.
        prompts: What each model is to continue; see `fusion_slerp.evaluation.samples.generate`.
        max_new_tokens: How long these continuations may be, at least 1.
        chat: Whether a prompt is what a user says in a conversation, by each tokenizer's chat template.

    Raises:
        SettingsError: Settings are wrong, or texts are unreadable (all at once). With `max_tokens`, texts are
            read to their first document only, and further when models are prepared.
    """

    def __init__(
        self,
        texts: Mapping[str, str | os.PathLike[str]],
        *,
        context_length: int | None = None,
        stride: int | None = None,
        batch_size: int = 8,
        max_tokens: int | None = None,
        device: str = "auto",
        prompts: Sequence[str] | None = None,
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        chat: bool = False,
    ) -> None:
        problems: list[Problem] = []
        is_needed = bool(texts) or not prompts
        self._texts = open_texts(texts, max_tokens is None, problems) if is_needed else {}
        check_number("context_length", context_length, 2, DEFAULT_CONTEXT_LENGTH, problems)
        check_number("stride", stride, 1, DEFAULT_CONTEXT_LENGTH // 2, problems)
        check_number("batch_size", batch_size, 1, 8, problems, or_none=False)
        check_number("max_tokens", max_tokens, 2, 100_000, problems)
        check_number("max_new_tokens", max_new_tokens, 1, DEFAULT_NEW_TOKENS, problems, or_none=False)
        check_prompts(prompts, problems)
        if not is_usable(device):
            problems.append(wrong("device", repr(device), "auto, or a device that this machine has", "auto"))
        if not problems and stride is not None and context_length is not None:
            check_stride(stride, context_length, problems)
        raise_all(problems, SO)
        self._context_length, self._stride = context_length, stride
        self._batch_size, self._max_tokens, self._device = batch_size, max_tokens, device
        self._prompts = Prompts(tuple(prompts or ()), max_new_tokens, chat)

    def evaluate(self, model: nn.Module, tokenizer: Any) -> Evaluation:
        """Returns the losses of one model; see `prepare` for models that are to be compared.

        Raises:
            SettingsError: As `prepare`.
        """
        return self.prepare({MODEL: Candidate(model.config, tokenizer)}).evaluate(MODEL, model)

    def prepare(self, models: Mapping[str, Candidate]) -> PreparedEvaluation:
        """Cuts the texts into the tokens of each model, and chooses windows that suit all models.

        A model with a tokenizer of its own reads the same passages as the first one, also with `max_tokens`.

        Args:
            models: By name, at least one.

        Raises:
            SettingsError: All at once: a text is unreadable or has fewer than two tokens, a model is too
                small for `context_length` or its tokenizer.
        """
        problems: list[Problem] = []
        tokens: dict[str, dict[str, Tokens]] = {name: {} for name in models}
        tokenizers: dict[str, Any] = {}
        for text, opened in self._texts.items():
            try:
                for name, each in self._cut(opened, models).items():
                    tokens[name][text] = each
            except TextError as error:
                problems.append(unreadable(text, opened.path, error))
        context_length, stride = self._windows({name: each.config for name, each in models.items()}, problems)
        for name, candidate in models.items():
            check_tokens(name, candidate.config, tokens[name], problems)
            tokenizers[name] = candidate.tokenizer
            texts, chat = self._prompts.texts, self._prompts.chat
            check_fit(name, candidate.config, candidate.tokenizer, texts, chat, problems)
        raise_all(problems, SO)
        windows = WindowSettings(context_length, stride, self._batch_size)
        return PreparedEvaluation(tokens, tokenizers, windows, self._prompts, self._device)

    def _cut(self, text: Text, models: Mapping[str, Candidate]) -> dict[str, Tokens]:
        first, cut_texts = None, {}
        for name, candidate in models.items():
            tokens = cut(candidate.tokenizer, text.documents(), self._max_tokens)
            if self._max_tokens is not None and first is not None and tokens.digest != first.digest:
                tokens = cut(candidate.tokenizer, text.head(first.stops))
            first = first or tokens
            cut_texts[name] = tokens
        return cut_texts

    def _windows(self, configs: Mapping[str, Any], problems: list[Problem]) -> tuple[int, int]:
        """Returns context length and stride in tokens."""
        found = {name: position_limit(config.get_text_config()) for name, config in configs.items()}
        limits = {name: limit for name, limit in found.items() if limit is not None}
        context_length = self._context_length or min([DEFAULT_CONTEXT_LENGTH, *limits.values()])
        for name, limit in limits.items():
            if limit < context_length:
                needed = f"at most {limit}, the positions of {name}"
                problems.append(wrong("context_length", context_length, needed, limit))
        stride = self._stride or context_length // 2
        check_stride(stride, context_length, problems)
        return context_length, stride


OnTokens = Callable[[str, int, int], object]
"""Called with a text, how many of its tokens this process has scored, and how many it is to score."""


@dataclass(frozen=True, slots=True)
class PreparedEvaluation:
    """Texts in the tokens of each model; nothing more can be wrong with the settings.

    Attributes:
        tokens: By name of the model, then of the text.
        tokenizers: By name of the model.
        windows: The same for all models.
        prompts: What models are to continue.
        device: As given to the evaluator.
        on_tokens: Called as a model goes through a text.
    """

    tokens: Mapping[str, Mapping[str, Tokens]]
    tokenizers: Mapping[str, Any]
    windows: WindowSettings
    prompts: Prompts
    device: str
    on_tokens: OnTokens = lambda text, done, total: None

    def evaluate(self, name: str, model: nn.Module) -> Evaluation:
        """Returns the losses of a model; may be called again, for instance with other weights.

        Args:
            name: Which of the prepared models' tokens it reads.
            model: Runs in its own type and in evaluation mode; then left unchanged.
        """
        with ready(model, self.device):
            of_texts = self.tokens[name].items()
            return Evaluation({text: self._score(model, text, each) for text, each in of_texts})

    def samples(self, name: str, model: nn.Module) -> list[dict[str, str]]:
        """Returns what a model writes after each prompt: `{"prompt", "text"}`; none without prompts.

        Args:
            name: Which of the prepared models' tokenizers it uses.
            model: As in `evaluate`.
        """
        if not self.prompts.texts:
            return []
        with ready(model, self.device):
            given = self.prompts
            return generate(model, self.tokenizers[name], given.texts, given.max_new_tokens, given.chat)

    def following(self, text: str, total: int) -> Callable[[int], None]:
        """Returns what is to be called with the number of tokens just scored, of a total."""
        done = 0

        def on_scored(n: int) -> None:
            nonlocal done
            done += n
            self.on_tokens(text, done, total)

        return on_scored

    def _score(self, model: nn.Module, text: str, tokens: Tokens) -> TextEvaluation:
        began = time.perf_counter()
        on_scored = self.following(text, sum(max(len(ids) - 1, 0) for ids in tokens.ids))
        losses = token_losses(model, tokens.ids, **asdict(self.windows), on_scored=on_scored)
        seconds = time.perf_counter() - began
        return TextEvaluation(tuple(each.numpy() for each in losses), tokens.digest, tokens.n_bytes, seconds)
