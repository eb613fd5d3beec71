"""What the models of a sweep are evaluated on: texts and tasks, and the score that decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_slerp.errors import (
    FusionSlerpError,
    Problem,
    SettingsError,
    listed,
    nearest,
    raise_all,
    setting,
)
from fusion_slerp.evaluation.evaluation import AVERAGE, Evaluation
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sweeps.best import HIGHER, LOWER
from fusion_slerp.sweeps.judgement import Details, Judgement
from fusion_slerp.sweeps.models import candidates
from fusion_slerp.sweeps.record import SweepRecord
from fusion_slerp.sweeps.scores import AVERAGE_LOSS, AVERAGE_SCORE, TASKS, short
from fusion_slerp.sweeps.scores import higher_is_better as higher_is_better_at
from fusion_slerp.sweeps.tasks import Tasks, higher_is_better

if TYPE_CHECKING:
    from torch import nn

    from fusion_slerp.evaluation.evaluator import PreparedEvaluation
    from fusion_slerp.evaluation.harness import PreparedTasks
    from fusion_slerp.evaluation.harness_tasks import OpenTasks

BATCH_SIZE = 8
"""Windows, or requests of a task, in one forward pass, as in `evaluate`."""


@dataclass(frozen=True, slots=True)
class Evaluating:
    """How the models are evaluated.

    Attributes:
        texts: A file or folder by the name of each text.
        tasks: Tasks of lm-evaluation-harness; None without.
        settings: Further arguments of `Evaluator`, those that were given.
    """

    texts: Mapping[str, Path] = field(default_factory=dict)
    tasks: Tasks | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether there is anything to evaluate on."""
        return bool(self.texts) or self.tasks is not None

    @property
    def kinds(self) -> tuple[str, ...]:
        """`texts` and `tasks`, those that there are."""
        return ("texts",) * bool(self.texts) + ("tasks",) * (self.tasks is not None)

    @property
    def default_metric(self) -> str:
        """The path of the score that decides if none is named."""
        return AVERAGE_SCORE if self.tasks is not None and not self.texts else AVERAGE_LOSS


@dataclass(frozen=True, slots=True)
class Examination:
    """Texts and tasks, ready for every model; nothing more can be wrong with the settings.

    Attributes:
        texts: The texts in the tokens of each model, and prompts; None without either.
        tasks: The tasks; None without.
    """

    texts: PreparedEvaluation | None = None
    tasks: PreparedTasks | None = None

    def __call__(self, name: str, model: nn.Module) -> Judgement:
        """Returns the result of a model.

        Args:
            name: A parent's label, or `merged`.
            model: The model; left unchanged.
        """
        return self.completed(name, model, self.texts.evaluate(name, model) if self.texts else Evaluation())

    def completed(self, name: str, model: nn.Module, losses: Evaluation) -> Judgement:
        """Returns the result of a model whose losses are known: runs the tasks, and continues the prompts."""
        samples = tuple(self.texts.samples(name, model)) if self.texts else ()
        of_texts = losses if losses.texts else None
        if self.tasks is None:
            return Judgement(losses.scores, Details(of_texts), samples)
        found = self.tasks.evaluate(name, model)
        scores: dict[str, Any] = {**losses.scores, TASKS: found.scores["tasks"]}
        if found.average:
            scores[AVERAGE] = {**scores.get(AVERAGE, {}), **found.average}
        return Judgement(scores, Details(of_texts, found.documents), samples)


def examine(evaluating: Evaluating, parents: Mapping[str, Checkpoint], plan: MergePlan) -> Examination:
    """Opens texts, tasks and tokenizers; imports torch and transformers.

    Raises:
        FusionSlerpError: All that is wrong with them, at once.
    """
    from fusion_slerp.evaluation.evaluator import Evaluator

    settings, problems = dict(evaluating.settings), list[Problem | FusionSlerpError]()
    models, texts, tasks = candidates(parents, plan), None, None
    try:
        if evaluating.texts or settings.get("prompts"):
            texts = Evaluator(dict(evaluating.texts), **settings).prepare(models)
    except FusionSlerpError as error:
        problems.append(error)
    try:
        if evaluating.tasks is not None:
            tokenizers = {name: each.tokenizer for name, each in models.items()}
            tasks = _prepared(evaluating.tasks, tokenizers, settings)
            problems += _same_names(evaluating.texts, tasks.tasks)
    except FusionSlerpError as error:
        problems.append(error)
    raise_all(problems)
    return Examination(texts, tasks)


