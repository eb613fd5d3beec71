"""The models that a sweep evaluates: what is known before their weights, and its parents, loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.vocabulary.child_tokenizer import tokenizer_files

if TYPE_CHECKING:
    from torch import nn

    from fusion_slerp.evaluation.evaluator import Candidate

MERGED = "merged"
"""The name of the merged model, whatever the point, among the models of an evaluation."""


def candidates(
    parents: Mapping[str, Checkpoint], plan: MergePlan, tokenizer: Any = None
) -> dict[str, Candidate]:
    """Returns the config and the tokenizer of every model, by label; that of the merged model is first.

    A parent that has no tokenizer of its own is evaluated with that of the merged model.

    Args:
        parents: The models by label.
        plan: The plan of any point.
        tokenizer: That of the merged model; None takes the one that its folder would have.
    """
    from transformers import AutoConfig, AutoTokenizer

    from fusion_slerp.evaluation.building import write_beside
    from fusion_slerp.evaluation.evaluator import Candidate

    with TemporaryDirectory() as folder:
        write_beside(plan, Path(folder))
        config = AutoConfig.from_pretrained(folder)
        merged = AutoTokenizer.from_pretrained(folder) if tokenizer is None else tokenizer
    found = {MERGED: Candidate(config, merged)}
    for label, parent in parents.items():
        own = tokenizer_files(parent.folder)
        of_parent = AutoTokenizer.from_pretrained(parent.folder) if own else merged
        found[label] = Candidate(AutoConfig.from_pretrained(parent.folder), of_parent)
    return found


def load_parent(parent: Checkpoint, dtype: str) -> nn.Module:
    """Returns a parent as a model.

    Args:
        parent: The model.
        dtype: The type of its weights: models are compared in one type, as rounding alone changes a loss.

    Raises:
        CheckpointError: The files lack weights, which transformers would fill with random numbers.
    """
    import torch

    from fusion_slerp.evaluation.models import load_model

    return load_model(str(parent.folder), getattr(torch, dtype))


@contextmanager
def without_bars() -> Iterator[None]:
    """Keeps transformers from showing a progress bar for each model that it loads."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()
