"""Scores of models on texts as a report shows them, from `evaluation.json` or the record of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, isfinite
from pathlib import Path
from typing import Any

from fusion_slerp.drawing.rows import significant
from fusion_slerp.errors import Problem, SettingsError
from fusion_slerp.output.lineage import public_name
from fusion_slerp.sources.json_files import Limits, read_json

FILE = "evaluation.json"
AVERAGE = "average"

LIMITS = Limits(100_000_000, 6_000_000, 1_000_000, 20)
"""Enough for the samples and scores of hundreds of models: the folder may be a stranger's."""

SCORES = ("loss_stderr", "perplexity", "bits_per_byte", "tokens", "tokens_per_s")
"""Of a text, next to its loss."""

MAX_SAMPLE = 20_000
"""Characters of a prompt or a sample that are shown."""


def read_evaluation(file: Path) -> dict[str, Any]:
    """Returns the scores, differences and samples in a file that `fusion_slerp evaluate` wrote.

    Raises:
        SettingsError: It cannot be read.
    """
    try:
        content = read_json(file, LIMITS)
        models = content["models"]
        scores = {str(n): {**each["scores"], **(each.get("tasks") or {})} for n, each in models.items()}
        samples = {str(label): each.get("samples") or [] for label, each in models.items()}
        return {
            **scored(scores),
            "differences": paired(content.get("differences") or {}),
            "samples": side_by_side(samples),
        }
    except FileNotFoundError:
        found = "no such file"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        found = f"not readable: {error}"
    fields = (("file", file), ("found", found))
    fix = "name a file that fusion_slerp evaluate wrote with -o"
    raise Problem(SettingsError, "no readable evaluation", fields, fix).error()


def with_labels(evaluation: Mapping[str, Any], models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns an evaluation with the labels of a report in place of its models' names.

    Args:
        evaluation: See `read_evaluation`.
        models: The report's models, with `label` and `name`. Others keep their names, without their folders.
    """
    labels = {str(each["name"]): str(each["label"]) for each in models}

    def label(name: str) -> str:
        public = public_name(name)
        return labels.get(public, name if name in order else public)

    order = [str(each["label"]) for each in models]

    def sorted_by_label(values: Mapping[str, Any]) -> dict[str, Any]:
        named = {label(name): each for name, each in values.items()}
        return {
            each: named[each]
            for each in [*(e for e in order if e in named), *(n for n in named if n not in order)]
        }

    return {
        **evaluation,
        **{kind: sorted_by_label(evaluation[kind]) for kind in ("models", "tasks")},
        "differences": [
            {**each, "of": label(each["of"]), "from": label(each["from"])}
            for each in evaluation["differences"]
        ],
        "samples": [{**each, "texts": sorted_by_label(each["texts"])} for each in evaluation["samples"]],
    }


def scored(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns scores as `texts`, in order with the average last, and `models`: by label and text."""
    texts = dict.fromkeys(text for each in scores.values() for text, score in each.items() if _is_loss(score))
    ordered = [text for text in texts if text != AVERAGE] + [AVERAGE] * (AVERAGE in texts and len(texts) > 2)
    models = {
        label: {text: _score(each[text]) for text in ordered if _is_loss(each.get(text))}
        for label, each in scores.items()
    }
    tasks = {label: _others(each) for label, each in scores.items()}
    return {
        "texts": ordered,
        "models": {label: each for label, each in models.items() if each},
        "tasks": {label: each for label, each in tasks.items() if each},
    }


def _is_loss(score: object) -> bool:
    return isinstance(score, Mapping) and isinstance(score.get("loss"), (int, float))


def _score(score: Mapping[str, Any]) -> dict[str, Any]:
    loss = finite(score["loss"])
    given = {key: finite(score.get(key)) for key in SCORES}
    if given["perplexity"] is None and loss is not None and loss < 700:
        given["perplexity"] = significant(exp(loss))
    return {"loss": loss, **{key: value for key, value in given.items() if value is not None}}


def _others(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of tasks that are not losses: `{task: {metric: number}}`."""
    found = {}
    for task, score in scores.items():
        if isinstance(score, Mapping) and not _is_loss(score):
            numbers = {str(key): finite(value) for key, value in score.items()}
            found[str(task)] = {key: value for key, value in numbers.items() if value is not None}
    return {task: numbers for task, numbers in found.items() if numbers}


def finite(value: object) -> float | None:
    """Returns a number that JSON can hold, rounded to what a page needs; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        return None
    return value if isinstance(value, int) else significant(value)


def paired(differences: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns paired differences as rows: `of`, `from`, `text` and the numbers.

    Args:
        differences: By the label of the model that they are of, then of the other one, then by text.
    """
    return [
        {"of": of, "from": other, "text": text, **numbers}
        for of, others in differences.items()
        for other, texts in others.items()
        for text, each in texts.items()
        if (numbers := _numbers(each))
    ]


def _numbers(each: Mapping[str, Any]) -> dict[str, float]:
    numbers = {key: finite(each.get(key)) for key in ("value", "stderr", "low", "high")}
    given = {key: value for key, value in numbers.items() if value is not None}
    return given if "value" in given else {}


def side_by_side(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Returns samples by prompt, with each model's text by label."""
    prompts: dict[str, dict[str, str]] = {}
    for label, each in samples.items():
        for sample in each:
            prompt, text = str(sample["prompt"])[:MAX_SAMPLE], str(sample["text"])[:MAX_SAMPLE]
            prompts.setdefault(prompt, {})[label] = text
    return [{"prompt": prompt, "texts": texts} for prompt, texts in prompts.items()]
