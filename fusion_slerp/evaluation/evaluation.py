"""The result of an evaluation: the loss of every token, the scores, and the difference of two models."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fusion_slerp.evaluation.statistics import Estimate, Losses, estimate, mean_of

AVERAGE = "average"
"""The name of the mean over all texts, which no text may have."""


@dataclass(frozen=True, eq=False)
class TextEvaluation:
    """The losses of one model on one text.

    Attributes:
        losses: Nats of every token but the first: float64, shape [tokens - 1] per document.
        tokens_digest: Equal for two models if they cut the text into the same tokens; only their losses may
            be subtracted token by token.
        n_bytes: Bytes of UTF-8 of the text that these tokens cover.
        seconds: How long the model took.
    """

    losses: tuple[Losses, ...]
    tokens_digest: str
    n_bytes: int
    seconds: float

    @cached_property
    def estimate(self) -> Estimate:
        """The loss in nats per token, with its error; see `fusion_slerp.evaluation.statistics`."""
        return estimate(self.losses)

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood in nats per token; NaN from broken weights."""
        return self.estimate.value

    @property
    def loss_stderr(self) -> float:
        """Standard error of the loss in nats per token; NaN from fewer than two tokens."""
        return self.estimate.stderr

    @property
    def perplexity(self) -> float:
        """The exponential of the loss; infinity where that exceeds a float64."""
        return perplexity(self.loss)

    @property
    def n_tokens(self) -> int:
        """How many tokens were scored."""
        return sum(map(len, self.losses))

    @property
    def tokens_per_s(self) -> float:
        """Scored tokens per second; depends on the machine, and on what else it does."""
        return self.n_tokens / self.seconds if self.seconds > 0 else math.nan

    @property
    def bits_per_byte(self) -> float:
        """Bits that the model spends on a byte of the text; compares models with different tokenizers."""
        return self.bits.value

    @property
    def bits(self) -> Estimate:
        """Bits per byte of the text, with their error."""
        per_token = self.n_tokens / math.log(2) / self.n_bytes if self.n_bytes else math.nan
        return self.estimate.scaled(per_token)

    @property
    def scores(self) -> dict[str, float]:
        """The figures of a report, as plain numbers."""
        return {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "loss_stderr": self.loss_stderr,
            "tokens": self.n_tokens,
            "tokens_per_s": self.tokens_per_s,
            "bits_per_byte": self.bits_per_byte,
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The losses of one model on all texts.

    Attributes:
        texts: By name of the text.
    """

    texts: Mapping[str, TextEvaluation] = field(default_factory=dict)

    @property
    def average(self) -> Estimate:
        """The mean loss over texts in nats per token, each text counting the same."""
        return mean_of([text.estimate for text in self.texts.values()])

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """The figures of a report: by text `loss`, `perplexity`, `loss_stderr`, `tokens`, `tokens_per_s` and
        `bits_per_byte`, and under `average` the means over texts of `loss` and `bits_per_byte`, each text
        counting the same, with the mean loss's `perplexity` and `loss_stderr`. Empty without texts.
        """
        if not self.texts:
            return {}
        by_text = {name: text.scores for name, text in self.texts.items()}
        loss = self.average
        bits = mean_of([text.bits for text in self.texts.values()]).value
        average = {"loss": loss.value, "perplexity": perplexity(loss.value), "loss_stderr": loss.stderr}
        return {**by_text, AVERAGE: {**average, "bits_per_byte": bits}}


def perplexity(loss: float) -> float:
    """Returns exp(loss), infinity where that exceeds a float64."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def difference(of: Evaluation, from_: Evaluation) -> dict[str, Estimate]:
    """Returns by how much the loss of one model differs from another's, in nats per token.

    Both models stumble over the same passages, so the losses are subtracted token by token before anything
    is averaged: the error of the difference is much smaller than those of the two losses.

    Args:
        of: The model in question; negative values say that it is better.
        from_: The model that it is compared with.

    Returns:
        By text, for those that both were evaluated on and cut into the same tokens; and `average`, if these
        are all texts.
    """
    shared = [name for name in of.texts if _is_paired(name, of, from_)]
    by_text = {name: estimate(_differences(of.texts[name], from_.texts[name])) for name in shared}
    is_whole = bool(shared) and len(shared) == len(of.texts) == len(from_.texts)
    return {**by_text, AVERAGE: mean_of(list(by_text.values()))} if is_whole else by_text


def difference_in_bits(of: Evaluation, from_: Evaluation) -> Estimate:
    """Returns by how much two models differ in bits per byte, as a mean over texts; for any tokenizers.

    Nothing is paired: the error is that of independent measurements, larger than need be.
    """
    one, other = (mean_of([text.bits for text in each.texts.values()]) for each in (of, from_))
    return mean_of([one, other.scaled(-1)]).scaled(2)


def _is_paired(name: str, *evaluations: Evaluation) -> bool:
    digests = {each.texts[name].tokens_digest if name in each.texts else None for each in evaluations}
    return len(digests) == 1


def _differences(of: TextEvaluation, from_: TextEvaluation) -> list[Losses]:
    return [a - b for a, b in zip(of.losses, from_.losses, strict=True)]


def difference_fields(differences: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    """Returns differences as plain numbers: `{text: {"value", "stderr", "low", "high", "n_blocks"}}`."""
    return {name: each.as_fields() for name, each in differences.items()}


def save(evaluation: Evaluation, file: str | os.PathLike[str]) -> None:
    """Writes an evaluation to a file, from which `load` reads it; the name should end in `.npz`.

    Raises:
        OSError: The file cannot be written.
    """
    facts = {
        name: {"tokens_digest": text.tokens_digest, "n_bytes": text.n_bytes, "seconds": text.seconds}
        for name, text in evaluation.texts.items()
    }
    arrays: dict[str, Any] = {"facts": np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)}
    for i, text in enumerate(evaluation.texts.values()):
        arrays[f"lengths_{i}"] = np.array([len(each) for each in text.losses], dtype=np.int64)
        arrays[f"losses_{i}"] = np.concatenate(text.losses) if text.losses else np.empty(0)
    with Path(file).open("wb") as stream:
        np.savez(stream, **arrays)


def load(file: str | os.PathLike[str]) -> Evaluation:
    """Returns an evaluation that `save` wrote.

    Raises:
        OSError: The file cannot be read.
        ValueError, KeyError: It is no such file, or damaged.
    """
    texts = {}
    with np.load(file, allow_pickle=False) as arrays:
        for i, (name, facts) in enumerate(json.loads(arrays["facts"].tobytes()).items()):
            ends = np.cumsum(arrays[f"lengths_{i}"])[:-1]
            texts[name] = TextEvaluation(tuple(_split(arrays[f"losses_{i}"], ends)), **facts)
    return Evaluation(texts)


def _split(losses: Losses, ends: Any) -> Iterable[Losses]:
    return np.split(losses, ends)
