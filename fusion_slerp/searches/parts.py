"""Evaluates a model in parts of the texts, so that a bad one can be stopped after the first.

Each text is cut into the windows in which models read it. They are shuffled, in the same order for every
model, and dealt out to the parts, so each part is a sample of all passages of all texts.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_slerp.evaluation.evaluation import Evaluation, TextEvaluation

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from fusion_slerp.evaluation.evaluator import PreparedEvaluation
    from fusion_slerp.evaluation.tokens import Tokens

N_PARTS = 8
"""Parts of an evaluation: a trial that stops after the first costs an eighth of an evaluation."""

SHUFFLE = 0
"""Seed of the order of the windows, which is the same in all searches."""

Windows = frozenset[tuple[int, int]]
"""Windows of a text: the index of the document, and the first position that is scored."""

Scored = Mapping[str, tuple["NDArray[np.int32]", ...]]
"""Which window scored each token of a text, counted from 1; 0 for none: shape [tokens - 1] per document."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The losses of a model on the parts it has seen.

    Attributes:
        evaluation: The losses; those of other tokens are NaN.
        scored: Which are known, by window.
        n_parts: How many parts that are.
        share: Windows seen, as a fraction of all: the cost in evaluations.
    """

    evaluation: Evaluation
    scored: Scored
    n_parts: int
    share: float

    @property
    def is_whole(self) -> bool:
        """Whether these are all parts."""
        return self.share == 1

    def of(self, evaluation: Evaluation) -> Evaluation:
        """Returns a model's losses of these tokens alone, with each window as a document of its own: these
        were drawn at random, so differences between them count as chance.
        """
        texts = {}
        for name, text in evaluation.texts.items():
            scored = self.scored[name]
            windows = (each for pair in zip(text.losses, scored, strict=True) for each in _windows_of(*pair))
            digest = f"{text.tokens_digest}, {self.n_parts} parts"
            texts[name] = TextEvaluation(tuple(windows), digest, text.n_bytes, text.seconds)
        return Evaluation(texts)


def _windows_of(losses: NDArray[np.float64], scored: NDArray[np.int32]) -> Iterator[NDArray[np.float64]]:
    """Yields the losses of each window that was scored."""
    known = scored > 0
    changes = np.flatnonzero(np.diff(scored[known])) + 1
    if known.any():
        yield from np.split(losses[known], changes)


def deal(
    tokens: Mapping[str, Tokens], context_length: int, stride: int, n_parts: int = N_PARTS
) -> tuple[Mapping[str, Windows], ...]:
    """Returns the parts: the windows of each text in each; as many as the shortest text has windows, at most.

    Args:
        tokens: The texts in tokens.
        context_length: Positions that a model sees at once.
        stride: Positions from one window to the next.
        n_parts: The number of parts, unless a text is shorter.
    """
    from fusion_slerp.evaluation.losses import windows

    shuffled = {}
    for name, each in tokens.items():
        found = [
            (index, window.first_scored)
            for index, ids in enumerate(each.ids)
            for window in windows(len(ids), context_length, stride)
        ]
        random.Random(SHUFFLE).shuffle(found)
        shuffled[name] = found
    n_parts = min([n_parts, *map(len, shuffled.values())])
    return tuple(
        {name: frozenset(found[part::n_parts]) for name, found in shuffled.items()} for part in range(n_parts)
    )


def evaluate_parts(
    evaluation: PreparedEvaluation,
    name: str,
    model: nn.Module,
    parts: Sequence[Mapping[str, Windows]],
) -> Iterator[Seen]:
    """Yields what is known of a model after each part.

    Args:
        evaluation: The texts.
        name: Which of the prepared models' tokens it reads.
        model: The model.
        parts: The parts; see `deal`.
    """
    from fusion_slerp.evaluation.losses import ready, token_losses

    tokens = evaluation.tokens[name]
    losses = {
        text: [np.full(max(len(ids) - 1, 0), np.nan) for ids in each.ids] for text, each in tokens.items()
    }
    scored = {text: [np.zeros(len(each), np.int32) for each in found] for text, found in losses.items()}
    seconds = dict.fromkeys(tokens, 0.0)
    n_windows = sum(len(windows) for part in parts for windows in part.values())
    n_seen = 0
    with ready(model, evaluation.device):
        for number, part in enumerate(parts, start=1):
            for text, windows in part.items():
                began = time.perf_counter()
                found = token_losses(model, tokens[text].ids, **asdict(evaluation.windows), only=windows)
                seconds[text] += time.perf_counter() - began
                _note(found, windows, evaluation, tokens[text], losses[text], scored[text])
                n_seen += len(windows)
            yield Seen(_evaluation(tokens, losses, seconds), _frozen(scored), number, n_seen / n_windows)


def _note(
    found: Sequence[Any],
    windows: Windows,
    evaluation: PreparedEvaluation,
    tokens: Tokens,
    losses: list[NDArray[np.float64]],
    scored: list[NDArray[np.int32]],
) -> None:
    """Copies the losses that a part's windows score, which may be NaN, to those that are known."""
    from fusion_slerp.evaluation.losses import windows as windows_of

    given = evaluation.windows
    for index, ids in enumerate(tokens.ids):
        every = windows_of(len(ids), given.context_length, given.stride)
        for number, window in enumerate(every, start=1):
            if (index, window.first_scored) in windows:
                tokens_of = slice(window.first_scored - 1, window.stop - 1)
                losses[index][tokens_of] = found[index].numpy()[tokens_of]
                scored[index][tokens_of] = number


def _evaluation(
    tokens: Mapping[str, Tokens], losses: Mapping[str, Any], seconds: Mapping[str, float]
) -> Evaluation:
    return Evaluation(
        {
            name: TextEvaluation(tuple(losses[name]), each.digest, each.n_bytes, seconds[name])
            for name, each in tokens.items()
        }
    )


def _frozen(scored: Mapping[str, list[NDArray[np.int32]]]) -> Scored:
    return {name: tuple(windows.copy() for windows in each) for name, each in scored.items()}
