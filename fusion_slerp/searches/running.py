"""The front door of searches: the best values of a merge's options, from one reading of the models."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_slerp.api import Model
from fusion_slerp.paths import utf8
from fusion_slerp.searches.holdout import evaluate_holdout, known_holdout
from fusion_slerp.searches.parts import deal
from fusion_slerp.searches.preparing import Chosen, PreparedSearch, prepare_search
from fusion_slerp.searches.pruning import STANDARD_ERRORS, Judge, Pruned, rule_of
from fusion_slerp.searches.record import (
    COMPLETE,
    FAILED,
    FILE,
    PRUNED,
    Holdout,
    SearchRecord,
    Trial,
    as_fields,
)
from fusion_slerp.searches.sampling import TPE, Suggestion, suggest
from fusion_slerp.searches.study import Study, opened
from fusion_slerp.settings.signatures import lists_options
from fusion_slerp.sweeps.best import HIGHER
from fusion_slerp.sweeps.children import prepare_best as prepare_best_of
from fusion_slerp.sweeps.children import save_best as save_best_of
from fusion_slerp.sweeps.models import MERGED, without_bars
from fusion_slerp.sweeps.results import Results, write_whole
from fusion_slerp.sweeps.runner import SweepRunner
from fusion_slerp.sweeps.running import FROM_FILES, Loading, runner_of
from fusion_slerp.sweeps.scores import score_at
from fusion_slerp.sweeps.tasks import make_tasks

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fusion_slerp.settings.merge_options import MergeOptions

OnResult = Callable[[SearchRecord, str | None], object]
"""Called with the record and the label of the parent that was just evaluated; None for the last trial."""

AroundModel = Callable[[str], AbstractContextManager[object]]


@dataclass(slots=True)
class Running:
    """A search while it runs.

    Attributes:
        search: The search.
        results: Its parents and points, open.
        study: Its trials, open.
        judge: Evaluates its models.
        runner: Evaluates its points.
        holdout: The best point on other texts; until the end, that of an earlier run.
    """

    search: PreparedSearch
    results: Results
    study: Study
    judge: Judge
    runner: SweepRunner
    holdout: Holdout | None = None

    @property
    def record(self) -> SearchRecord:
        """All results so far."""
        return SearchRecord(self.results.record, self.study.trials, self.search.identity, self.holdout)

    def publish(self) -> SearchRecord:
        """Writes the record to the folder, and returns it."""
        record = self.record
        if self.results.folder is not None:
            content = json.dumps(as_fields(record), ensure_ascii=False, indent=1, allow_nan=False)
            write_whole(self.results.folder / FILE, utf8(f"{content}\n"))
        return record


def prepare_best(search: PreparedSearch, folder: Model | None) -> Path | None:
    """Returns where the best merged model goes, which was checked; writes nothing.

    Raises:
        FusionSlerpError: It cannot be written there.
    """
    known = Results(search.sweep.record, search.sweep.out).peek().points
    return prepare_best_of(search.sweep, [point.values for point in known], folder)


def run_search(
    search: PreparedSearch,
    save_best: Path | None = None,
    *,
    loading: Loading = FROM_FILES,
    on_result: OnResult = lambda record, label: None,
    around_model: AroundModel = lambda name: nullcontext(),
) -> SearchRecord:
    """Evaluates the parents, then trials until the budget is spent, then the best one on the held-out texts.

    Args:
        search: The search.
        save_best: Where the best merged model goes; see `prepare_best`.
        loading: How models are loaded.
        on_result: Called after each evaluation.
        around_model: Entered while a parent or trial is made and evaluated, with its name.

    Raises:
        FusionSlerpError: A merge or an evaluation failed. All earlier results are kept, and the same call
            resumes after them.
    """
    sweep = search.sweep
    results = Results(sweep.record, sweep.out)
    with (
        results.open(),
        opened(sweep.out, search.space, search.identity, search.direction) as study,
        without_bars(),
    ):
        running = _running(search, results, study, loading)
        running.publish()
        _evaluate_parents(running, on_result, around_model)
        while (suggestion := _next(running)) is not None:
            with around_model(f"trial {len(study.trials)}"):
                study.add(_trial(running, suggestion.values), suggestion)
            on_result(running.publish(), None)
        running.runner.finish()
        running.holdout = evaluate_holdout(search, running.runner, running.holdout, around_model)
        record = running.publish()
        if save_best is not None and record.best_point is not None:
            save_best_of(sweep, record.best_point.values, save_best)
    return record


def _running(search: PreparedSearch, results: Results, study: Study, loading: Loading) -> Running:
    texts, parts = search.examination.texts, ()
    if texts is not None:
        parts = deal(texts.tokens[MERGED], texts.windows.context_length, texts.windows.stride)
    judge = Judge(search.examination, parts, rule_of(results.record.metric, search.chosen.prune))
    runner = runner_of(search.sweep, results, judge, loading)
    return Running(search, results, study, judge, runner, known_holdout(search.sweep.out))


def _evaluate_parents(running: Running, on_result: OnResult, around_model: AroundModel) -> None:
    for parent in running.runner.parents:
        with around_model(parent.label):
            running.runner.evaluate_parent(parent)
        on_result(running.record, parent.label)


def _next(running: Running) -> Suggestion | None:
    """The point of the next trial; None if the budget is spent, or every point was tried."""
    search, trials = running.search, running.study.trials
    chosen, limit = search.chosen, search.chosen.max_trials
    if limit is not None and len(trials) >= limit:
        return None
    if chosen.evaluations is not None and sum(trial.share for trial in trials) >= chosen.evaluations:
        return None
    if chosen.minutes is not None and sum(trial.seconds for trial in trials) >= 60 * chosen.minutes:
        return None
    tried = [trial.values for trial in trials]
    finished = running.study.finished
    return suggest(search.space, finished, tried, chosen.sampler, chosen.seed, search.direction)


def _trial(running: Running, values: Mapping[str, Any]) -> Trial:
    """Evaluates the point of a trial, in full or until it stops."""
    metric = running.results.record.metric
    running.judge.best = _losses_of_best(running)
    began = time.perf_counter()
    try:
        point = running.runner.evaluate(values)
    except Pruned as pruned:
        stop, seconds = pruned.stop, round(time.perf_counter() - began, 3)
        difference = stop.difference.as_fields()
        return Trial(values, PRUNED, stop.loss, stop.share, stop.n_parts, difference, seconds)
    loss, seconds = score_at(point.scores, metric["name"]), sum(point.seconds.values())
    if loss is None or not math.isfinite(loss):
        return Trial(values, FAILED, None, seconds=seconds)
    return Trial(values, COMPLETE, loss, seconds=seconds)


def _losses_of_best(running: Running) -> Any:
    """The losses of the best trial so far: not of points that another sweep left in the folder, so that a
    search that resumes stops the same trials.
    """
    complete = [trial for trial in running.study.trials if trial.state == COMPLETE]
    sign = -1 if running.results.record.metric["better"] == HIGHER else 1
    best = min(complete, key=lambda trial: sign * (trial.loss or 0.0), default=None)
    return None if best is None else running.results.losses(best.name)


@lists_options
def search(
    *models: Model,
    base: Model | None = None,
    vary: Mapping[str, Any],
    texts: Mapping[str, Model] | None = None,
    tasks: str | Sequence[str] | None = None,
    include_path: Model | None = None,
    limit: float | None = None,
    holdout: Mapping[str, Model] | None = None,
    out: Model | None = None,
    save_best: Model | None = None,
    trials: int | None = None,
    evaluations: float | None = None,
    minutes: float | None = None,
    sampler: str = TPE,
    sampler_seed: int = 0,
    prune: float | None = STANDARD_ERRORS,
    metric: str | None = None,
    mode: str | None = None,
    context_length: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    device: str | None = None,
    **options: Unpack[MergeOptions],
) -> SearchRecord:
    """Searches for the values of options at which the merged model is best on texts and tasks.

    Needs Optuna: `pip install 'fusion-slerp[search]'`. The models are opened and measured once. Each trial
    overwrites the weights of one model in memory, which is then evaluated, until it is clearly worse than the
    best one. The same call resumes a search that was stopped, and continues as if it never had been.

    Args:
        *models: The models, as for `merge`.
        base: Their ancestor, for a method that takes one.
        vary: What is chosen, and from what: `{"t": "0:1"}` is any number, `{"t": "0:1:0.05"}` one of these
            steps, and `{"granularity": ["tensor", "row"]}` one of these values. Names are those of `sweep`.
        texts: A file or folder by the name of each text, as for `evaluate`.
        tasks: Names of tasks of lm-evaluation-harness, as for `evaluate`; needs the extra `lm-eval`.
        include_path: A folder with more tasks.
        limit: Only the first documents of each task: how many, or a share if below 1.
        holdout: As `texts`, for texts that the search does not see: the best is evaluated on them at the end.
        out: The folder that keeps the results; None returns them only.
        save_best: Write the best merged model to this folder, as `merge` would.
        trials: End after this many trials in all; 30 if no other budget is given.
        evaluations: Begin no trial after trials at the cost of this many evaluations.
        minutes: Begin no trial after this many minutes of trials.
        sampler: How points are chosen: `tpe`, `gp`, `cmaes`, `random` or `grid`.
        sampler_seed: Decides all that is random in the choice.
        prune: A trial stops when it is worse than the best by more than this many standard errors of the
            difference; None evaluates all in full. Only if a loss decides.
        metric: The path of the score that decides, as for `sweep`.
        mode: `min` if a lower score is better, or `max`; None takes whichever suits the metric.
        context_length: Positions that a model sees at once.
        stride: Positions from one window to the next.
        batch_size: Windows, or requests of a task, in one forward pass.
        max_tokens: Read at most this many tokens of each text.
        device: A torch device; None chooses.
        **options: The options of the merge that stay the same; see `MergeSettings` and the method's.

    Returns:
        All results. Printed, it says which point is best, and how it compares.

    Raises:
        FusionSlerpError: As `sweep`; SettingsError if Optuna is missing.
    """
    given = {
        "context_length": context_length,
        "stride": stride,
        "batch_size": batch_size,
        "max_tokens": max_tokens,
        "device": device,
    }
    prepared = prepare_search(
        models,
        base,
        vary=vary,
        texts=texts,
        tasks=make_tasks(tasks, include_path, limit),
        holdout=holdout,
        out=out,
        chosen=Chosen(trials, evaluations, minutes, sampler, sampler_seed, prune),
        metric=metric,
        mode=mode,
        evaluation={name: value for name, value in given.items() if value is not None},
        **options,
    )
    return run_search(prepared, prepare_best(prepared, save_best))
