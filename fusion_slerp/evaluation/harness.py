"""Runs tasks of lm-evaluation-harness on a model that is loaded already.

With the same batch size, the scores equal those of the harness's own command on the saved model: the tasks,
the seeds and the type of the weights are the same. But nothing is loaded a second time, and the values of
single documents are kept, so that two models can be compared on the same documents.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fusion_slerp.errors import Problem, raise_all
from fusion_slerp.evaluation.harness_documents import Documents, HarnessEvaluation
from fusion_slerp.evaluation.harness_tasks import (
    SEED,
    OpenTasks,
    check_run,
    check_tasks,
    harness,
    open_tasks,
    quiet,
    random_states_kept,
)
from fusion_slerp.evaluation.losses import ready
from fusion_slerp.evaluation.settings import SO


@dataclass(frozen=True, slots=True)
class PreparedTasks:
    """Tasks with their data and each model's tokenizer; nothing more can be wrong with the settings.

    Attributes:
        tasks: The tasks.
        tokenizers: By name of the model.
        limit: As in `run_tasks`, as are all others.
    """

    tasks: OpenTasks
    tokenizers: Mapping[str, Any]
    limit: float | None = None
    batch_size: int = 1
    device: str = "auto"
    num_fewshot: int | None = None

    def evaluate(self, name: str, model: Any) -> HarnessEvaluation:
        """Returns the scores of a model; may be called again, for instance with other weights.

        Args:
            name: Which of the tokenizers it uses.
            model: Runs in its own type and in evaluation mode; then left unchanged.
        """
        return evaluate_tasks(
            model,
            self.tokenizers[name],
            self.tasks,
            self.limit,
            self.num_fewshot,
            self.batch_size,
            self.device,
        )


def run_tasks(
    model: Any,
    tokenizer: Any,
    tasks: str | Sequence[str],
    include_path: str | os.PathLike[str] | None = None,
    limit: float | None = None,
    num_fewshot: int | None = None,
    batch_size: int = 1,
    device: str = "auto",
    show_pbar: bool = False,
) -> dict[str, Any]:
    """Returns the scores of a model on tasks of lm-evaluation-harness, as plain JSON.

    Args:
        model: A transformers causal language model; left unchanged.
        tokenizer: Its tokenizer; left unchanged.
        tasks: As in `harness_tasks.open_tasks`; `fusion_slerp_demo` ships.
        include_path: A folder with more tasks.
        limit: Only the first documents of each task: how many, or a share if below 1. None takes all.
        num_fewshot: Examples before each question, except in tasks that fix it at 0. None: as the task says.
        batch_size: Requests in one forward pass. Changes scores by rounding only.
        device: A torch device, or `"auto"` as in `losses.ready`.
        show_pbar: Whether to show the harness's progress bars on standard error.

    Returns:
        `{"lm_eval": version, "limit", "batch_size", "tasks": {task: {"version", "num_fewshot", "n",
        "dataset": {"path", "name"} or None, "metrics": {metric: {"value", "stderr", "higher_is_better"}}}}}`,
        where `n` counts documents. A group of tasks that has a mean of its own is listed as a task. A metric
        of answers that went through a filter is named `metric,filter`. `stderr` is None where there is none.

    Raises:
        SettingsError: All at once: a setting is wrong; or as `harness_tasks.open_tasks`.
    """
    problems: list[Problem] = []
    check_tasks(tasks, include_path, problems)
    check_run(limit, num_fewshot, batch_size, device, problems)
    raise_all(problems, SO)
    opened = open_tasks(tasks, include_path)
    return evaluate_tasks(model, tokenizer, opened, limit, num_fewshot, batch_size, device, show_pbar).scores


def evaluate_tasks(
    model: Any,
    tokenizer: Any,
    tasks: OpenTasks,
    limit: float | None = None,
    num_fewshot: int | None = None,
    batch_size: int = 1,
    device: str = "auto",
    show_pbar: bool = False,
) -> HarnessEvaluation:
    """Returns what `run_tasks` does, and the values of single documents; for arguments, see there."""
    lm_eval = harness()
    tokenizer = copy.deepcopy(tokenizer)  # the harness gives it a padding token
    for task in tasks.tasks.values():
        _set_examples(task, num_fewshot)
    with quiet(show_pbar), random_states_kept(), ready(model, device):
        results = lm_eval.evaluate(
            lm_eval.models.huggingface.HFLM(model, tokenizer=tokenizer, batch_size=batch_size),
            {"tasks": dict(tasks.tasks), "groups": dict(tasks.groups)},
            limit=limit,
        )
    scores = {name: _task_scores(name, results, tasks) for name in results["results"]}
    scores = {
        name: each for name, each in scores.items() if each["metrics"]
    }  # groups without a mean have none
    run = {"lm_eval": str(lm_eval.__version__), "limit": limit, "batch_size": batch_size}
    return HarnessEvaluation({**run, "tasks": scores}, _documents(results["samples"], scores))


def _set_examples(task: Any, num_fewshot: int | None) -> None:
    """Sets the number of examples and the seed of their choice, by the rules of `lm_eval.simple_evaluate`.

    That function itself would collect facts about the machine after each run, which takes seconds.
    """
    given = task.get_config("num_fewshot")
    if given is None or (num_fewshot is not None and given != 0):
        task.set_config(key="num_fewshot", value=num_fewshot or 0)
    task.set_fewshot_seed(seed=SEED)


def _task_scores(name: str, results: Mapping[str, Any], tasks: OpenTasks) -> dict[str, Any]:
    measured = results["results"][name]
    better = results["higher_is_better"].get(name, {})
    metrics = {}
    for key, value in measured.items():
        metric, comma, filter_name = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            stderr = measured.get(f"{metric}_stderr,{filter_name}")
            metrics[_metric_name(metric, filter_name)] = {
                "value": float(value),
                "stderr": None if stderr in (None, "N/A") else float(stderr),
                "higher_is_better": better.get(metric),
            }
    task = tasks.tasks.get(name)
    return {
        "version": results["versions"].get(name),
        "num_fewshot": results["n-shot"].get(name),
        "n": measured.get("sample_len"),
        "dataset": _dataset(task.config) if task is not None else None,
        "metrics": metrics,
    }


def _metric_name(metric: str, filter_name: str) -> str:
    return metric if filter_name == "none" else f"{metric},{filter_name}"


def _dataset(config: Any) -> dict[str, str | None] | None:
    """The data set as the task's YAML names it; None where a function makes the data."""
    return {"path": config.dataset_path, "name": config.dataset_name} if config.dataset_path else None


def _documents(
    samples: Mapping[str, Sequence[Mapping[str, Any]]], scores: Mapping[str, Mapping[str, Any]]
) -> Documents:
    values: dict[str, dict[str, dict[str, float]]] = {}
    for name, documents in samples.items():
        by_metric: dict[str, dict[str, float]] = {}
        for document in documents:
            key = f"{document['doc_id']} {document['doc_hash']}"
            for metric in document["metrics"]:
                by_metric.setdefault(_metric_name(metric, document["filter"]), {})[key] = document[metric]
        values[name] = {
            metric: each
            for metric, each in by_metric.items()
            if _is_mean(each.values(), scores[name]["metrics"].get(metric))
        }
    return values


def _is_mean(values: Collection[Any], metric: Mapping[str, Any] | None) -> bool:
    """Whether a metric is the mean of the documents' values, so that their differences average to its own."""
    if metric is None or not all(isinstance(value, (bool, int, float)) for value in values):
        return False
    return math.isclose(math.fsum(values) / len(values), metric["value"], rel_tol=1e-9, abs_tol=1e-12)
