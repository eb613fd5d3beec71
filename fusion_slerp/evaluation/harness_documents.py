"""Scores on the harness's tasks with the values of single documents, and how two models differ on these."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusion_slerp.evaluation.statistics import Estimate, mean_of
from fusion_slerp.sources.json_files import Limits, read_json

Documents = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Task -> metric -> document -> value."""

LIMITS = Limits(500_000_000, 20_000_000, 500_000, 4)
"""Enough for all tasks of the harness: a file of documents may be a stranger's."""


@dataclass(frozen=True, slots=True)
class HarnessEvaluation:
    """How one model did on tasks.

    Attributes:
        scores: Plain JSON; see `harness.run_tasks`.
        documents: The values of single documents, for metrics that are means of them: not of perplexities, F1
            or the like. A document is named by its number and a hash of its content. Every task has an entry;
            groups of tasks have none.
    """

    scores: dict[str, Any]
    documents: Documents

    @property
    def average(self) -> dict[str, float | None]:
        """The mean of the tasks' main scores, each task counting the same: `score` and `score_stderr`.

        Groups are represented by their tasks. Empty if higher is not better in all main scores.
        """
        mains = [self.scores["tasks"][task]["metrics"][main] for task, main in self.main_metrics.items()]
        if not mains or len(mains) < len(self.documents) or not all(m["higher_is_better"] for m in mains):
            return {}
        value = math.fsum(main["value"] for main in mains) / len(mains)
        known = [main["stderr"] for main in mains if main["stderr"] is not None]
        stderr = math.hypot(*known) / len(mains) if len(known) == len(mains) else None
        return {"score": value, "score_stderr": stderr}

    @property
    def main_metrics(self) -> dict[str, str]:
        """The main metric of each task, which is its first; without groups."""
        return main_metrics(self.scores["tasks"], self.documents)


def main_metrics(tasks: Mapping[str, Any], documents: Documents) -> dict[str, str]:
    """Returns the main metric of each task, which is its first; without groups.

    Args:
        tasks: The scores by task.
        documents: The values of documents by task.
    """
    return {task: next(iter(tasks[task]["metrics"])) for task in documents if task in tasks}


def differences(of: Documents, from_: Documents) -> dict[str, dict[str, Estimate]]:
    """Returns by how much one model's scores exceed another's, by task and metric.

    They are paired by document; see `paired_differences`.
    """
    return {
        task: {
            metric: _difference(values, from_[task][metric])
            for metric, values in metrics.items()
            if metric in from_[task] and len(values) > 1
        }
        for task, metrics in of.items()
        if task in from_ and _same_documents(metrics, from_[task])
    }


def average_difference(
    by_task: Mapping[str, Mapping[str, Estimate]], mains: Mapping[str, str]
) -> Estimate | None:
    """Returns by how much the means of the main scores differ; None if that of a task is unknown.

    Args:
        by_task: The differences.
        mains: The main metric of every task.
    """
    known = [by_task[task][main] for task, main in mains.items() if main in by_task.get(task, {})]
    return mean_of(known) if known and len(known) == len(mains) else None


def paired_differences(of: HarnessEvaluation, from_: HarnessEvaluation) -> dict[str, dict[str, Any]]:
    """Returns by how much one model's scores exceed another's on the same documents, as plain JSON.

    Two models mostly agree on which documents are hard, so their difference is known better than either
    score. For accuracy, this is the comparison of McNemar's test. Documents count as independent of one
    another, as they do in the harness's own standard errors.

    Args:
        of: The model that is judged.
        from_: The model that it is compared with.

    Returns:
        `{task: {metric: {"value": of - from_, "stderr": s / sqrt(n), "low", "high": 95 % interval, "n"}}}`,
        where s is the sample standard deviation of the documents' differences, and the interval is Student's.
        Left out: tasks that were not run on the same documents, metrics that are not means, and single
        documents.
    """
    return {
        task: {metric: _fields(each) for metric, each in metrics.items()}
        for task, metrics in differences(of.documents, from_.documents).items()
    }


def _same_documents(a: Mapping[str, Mapping[str, float]], b: Mapping[str, Mapping[str, float]]) -> bool:
    return all(a[metric].keys() == b[metric].keys() for metric in a.keys() & b.keys())


def _difference(a: Mapping[str, float], b: Mapping[str, float]) -> Estimate:
    values = np.array([float(value) - float(b[key]) for key, value in a.items()])
    n = len(values)
    return Estimate(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(n), n, n - 1)


def _fields(found: Estimate) -> dict[str, float]:
    return {
        "value": found.value,
        "stderr": found.stderr,
        "low": found.low,
        "high": found.high,
        "n": found.n_blocks,
    }


def save_documents(documents: Documents, file: str | os.PathLike[str]) -> None:
    """Writes the values of documents to a JSON file, from which `load_documents` reads them.

    Raises:
        OSError: The file cannot be written.
    """
    plain = {
        task: {
            metric: {key: float(value) for key, value in values.items()} for metric, values in metrics.items()
        }
        for task, metrics in documents.items()
    }
    Path(file).write_text(json.dumps(plain), encoding="utf-8")


def load_documents(file: str | os.PathLike[str]) -> Documents:
    """Returns the values of documents that `save_documents` wrote.

    Raises:
        OSError: The file cannot be read.
        ValueError, RecursionError: It is no such file, or damaged.
    """
    content = read_json(Path(file), LIMITS)
    is_right = isinstance(content, dict) and all(
        isinstance(metrics, dict)
        and all(isinstance(values, dict) and _are_numbers(values) for values in metrics.values())
        for metrics in content.values()
    )
    if not is_right:
        raise ValueError("no values of documents")
    return content


def _are_numbers(values: Mapping[str, Any]) -> bool:
    return all(isinstance(value, (int, float)) for value in values.values())
