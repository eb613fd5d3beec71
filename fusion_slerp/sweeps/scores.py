"""The scores of a model in a record: numbers at paths, and which of them paired differences compare.

plays.loss                           of a text
average.loss                         the mean over texts
fusion_slerp_demo.acc                of a task; tasks.fusion_slerp_demo.metrics.acc.value is the same
average.score                        the mean of the tasks' main scores
anything.else                        a number in the report of a task pool
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fusion_slerp.evaluation.evaluation import AVERAGE

TASKS = "tasks"
"""The key of the tasks' scores, which are those of `evaluation.harness.run_tasks`."""

AVERAGE_LOSS, AVERAGE_SCORE = f"{AVERAGE}.loss", f"{AVERAGE}.score"

LOSSES = ("loss", "perplexity")
"""Scores of texts that paired differences of losses compare."""

IN_FULL = re.compile(rf"{TASKS}\.(.+)\.metrics\.(.+)\.value")


def score_at(scores: Mapping[str, Any], path: str) -> float | None:
    """Returns the number at a path of keys, joined by dots; None if there is none. Keys may contain dots."""
    found = _number_at(scores, path)
    return found if found is not None else _number(_task_metric(scores, path).get("value"))


def stderr_at(scores: Mapping[str, Any], path: str) -> float | None:
    """Returns the standard error of the score at a path; None if it is unknown."""
    if path.endswith(".loss") or path == AVERAGE_SCORE:
        return _number_at(scores, f"{path}_stderr")
    return _number(_task_metric(scores, path).get("stderr"))


def higher_is_better(scores: Mapping[str, Any], path: str) -> bool | None:
    """Whether a higher score is better at a path; None if it is no task's, or the task does not say."""
    return _task_metric(scores, path).get("higher_is_better")


def short(path: str) -> str:
    """Returns the path of a task's score as `TASK.METRIC`; any other path unchanged."""
    found = IN_FULL.fullmatch(path)
    return f"{found[1]}.{found[2]}" if found else path


def text_of(metric: Mapping[str, str]) -> str | None:
    """Returns the text (or `average`) whose differences compare a metric; None if it is not a loss."""
    text, _, score = metric["name"].rpartition(".")
    return text if text and score in LOSSES else None


def difference_key(metric: Mapping[str, str]) -> str:
    """Returns the key of the differences that compare a metric: a text, or the short path of the score."""
    text = text_of(metric)
    return short(metric["name"]) if text is None else text


def tasks_of(scores: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the scores by task; empty without."""
    found = scores.get(TASKS)
    is_ours = isinstance(found, Mapping) and all(
        isinstance(each, Mapping) and isinstance(each.get("metrics"), Mapping) for each in found.values()
    )
    return found if isinstance(found, Mapping) and is_ours else {}


def has_losses(scores: Mapping[str, Any]) -> bool:
    """Whether scores are of texts, so that losses of tokens belong to them."""
    return any(isinstance(each, Mapping) and "loss_stderr" in each for each in scores.values())


def _task_metric(scores: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """The value, error and direction of a task's score; empty if the path is none's."""
    path = short(path)
    for task, each in tasks_of(scores).items():
        if path.startswith(f"{task}.") and path[len(task) + 1 :] in each["metrics"]:
            return each["metrics"][path[len(task) + 1 :]]
    return {}


def _number_at(scores: Mapping[str, Any], path: str) -> float | None:
    if (value := _number(scores.get(path))) is not None:
        return value
    for end in (i for i, letter in enumerate(path) if letter == "."):
        inner = scores.get(path[:end])
        if isinstance(inner, Mapping) and (found := _number_at(inner, path[end + 1 :])) is not None:
            return found
    return None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
