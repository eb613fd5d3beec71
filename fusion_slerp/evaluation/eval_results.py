"""Scores on benchmarks as the Hub reads them: YAML files in `.eval_results/` of a model's folder.

Source: https://huggingface.co/docs/hub/eval-results. A score belongs to a data set on the Hub and to a task
that the data set's own `eval.yaml` declares. So scores on local texts, perplexities among them, cannot be
published in this form.

The folder is hidden, so `fusion_slerp verify` does not count its files as unexpected.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from fusion_slerp.errors import OutputError, Problem
from fusion_slerp.hashes import BESIDE, digest_of

FOLDER = ".eval_results"
MADE_BY = "# Written by fusion_slerp, which replaces it unless it was edited: "


@dataclass(frozen=True, slots=True)
class EvalResults:
    """What was written, and why other scores were not.

    Attributes:
        files: The files that were written, by task.
        left_out: The reason, by task.
    """

    files: Mapping[str, Path]
    left_out: Mapping[str, str]


def write_eval_results(
    folder: str | os.PathLike[str],
    scores: Mapping[str, Any],
    *,
    task_ids: Mapping[str, str] | None = None,
    metrics: Mapping[str, str] | None = None,
    date: str | None = None,
) -> EvalResults:
    """Writes one file per task whose data set is on the Hub, to `.eval_results/` in a model's folder.

    The value is the harness's: accuracies lie between 0 and 1. The notes of an entry name the harness's
    version, the task's, the metric, its standard error and the number of examples.

    Args:
        folder: The model's folder.
        scores: The model's scores, as `harness.run_tasks` returns them.
        task_ids: The Hub's name of a task, as in the `eval.yaml` of its data set, by the harness's name. By
            default the configuration of the data set, or `default` where the task's YAML names none.
        metrics: The metric to publish, by task; by default the first.
        date: When the scores were measured, in ISO 8601; by default now.

    Raises:
        OutputError: There is no such folder, or its `.eval_results` is not a folder.
    """
    target = _target(Path(folder))
    date = date or datetime.now(timezone.utc).isoformat(timespec="seconds")
    files: dict[str, Path] = {}
    left_out: dict[str, str] = {}
    for name, task in scores["tasks"].items():
        path = target / f"{name.replace(os.sep, '-')}.yaml"
        metric = (metrics or {}).get(name) or next(iter(task["metrics"]))
        if reason := _unfit(scores, task, metric, path):
            left_out[name] = reason
            continue
        dataset = task["dataset"]
        task_id = (task_ids or {}).get(name) or dataset["name"] or "default"
        _write(
            path,
            {
                "dataset": {"id": dataset["path"], "task_id": task_id},
                "value": task["metrics"][metric]["value"],
                "date": date,
                "notes": _notes(name, task, metric, scores["lm_eval"]),
            },
        )
        files[name] = path
    return EvalResults(files, left_out)


def _target(folder: Path) -> Path:
    target = folder / FOLDER
    if not folder.is_dir() or (target.exists() and not target.is_dir()):
        wrong = target if folder.is_dir() else folder
        fields = (("found", f"{wrong}: no folder"), ("needed", "a merged model's folder"))
        fix = (
            f"mv {wrong} {wrong}.old"
            if folder.is_dir()
            else "name the folder of the model that was evaluated"
        )
        raise Problem(OutputError, "the evaluation results cannot be written", fields, fix).error()
    return target


def _unfit(scores: Mapping[str, Any], task: Mapping[str, Any], metric: str, path: Path) -> str:
    """Why a score is not published; empty if it is."""
    dataset = (task["dataset"] or {}).get("path") or ""
    if dataset.count("/") != 1 or os.path.exists(dataset):
        return (
            f"its data set is not one of the Hub: {dataset}" if dataset else "its data set is not on the Hub"
        )
    if scores["limit"] is not None:
        return f"it was measured on {task['n']} documents only (limit={scores['limit']})"
    if metric not in task["metrics"]:
        return f"it has no metric {metric!r}, but {', '.join(task['metrics'])}"
    if path.exists() and not _is_unedited(path):
        return f"{FOLDER}/{path.name} was written or edited by others"
    return ""


def _notes(name: str, task: Mapping[str, Any], metric: str, version: str) -> str:
    stderr = task["metrics"][metric]["stderr"]
    error = f" ± {stderr:.2g}" if stderr is not None else ""
    known = f"{name} {task['version']}" if task["version"] is not None else name
    return f"lm-evaluation-harness {version}, {known}, {metric}{error}, {task['num_fewshot']}-shot"


def _write(path: Path, entry: Mapping[str, Any]) -> None:
    content = yaml.safe_dump([entry], sort_keys=False, allow_unicode=True)
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(f"{MADE_BY}{digest_of(content.encode(), BESIDE)}\n{content}", encoding="utf-8")
    partial.replace(path)


def _is_unedited(path: Path) -> bool:
    """Whether a file is as `_write` left it: its first line has the digest of the others."""
    head, _, content = path.read_bytes().partition(b"\n")
    return head == f"{MADE_BY}{digest_of(content, BESIDE)}".encode()
