"""Evaluates models with all processes of a job: each does a part, and all get the whole result.

On texts, the batches are those of one process, and each goes through the model in one of the processes.
So the loss of a token does not depend on their number, and a single long document is shared as well.
Prompts and tasks are shared whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from fusion_slerp.cluster.dealing import dealt
from fusion_slerp.cluster.ranks import Ranks
from fusion_slerp.cluster.together import Together
from fusion_slerp.errors import MismatchError, Problem
from fusion_slerp.evaluation.comparing import Measuring
from fusion_slerp.evaluation.evaluation import Evaluation, TextEvaluation
from fusion_slerp.evaluation.evaluator import PreparedEvaluation
from fusion_slerp.evaluation.losses import Batch, batch_losses, batches, n_scored, put_losses, ready
from fusion_slerp.evaluation.statistics import Losses
from fusion_slerp.evaluation.tokens import Tokens

T = TypeVar("T")
Item = TypeVar("Item")


class Part(NamedTuple):
    """What one process found on a text.

    Attributes:
        losses: Of the scored tokens of its batches, one batch after the other: float64, nats.
        seconds: How long it took.
    """

    losses: Losses
    seconds: float


def evaluate_shared(prepared: PreparedEvaluation, name: str, model: nn.Module, ranks: Ranks) -> Evaluation:
    """Does the same as `prepared.evaluate` with all processes; each calls it with the same model.

    Args:
        prepared: The texts in the tokens of each model.
        name: Which of the prepared models' tokens it reads.
        model: As there.
        ranks: The processes.

    Returns:
        The same on every rank. The losses are those of one process, if the processes compute alike: kind of
        device, number of torch's threads. A text's seconds are those of the rank that took longest.

    Raises:
        FusionSlerpError: Of a failure elsewhere, with the rank and machine.
        MismatchError: The processes have different texts, tokenizers or windows.
    """
    if ranks.count == 1:
        return prepared.evaluate(name, model)
    texts, windows = prepared.tokens[name], asdict(prepared.windows)
    by_text = {text: list(batches(tokens.ids, **windows)) for text, tokens in texts.items()}
    rank_of = iter(dealt([_cost(batch) for each in by_text.values() for batch in each], ranks.count))
    owners = {text: [next(rank_of) for _ in each] for text, each in by_text.items()}
    with ranks.work() as together, ready(model, prepared.device):
        _compare({text: tokens.digest for text, tokens in texts.items()} | windows, together)
        for i, (text, each) in enumerate(by_text.items()):
            own = [batch for batch, owner in zip(each, owners[text], strict=True) if owner == ranks.rank]
            on_scored = prepared.following(text, sum(map(n_scored, own)))
            together.put(f"losses {i} {ranks.rank}", _measured(model, texts[text], own, together, on_scored))
        joined = {}
        for i, (text, tokens) in enumerate(texts.items()):
            parts = [together.wait_for(f"losses {i} {k}") for k in range(ranks.count)]
            joined[text] = _joined(tokens, by_text[text], owners[text], parts)
        return Evaluation(joined)


def samples_shared(
    prepared: PreparedEvaluation, name: str, model: nn.Module, ranks: Ranks
) -> list[dict[str, str]]:
    """Does the same as `prepared.samples` with all processes: each continues some of the prompts."""

    def continued(prompt: str) -> dict[str, str]:
        one = replace(prepared, prompts=replace(prepared.prompts, texts=(prompt,)))
        (sample,) = one.samples(name, model)
        return sample

    if ranks.count == 1 or not prepared.prompts.texts:
        return prepared.samples(name, model)
    with ready(model, prepared.device):
        return each_once(prepared.prompts.texts, continued, ranks)


def shared_by(ranks: Ranks) -> Measuring:
    """Returns how processes share an evaluation of models that all of them load: rank 0 runs the tasks."""
    return Measuring(
        lambda prepared, name, model: evaluate_shared(prepared, name, model, ranks),
        lambda prepared, name, model: samples_shared(prepared, name, model, ranks),
        ranks.on_first,
    )


def each_once(items: Sequence[Item], work: Callable[[Item], T], ranks: Ranks) -> list[T]:
    """Does work for each item, in one of the processes; returns the results of all on every rank.

    Args:
        items: The same on every rank; rank 0 takes the first one, rank 1 the second, and so on.
        work: Returns plain data.
        ranks: The processes.

    Raises:
        BaseException: What the work raises on this rank, or an error that names what it raises elsewhere.
    """
    if ranks.count == 1:
        return [work(item) for item in items]
    with ranks.work() as together:
        for i in range(ranks.rank, len(items), ranks.count):
            together.check()
            together.put(f"result {i}", work(items[i]))
        return [together.wait_for(f"result {i}") for i in range(len(items))]


def _cost(batch: Batch) -> int:
    """The tokens that the model reads."""
    return sum(window.stop - window.start for _, window in batch)


def _measured(
    model: nn.Module,
    tokens: Tokens,
    own: Sequence[Batch],
    together: Together,
    on_scored: Callable[[int], object],
) -> Part:
    began = time.perf_counter()
    losses = [np.empty(0)]
    for batch in own:
        together.check()
        losses.append(batch_losses(model, tokens.ids, batch).numpy().ravel())
        on_scored(n_scored(batch))
    return Part(np.concatenate(losses), time.perf_counter() - began)


def _joined(
    tokens: Tokens, all_batches: Sequence[Batch], owners: Sequence[int], parts: Sequence[Part]
) -> TextEvaluation:
    """The losses of all processes, in the order of the documents."""
    losses = [torch.empty(max(len(ids) - 1, 0), dtype=torch.float64) for ids in tokens.ids]
    left: list[Tensor] = [torch.from_numpy(part.losses.copy()) for part in parts]
    for batch, owner in zip(all_batches, owners, strict=True):
        n_each = batch[0][1].stop - batch[0][1].first_scored
        scored, left[owner] = left[owner].tensor_split([len(batch) * n_each])
        put_losses(losses, batch, scored.view(len(batch), n_each))
    seconds = max(part.seconds for part in parts)
    return TextEvaluation(tuple(each.numpy() for each in losses), tokens.digest, tokens.n_bytes, seconds)


def _compare(own: Mapping[str, Any], together: Together) -> None:
    """Returns if all processes are about to evaluate the same."""
    ranks = together.ranks
    if ranks.is_first:
        together.put("facts", dict(own))
        return
    first = together.wait_for("facts")
    others = [name for name in {**first, **own} if first.get(name) != own.get(name)]
    if others:
        fields = (("rank", f"{ranks.rank}, on {ranks.hosts[ranks.rank]}"), ("differs in", ", ".join(others)))
        fix = "give all processes the same texts, models and settings"
        raise Problem(
            MismatchError, "the processes are about to evaluate different tokens", fields, fix
        ).error()
