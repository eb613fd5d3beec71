"""Exact loss and perplexity of a causal language model on texts, with a window that moves in strides.

Source: https://huggingface.co/docs/transformers/perplexity ("Perplexity of fixed-length models"). The
windows are the same. There each window's mean is weighted with a count that is one too small for every
window but the first; here the losses of single tokens are summed, so grouping them changes nothing.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
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


@dataclass(frozen=True, slots=True)
class TextScore:
    """How well a model predicts one text.

    Attributes:
        loss: Mean negative log-likelihood of the scored tokens, in nats per token; NaN from broken weights.
        perplexity: exp(loss); infinity where that exceeds a float64.
        loss_stderr: Standard error of `loss` in nats: the sample standard deviation of the token losses
            divided by sqrt(tokens), NaN for a single token. It assumes that tokens are independent, which
            neighbours in a text are not, so it is somewhat too small. Nor does it test whether two models
            differ: on the same tokens their difference varies less than either loss.
        tokens: How many tokens were scored: all but the first of each document.
    """

    loss: float
    perplexity: float
    loss_stderr: float
    tokens: int


def read_documents(path: Path) -> list[str]:
    """Returns the documents of a file: a `.txt` is one document, a `.jsonl` has one per line, under `text`.

    Both are UTF-8, with or without a byte order mark. Line ends are kept as they are; blank lines of a
    `.jsonl` are skipped.

    Raises:
        ValueError: There is no such file, it is of another kind or not UTF-8, a line is not JSON or
            lacks `text` (the first such line is named), or there is no text at all.
    """
    if path.suffix not in (".txt", ".jsonl"):
        raise ValueError(f"the name ends in {path.suffix!r}; it must end in .txt or .jsonl")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}: {error.reason}") from error
    documents = [text] if path.suffix == ".txt" else list(_json_texts(text))
    if not any(document.strip() for document in documents):
        raise ValueError("it contains no text")
    return documents


def _json_texts(lines: str) -> Iterator[str]:
    # Not splitlines(): a JSON string may contain U+2028 and similar characters.
    for number, line in enumerate(lines.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is not JSON: {error}") from error
        if not (isinstance(record, dict) and isinstance(record.get("text"), str)):
            raise ValueError(f"line {number} has no field `text` with a string")
        yield record["text"]


def encode(
    tokenizer: Callable[..., Any], documents: Sequence[str], max_tokens: int | None = None
) -> list[Tensor]:
    """Returns the token ids of each document, with the special tokens that the tokenizer adds by default.

    Args:
        tokenizer: A transformers tokenizer.
        documents: The texts, in reading order.
        max_tokens: Read at most this many tokens in all; the document in which they end is truncated, and
            later ones are left out.

    Returns:
        One fresh int64 tensor on the CPU per document, shape [tokens of the document].
    """
    encoded, n_tokens = [], 0
    for document in documents:
        if max_tokens is not None and n_tokens >= max_tokens:
            break
        # verbose=False: no warning that the document exceeds the model's context; windows take care of that.
        ids = tokenizer(document, verbose=False)["input_ids"]
        if max_tokens is not None:
            ids = ids[: max_tokens - n_tokens]
        n_tokens += len(ids)
        encoded.append(torch.tensor(ids, dtype=torch.int64))
    return encoded


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
    model: nn.Module, documents: Sequence[Tensor], *, context_length: int, stride: int, batch_size: int
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

    Returns:
        Nats, one fresh float64 tensor on the CPU per document, shape [max(tokens - 1, 0)]. The log-softmax is
        float32, from logits in the model's dtype.
    """
    device = next(model.parameters()).device
    losses = [torch.full((max(len(ids) - 1, 0),), math.nan, dtype=torch.float64) for ids in documents]
    # no_grad, not inference_mode: tensors that the model caches meanwhile must stay usable in training.
    with torch.no_grad():
        for batch in _batches(documents, context_length, stride, batch_size):
            ids = torch.stack([documents[index][window.start : window.stop] for index, window in batch])
            n_scored = batch[0][1].stop - batch[0][1].first_scored
            scored = _scored_losses(model, ids.to(device), n_scored).cpu().double()
            for (index, window), row in zip(batch, scored, strict=True):
                losses[index][window.first_scored - 1 : window.stop - 1] = row
    return losses


def _batches(
    documents: Sequence[Tensor], context_length: int, stride: int, batch_size: int
) -> Iterator[list[tuple[int, Window]]]:
    """Yields batches of (document, window) of the same length that score the same number of tokens."""
    groups: dict[tuple[int, int], list[tuple[int, Window]]] = {}
    for index, ids in enumerate(documents):
        for window in windows(len(ids), context_length, stride):
            shape = (window.stop - window.start, window.stop - window.first_scored)
            groups.setdefault(shape, []).append((index, window))
    for group in groups.values():
        for first in range(0, len(group), batch_size):
            yield group[first : first + batch_size]


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


def summary(losses: Sequence[Tensor]) -> TextScore:
    """Returns the score of one text from the token losses of its documents, with sums in float64."""
    flat = torch.cat(list(losses)).double()
    loss = flat.mean().item()
    spread = flat.std(correction=1).item() if len(flat) > 1 else math.nan
    return TextScore(loss, perplexity(loss), spread / math.sqrt(len(flat)), len(flat))


def average(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Returns the mean loss over texts, each text counting the same, and its exponential."""
    loss = sum(score["loss"] for score in scores.values()) / len(scores)
    return {"loss": loss, "perplexity": perplexity(loss)}


def perplexity(loss: float) -> float:
    """Returns exp(loss), infinity where that exceeds a float64."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def verdict(losses: Mapping[str, float], merged: str) -> str:
    """Returns in one sentence how the merged model compares with the best of the others.

    Args:
        losses: Average loss by model, in nats per token; models that do not compare are left out.
        merged: Which of them is the merged model.
    """
    loss = losses[merged]
    others = {name: loss for name, loss in losses.items() if name != merged and math.isfinite(loss)}
    if not math.isfinite(loss):
        return f"{merged}: the average loss is {loss}; check the weights for NaN or infinity"
    if not others:
        return f"{merged}: average loss {loss:.3f}; there is no other model to compare it with"
    rival = min(others, key=others.__getitem__)
    gap = loss - others[rival]
    if round(abs(gap), 3) == 0:
        return f"{merged}: average loss {loss:.3f}, the same as the best baseline, {rival}"
    if gap < 0:
        return f"{merged}: lowest average loss ({loss:.3f}), {-gap:.3f} below the best baseline, {rival}"
    return f"{merged}: average loss {loss:.3f}, {gap:.3f} above the best baseline, {rival}"


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
