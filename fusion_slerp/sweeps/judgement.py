"""What an evaluation found of a model, and by how much two models differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fusion_slerp.evaluation.evaluation import Evaluation, difference, difference_fields
from fusion_slerp.evaluation.harness_documents import (
    Documents,
    average_difference,
    main_metrics,
)
from fusion_slerp.evaluation.harness_documents import differences as task_differences
from fusion_slerp.evaluation.statistics import Estimate
from fusion_slerp.sweeps.scores import AVERAGE_SCORE, tasks_of

Differences = Mapping[str, Mapping[str, float]]
"""By text, `average`, `TASK.METRIC` and `average.score`: `value`, `stderr`, `low`, `high` and `n_blocks`."""


@dataclass(frozen=True, slots=True)
class Details:
    """What a model did on single tokens and documents, by which models are compared.

    Attributes:
        losses: The losses of the tokens of each text; None without texts.
        documents: The values of the documents of each task; None without tasks.
    """

    losses: Evaluation | None = None
    documents: Documents | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an evaluation found.

    Attributes:
        scores: The scores, nested; see `scores`.
        details: What they were computed from; empty for scores that cannot be compared in pairs.
        samples: What the model wrote: `{"prompt", "text"}` for each prompt.
    """

    scores: Mapping[str, Any]
    details: Details = Details()
    samples: tuple[Mapping[str, str], ...] = ()


def differences(of: Details, from_: Details, scores: Mapping[str, Any]) -> Differences:
    """Returns by how much one model's losses and scores exceed another's, paired by token and document.

    Args:
        of: The model that is judged.
        from_: The model that it is compared with.
        scores: Those of the first, or of any model that was evaluated alike.
    """
    found: dict[str, Estimate] = {}
    if of.losses is not None and from_.losses is not None:
        found |= difference(of.losses, from_.losses)
    if of.documents is not None and from_.documents is not None:
        by_task = task_differences(of.documents, from_.documents)
        for task, metrics in by_task.items():
            found |= {f"{task}.{metric}": each for metric, each in metrics.items()}
        average = average_difference(by_task, main_metrics(tasks_of(scores), of.documents))
        found |= {} if average is None else {AVERAGE_SCORE: average}
    return difference_fields(found)
