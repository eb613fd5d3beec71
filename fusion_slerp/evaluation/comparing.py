"""Evaluates saved models one after the other, and compares the first with the others."""

from __future__ import annotations

import gc
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fusion_slerp._version import __version__
from fusion_slerp.errors import CheckpointError, FusionSlerpError, Problem, SettingsError, raise_all, setting
from fusion_slerp.evaluation.comparison import Comparison
from fusion_slerp.evaluation.evaluation import Evaluation, difference_fields
from fusion_slerp.evaluation.evaluator import Candidate, Evaluator, OnTokens, PreparedEvaluation
from fusion_slerp.evaluation.models import load_config, load_model, own_tokenizer, weights_dtype
from fusion_slerp.evaluation.samples import DEFAULT_NEW_TOKENS
from fusion_slerp.evaluation.settings import DIFFERENCES, SAMPLES, SO, TASKS
from fusion_slerp.sources.opening import Source

if TYPE_CHECKING:
    from fusion_slerp.evaluation.harness_documents import HarnessEvaluation
    from fusion_slerp.evaluation.harness_tasks import OpenTasks

log = logging.getLogger(__name__)

FORMAT = 1
"""Of the JSON."""

OnModel = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Measuring:
    """How each model is measured: several processes may share that.

    Attributes:
        losses: As `PreparedEvaluation.evaluate`.
        samples: As `PreparedEvaluation.samples`.
        scores: Returns what a function does that runs the tasks on a model.
    """

    losses: Callable[[PreparedEvaluation, str, Any], Evaluation] = PreparedEvaluation.evaluate
    samples: Callable[[PreparedEvaluation, str, Any], list[dict[str, str]]] = PreparedEvaluation.samples
    scores: Callable[[Callable[[], HarnessEvaluation]], HarnessEvaluation] = lambda run: run()


ALONE = Measuring()
"""By this process."""


@dataclass(frozen=True, slots=True)
class EvaluatedModels:
    """Models that were evaluated alike; the first is compared with the others.

    Attributes:
        sources: The user's names for them, by the names that they have here.
        dtype: The type that all models ran in, such as `bfloat16`.
        comparison: The losses and their differences; without texts, they are empty.
        samples: By model, what it wrote after each prompt: `{"prompt", "text"}`.
        tasks: By model, its scores on tasks of lm-evaluation-harness; empty without tasks.
    """

    sources: Mapping[str, str]
    dtype: str
    comparison: Comparison
    samples: Mapping[str, Sequence[Mapping[str, str]]]
    tasks: Mapping[str, HarnessEvaluation]

    @property
    def scores(self) -> dict[str, dict[str, dict[str, float]]]:
        """By model, then by text and for `average`: see `Evaluation.scores`."""
        return {name: each.scores for name, each in self.comparison.evaluations.items()}

    @property
    def differences(self) -> dict[str, dict[str, dict[str, float]]]:
        """By other model, then by text and for `average`: the first model's loss minus the other's, with its
        standard error and 95 % interval.
        """
        return {name: difference_fields(each) for name, each in self.comparison.differences.items()}

    @property
    def verdict(self) -> str:
        """In a sentence how the first model compares with the best of the others; empty without texts."""
        return self.comparison.verdict()

    def as_fields(self) -> dict[str, Any]:
        """Returns everything as plain JSON; numbers that are not finite become None."""
        subject = self.comparison.subject
        models = {}
        for name, scores in self.scores.items():
            models[name] = {"source": self.sources[name], "scores": scores}
            models[name] |= {SAMPLES: list(self.samples[name])} if self.samples[name] else {}
            models[name] |= {TASKS: self.tasks[name].scores} if self.tasks else {}
        fields = {
            "format": FORMAT,
            "fusion_slerp": __version__,
            "subject": subject,
            "dtype": self.dtype,
            "models": models,
            DIFFERENCES: {subject: self.differences},
            "verdict": self.verdict,
        }
        if self.tasks:
            from fusion_slerp.evaluation.harness_documents import paired_differences

            others = {name: each for name, each in self.tasks.items() if name != subject}
            fields["task_differences"] = {
                subject: {
                    name: paired_differences(self.tasks[subject], each) for name, each in others.items()
                }
            }
        return _finite(fields)


