"""Exact loss and perplexity of a causal language model on texts, with a window that moves in strides.

Source: https://huggingface.co/docs/transformers/perplexity ("Perplexity of fixed-length models"). The
windows are the same. There each window's mean is weighted with a count that is one too small for every
window but the first; here the losses of single tokens are summed, so grouping them changes nothing.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

DEFAULT_CONTEXT_LENGTH = 1024
ROWS_PER_SOFTMAX = 256
"""Positions whose logits are converted to float32 together: 134 MB for a vocabulary of 131,072."""


@dataclass(frozen=True, slots=True)
class Window:
    """A range of a document that the model sees at once, as token positions in the document.

    Attributes:
        start: First position seen.
        stop: One past the last position seen; every position from `first_scored` on is scored.
        first_scored: First position whose loss counts, greater than `start`; those before it are context.
    """

    start: int
    stop: int
    first_scored: int


Batch = list[tuple[int, Window]]
"""Windows that go through the model together, each with the index of its document."""


def position_limit(config: Any) -> int | None:
    """Returns how many positions a model supports, or None if its config gives no limit."""
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        limit = getattr(config, name, None)
        if isinstance(limit, int) and limit > 0:
            return limit
    return None


def windows(n_tokens: int, context_length: int, stride: int) -> Iterator[Window]:
    """Yields windows that score each position from 1 to `n_tokens - 1` exactly once.

    Position 0 has nothing before it and is not scored. Each window starts `stride` after the previous one and
    scores what that one has not; the first scores all it can, and the last ends with the document and may be
    shorter.

    Args:
        n_tokens: Length of the document, at least 0.
        context_length: Maximum positions in a window, at least 2.
        stride: From 1 to `context_length - 1`, so that the first scored position has one before it.
    """
    assert 1 <= stride < context_length
    first_scored = 1
    for start in range(0, n_tokens, stride):
        stop = min(start + context_length, n_tokens)
        if first_scored < stop:
            yield Window(start, stop, first_scored)
        if stop == n_tokens:
            return
        first_scored = stop


def token_losses(
    model: nn.Module,
    documents: Sequence[Tensor],
    *,
    context_length: int,
    stride: int,
    batch_size: int,
    only: Container[tuple[int, int]] | None = None,
    on_scored: Callable[[int], object] = lambda n: None,
) -> list[Tensor]:
    """Returns the loss of every token but the first, for each document.

    Windows of equal shape share a batch, so nothing is padded. If the model takes `logits_to_keep`, only
    the scored positions go through its head: half of them, with the usual stride of half a context.

    Args:
        model: A causal language model in evaluation mode; it runs where its parameters are, in their dtype.
        documents: Token ids, int64, shape [tokens].
        context_length: Positions per window, see `windows`.
        stride: Positions from one window to the next, see `windows`.
        batch_size: Maximum windows in one forward pass.
        only: Score only these windows, each by its document's index and its first scored position; None
            scores all.
        on_scored: Called after each forward pass with the number of tokens that it scored.

    Returns:
        Nats, one fresh float64 tensor on the CPU per document, shape [max(tokens - 1, 0)]; NaN for tokens
        that were not scored. The log-softmax is float32, from logits in the model's dtype.
    """
    losses = [torch.full((max(len(ids) - 1, 0),), math.nan, dtype=torch.float64) for ids in documents]
    for batch in batches(documents, context_length, stride, batch_size, only):
        put_losses(losses, batch, batch_losses(model, documents, batch))
        on_scored(n_scored(batch))
    return losses


def batches(
    documents: Sequence[Tensor],
    context_length: int,
    stride: int,
    batch_size: int,
    only: Container[tuple[int, int]] | None = None,
) -> Iterator[Batch]:
    """Yields batches of windows of one length that score the same number of tokens; see `token_losses`."""
    groups: dict[tuple[int, int], Batch] = {}
    for index, ids in enumerate(documents):
        for window in windows(len(ids), context_length, stride):
            if only is not None and (index, window.first_scored) not in only:
                continue
            shape = (window.stop - window.start, window.stop - window.first_scored)
            groups.setdefault(shape, []).append((index, window))
    for group in groups.values():
        for first in range(0, len(group), batch_size):
            yield group[first : first + batch_size]


def n_scored(batch: Batch) -> int:
    """The tokens that a batch scores."""
    return sum(window.stop - window.first_scored for _, window in batch)


def batch_losses(model: nn.Module, documents: Sequence[Tensor], batch: Batch) -> Tensor:
    """Returns the losses of a batch's scored tokens in one forward pass.

    Returns:
        Nats, fresh, on the CPU: float64, shape [windows, scored tokens of each].
    """
    ids = torch.stack([documents[index][window.start : window.stop] for index, window in batch])
    n_last = batch[0][1].stop - batch[0][1].first_scored
    # no_grad, not inference_mode: tensors that the model caches meanwhile must stay usable in training.
    with torch.no_grad():
        scored = _scored_losses(model, ids.to(next(model.parameters()).device), n_last)
    return scored.cpu().double()


def put_losses(losses: Sequence[Tensor], batch: Batch, scored: Tensor) -> None:
    """Puts the losses of a batch where they belong.

    Args:
        losses: Of each document's tokens but the first; changed.
        batch: The batch.
        scored: As `batch_losses` returns them.
    """
    for (index, window), row in zip(batch, scored, strict=True):
        losses[index][window.first_scored - 1 : window.stop - 1] = row


def _scored_losses(model: nn.Module, ids: Tensor, n_scored: int) -> Tensor:
    """Returns the losses of the last `n_scored` tokens of each row: float32, shape [rows, n_scored]."""
    cheaper = {"use_cache": False, "logits_to_keep": n_scored + 1}
    known = inspect.signature(model.forward).parameters
    output = model(input_ids=ids, **{name: value for name, value in cheaper.items() if name in known})
    # The logits at one position predict the next token, so those at the last position have no target.
    logits, targets = output.logits[:, -n_scored - 1 : -1], ids[:, -n_scored:]
    losses = [
        cross_entropy(some_logits.float(), some_targets, reduction="none")
        for row_logits, row_targets in zip(logits, targets, strict=True)
        for some_logits, some_targets in zip(
            row_logits.split(ROWS_PER_SOFTMAX), row_targets.split(ROWS_PER_SOFTMAX), strict=True
        )
    ]
    return torch.cat(losses).view(targets.shape)


@contextmanager
def ready(model: nn.Module, device: str) -> Iterator[None]:
    """Keeps the model in evaluation mode on a device, then restores its previous state.

    Args:
        model: Changed in place. A model on several devices stays on them.
        device: A torch device, or `"auto"`: the accelerator that the model is on, else CUDA if available,
            else the CPU.
    """
    home = next(model.parameters()).device
    spread = len({parameter.device for parameter in model.parameters()}) > 1
    target = home if spread else _choose(device, home)
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        if target != home:
            model.to(target)
        yield
    finally:
        if target != home:
            model.to(home)
        for module, training in modes:
            module.training = training


def _choose(device: str, home: torch.device) -> torch.device:
    if device != "auto":
        return torch.device(device)
    if home.type != "cpu":
        return home
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