def _prepared(tasks: Tasks, tokenizers: Mapping[str, Any], settings: Mapping[str, Any]) -> PreparedTasks:
    from fusion_slerp.evaluation.harness import PreparedTasks

    batch_size, device = settings.get("batch_size", BATCH_SIZE), settings.get("device", "auto")
    return PreparedTasks(tasks.open(batch_size, device), tokenizers, tasks.limit, batch_size, device)


def _same_names(texts: Mapping[str, Path], tasks: OpenTasks) -> list[Problem]:
    """The problem with each text that has the name of a task, as paths of scores begin with names."""
    return [
        Problem(
            SettingsError,
            f"a text and a task are called {name}",
            (("needed", "another name for the text"),),
            f"use {setting('texts', {f'{name}_text': str(path)})}",
        )
        for name, path in texts.items()
        if name in tasks.tasks or name in tasks.groups
    ]


def check_mode(mode: str | None) -> list[Problem]:
    """Returns the problem with a mode that is neither `min`, `max` nor None."""
    if mode in ("min", "max", None):
        return []
    fields = (("found", repr(mode)), ("needed", "min or max"))
    return [Problem(SettingsError, "invalid mode", fields, f"use {setting('mode', 'min')}")]


def deciding(
    metric: str,
    mode: str | None,
    evaluating: Evaluating,
    examination: Examination | None,
    known: SweepRecord,
) -> dict[str, str]:
    """Returns the score that decides: `name`, its path, and `better`, whether a lower or higher one is.

    Args:
        metric: The path.
        mode: `min` or `max`; None asks the score's task; losses are better if lower.
        evaluating: What models are evaluated on.
        examination: The same, opened; None if everything is known.
        known: The results of an earlier run.

    Raises:
        SettingsError: No text or task has such a score, or the tasks' main scores have no mean.
    """
    tasks = examination.tasks.tasks if examination is not None and examination.tasks is not None else None
    if tasks is not None:
        raise_all(_wrong_metric(metric, evaluating, tasks))
        is_higher = higher_is_better(tasks, metric)
    else:
        is_higher = any(higher_is_better_at(scores, metric) for scores in known.parents.values())
    return {"name": metric, "better": better(metric, mode, is_higher)}


def better(metric: str, mode: str | None, is_higher: bool | None) -> str:
    """Returns whether a lower or a higher score is better.

    Args:
        metric: The path of the score.
        mode: `min` or `max`; None for whichever suits the score.
        is_higher: What the score's task says of it; None for a score of no task.
    """
    if mode is not None:
        return HIGHER if mode == "max" else LOWER
    return HIGHER if is_higher or metric == AVERAGE_SCORE else LOWER


def _wrong_metric(metric: str, evaluating: Evaluating, tasks: OpenTasks) -> list[Problem]:
    """The problem with a path that no score will have."""
    directions = {name: task.higher_is_better() for name, task in tasks.tasks.items()}
    known = [f"{name}.{each}" for name, metrics in directions.items() for each in metrics]
    fix = f"use {setting('metric', next(iter(known), AVERAGE_LOSS))}"
    if metric == AVERAGE_SCORE:
        lower = [name for name, metrics in directions.items() if not next(iter(metrics.values()), None)]
        found = f"{listed(lower, 3)}: a higher score is not better"
        fields = (("found", found), ("needed", "one score that decides"))
        return [Problem(SettingsError, "the tasks' main scores have no mean", fields, fix)] if lower else []
    names = (*evaluating.texts, AVERAGE, *tasks.tasks, *tasks.groups)
    if any(short(metric).startswith(f"{name}.") for name in names):
        return []
    found = f"{metric!r}{nearest(metric, [*known, AVERAGE_SCORE])}"
    fields = (("found", found), ("needed", f"a score of a text or task, such as {listed(known, 3)}"))
    return [Problem(SettingsError, "no such metric", fields, fix)]