def evaluate(
    *models: Source,
    texts: Mapping[str, str | os.PathLike[str]] | None = None,
    tasks: Sequence[str] = (),
    include_path: str | os.PathLike[str] | None = None,
    limit: float | None = None,
    prompts: Sequence[str] | None = None,
    max_new_tokens: int = DEFAULT_NEW_TOKENS,
    chat: bool = False,
    context_length: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
    max_tokens: int | None = None,
    device: str = "auto",
    on_model: OnModel = lambda name: None,
    on_tokens: OnTokens = lambda text, done, total: None,
    measuring: Measuring = ALONE,
) -> EvaluatedModels:
    """Measures models on texts and tasks, lets them continue prompts, and compares the first with the others.

    Each model is loaded in its turn, in the type of most of the first model's weights, and freed. A model
    without a tokenizer is evaluated with the first one's.

    Args:
        *models: Folders or Hub ids; the first is compared with the others.
        texts: As in `fusion_slerp.evaluation.evaluator.Evaluator`.
        tasks: Names of tasks of lm-evaluation-harness; needs the extra `lm-eval`.
        include_path: A folder with more tasks.
        limit: Only the first documents of each task: how many, or a share if below 1.
        prompts: Texts that every model continues, always with the likeliest token.
        max_new_tokens: How many tokens a continuation may have, at least 1.
        chat: Whether a prompt is what a user says in a conversation, by each tokenizer's chat template.
        context_length: Tokens that a model sees at once; None: what all models were made for, at most 1024.
        stride: Tokens from one window to the next; None: half of `context_length`.
        batch_size: Windows, or requests of a task, in one forward pass. Changes the result by rounding only.
        max_tokens: Read at most this many tokens of each text; None reads all.
        device: A torch device, or `"auto"`: CUDA if available, else the CPU.
        on_model: Called with a model's name before it is loaded.
        on_tokens: Called as it goes through a text, with the text's name, how many tokens this process has
            scored, and how many it is to score.
        measuring: How each model is measured; by default, by this process alone.

    Raises:
        SettingsError: There is nothing to evaluate, or settings or files are wrong (all at once).
        CheckpointError: A model cannot be found or loaded (all at once, before any is evaluated), or lacks
            weights.
    """
    if not models or not (texts or tasks or prompts):
        raise _nothing_to_do(bool(models)).error()
    problems: list[Problem | FusionSlerpError] = []
    sources = _named([os.fspath(each) for each in models])
    candidates = _open(sources, problems)
    prepared = opened = None
    try:
        if texts or prompts:
            settings = {"context_length": context_length, "stride": stride, "batch_size": batch_size}
            settings |= {"max_tokens": max_tokens, "device": device, "prompts": prompts}
            evaluator = Evaluator(texts or {}, **settings, max_new_tokens=max_new_tokens, chat=chat)
            prepared = None if problems else replace(evaluator.prepare(candidates), on_tokens=on_tokens)
    except FusionSlerpError as error:
        problems.append(error)
    try:
        opened = _open_tasks(tasks, include_path, limit) if tasks else None
    except FusionSlerpError as error:
        problems.append(error)
    raise_all(problems, SO)
    runner = _Runner(candidates, prepared, opened, limit, batch_size, device, measuring)
    return runner.run(sources, on_model)


def _nothing_to_do(has_models: bool) -> Problem:
    if not has_models:
        fields = (("needed", "folders or Hub ids; the first is compared with the others"),)
        return Problem(SettingsError, "no model to evaluate", fields, "name a model's folder")
    fields = (("needed", "texts, tasks or prompts"),)
    return Problem(
        SettingsError, "nothing to evaluate on", fields, f"use {setting('texts', {'NAME': 'FILE.txt'})}"
    )


def _named(sources: Sequence[str]) -> dict[str, str]:
    """The models by short names: those of their folders, or else as the user wrote them."""
    short = [Path(os.path.abspath(os.path.expanduser(each))).name or each for each in sources]
    names = short if len(set(short)) == len(short) else list(sources)
    if len(set(names)) < len(names):
        names = [f"{name} ({i})" for i, name in enumerate(names, start=1)]
    return dict(zip(names, sources, strict=True))


def _open(sources: Mapping[str, str], problems: list[Problem | FusionSlerpError]) -> dict[str, Candidate]:
    """Opens all configs and tokenizers."""
    opened: dict[str, Candidate] = {}
    default = None
    for name, source in sources.items():
        try:
            config, tokenizer = load_config(source), own_tokenizer(source)
        except FusionSlerpError as error:
            problems.append(error)
        except Exception as error:  # transformers raises whatever its many loaders raise
            problems.append(_cannot_load(source, error))
        else:
            default = default or tokenizer
            if tokenizer is None and default is None:
                fields, fix = (("source", source),), "copy the tokenizer's files into the model's folder"
                problems.append(Problem(CheckpointError, f"{name} has no tokenizer", fields, fix))
            opened[name] = Candidate(config, tokenizer or default)
    return opened


def _cannot_load(source: str, error: Exception) -> Problem:
    log.debug("cannot load %s", source, exc_info=error)
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    fields = (("found", reason), ("needed", "a model and tokenizer that transformers can load"))
    return Problem(CheckpointError, f"{source} cannot be loaded", fields, f"fusion_slerp inspect {source}")


def _open_tasks(
    tasks: Sequence[str], include_path: str | os.PathLike[str] | None, limit: float | None
) -> OpenTasks:
    from fusion_slerp.evaluation.harness_tasks import check_limit, open_tasks

    problems: list[Problem] = []
    check_limit(limit, problems)
    raise_all(problems, SO)
    return open_tasks(list(tasks), include_path)


@dataclass(frozen=True, slots=True)
class _Runner:
    """What is measured of every model."""

    candidates: Mapping[str, Candidate]
    prepared: PreparedEvaluation | None
    tasks: OpenTasks | None
    limit: float | None
    batch_size: int
    device: str
    measuring: Measuring

    def run(self, sources: Mapping[str, str], on_model: OnModel) -> EvaluatedModels:
        dtype: torch.dtype | None = None
        evaluations: dict[str, Evaluation] = {}
        samples: dict[str, list[dict[str, str]]] = {}
        tasks: dict[str, HarnessEvaluation] = {}
        for name, source in sources.items():
            on_model(name)
            try:
                model = load_model(source, dtype)
            except FusionSlerpError:
                raise
            except Exception as error:
                raise _cannot_load(source, error).error() from error
            dtype = dtype or weights_dtype(model)
            prepared, how = self.prepared, self.measuring
            evaluations[name] = how.losses(prepared, name, model) if prepared else Evaluation()
            samples[name] = how.samples(prepared, name, model) if prepared else []
            if self.tasks is not None:
                tasks[name] = how.scores(partial(self._on_tasks, name, model, self.tasks))
            del model
            gc.collect()  # models hold reference cycles, and the next one needs the memory
        comparison = Comparison(evaluations, next(iter(sources)))
        return EvaluatedModels(sources, str(dtype).removeprefix("torch."), comparison, samples, tasks)

    def _on_tasks(self, name: str, model: Any, tasks: OpenTasks) -> HarnessEvaluation:
        from fusion_slerp.evaluation.harness import evaluate_tasks

        tokenizer = self.candidates[name].tokenizer
        return evaluate_tasks(
            model, tokenizer, tasks, self.limit, batch_size=self.batch_size, device=self.device
        )


def _finite(value: Any) -> Any:
    """The same with None in place of numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
