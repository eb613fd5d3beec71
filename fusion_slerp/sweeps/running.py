"""The front door of sweeps: many values of a merge's options, from one reading of the models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_slerp.api import Model
from fusion_slerp.cluster.ranks import ALONE, Ranks
from fusion_slerp.errors import FusionSlerpError, OutputError, Problem, SettingsError, raise_all, setting
from fusion_slerp.merging import PreparedMerge
from fusion_slerp.paths import real_path
from fusion_slerp.settings.signatures import lists_options
from fusion_slerp.sweeps.children import prepare_best, prepare_children, save_best, share_children
from fusion_slerp.sweeps.examination import Examination
from fusion_slerp.sweeps.judgement import Judgement
from fusion_slerp.sweeps.models import load_parent, without_bars
from fusion_slerp.sweeps.points import MAX_POINTS
from fusion_slerp.sweeps.preparing import PreparedSweep, prepare_sweep
from fusion_slerp.sweeps.record import SweepRecord
from fusion_slerp.sweeps.results import Results
from fusion_slerp.sweeps.runner import Parent, Resident, SweepRunner
from fusion_slerp.sweeps.sharing import OnResult, evaluate_all
from fusion_slerp.sweeps.tasks import make_tasks

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fusion_slerp.settings.merge_options import MergeOptions


@dataclass(frozen=True, slots=True)
class Loading:
    """How the models of a sweep are loaded.

    Attributes:
        parent: Loads a parent, by label; None loads its files in the type of the merged models.
        loader: The transformers class of the merged model; None for AutoModelForCausalLM.
        load_kwargs: Its arguments; None for those that keep the weights' types.
    """

    parent: Callable[[str], Any] | None = None
    loader: Any = None
    load_kwargs: Mapping[str, Any] | None = None


FROM_FILES = Loading()
"""The usual way."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """The merged models that a sweep writes, prepared.

    Attributes:
        children: The merges of the points that are still to be made.
        folder: Where they go; None writes none.
        best: The folder of the best point's model; None writes none.
        is_resumed: Whether an earlier run of the same sweep may have made some.
    """

    children: tuple[PreparedMerge, ...] = ()
    folder: Path | None = None
    best: Path | None = None
    is_resumed: bool = False


def prepare_outputs(sweep: PreparedSweep, children: Model | None, save_best: Model | None) -> Outputs:
    """Prepares the merged models that a sweep writes to folders; writes nothing.

    Raises:
        FusionSlerpError: All that is wrong with their folders.
    """
    problems: list[Problem | FusionSlerpError] = []
    if save_best is not None and not sweep.evaluating:
        fix = f"use {setting('texts', {'name': 'FILE.txt'})}, or leave out save_best"
        problems.append(Problem(SettingsError, "without texts and tasks, no point is best", (), fix))
    is_resumed = sweep.out is not None and Results(sweep.record, sweep.out).peek() is not sweep.record
    folder, best, merges = None, None, list[PreparedMerge]()
    try:
        if children is not None:
            folder = real_path(children, OutputError)
            merges = prepare_children(sweep, folder, is_resumed)
    except FusionSlerpError as error:
        problems.append(error)
    try:
        best = prepare_best(sweep, sweep.points if is_resumed else (), save_best)
    except FusionSlerpError as error:
        problems.append(error)
    raise_all(problems)
    return Outputs(tuple(merges), folder, best, is_resumed)


def run_sweep(
    sweep: PreparedSweep,
    outputs: Outputs = Outputs(),
    *,
    on_result: OnResult = lambda record, name: None,
    ranks: Ranks = ALONE,
) -> SweepRecord:
    """Evaluates what is missing, parents first, and writes the merged models that are wanted.

    Args:
        sweep: The sweep.
        outputs: The merged models.
        on_result: Called for each result.
        ranks: The processes that run it together; each calls this. The sweep's folder, the outputs and
            `on_result` are those of rank 0, and the others need none.

    Raises:
        FusionSlerpError: A merge or an evaluation failed. All earlier results are kept, and the same call
            resumes after them.
    """
    results = Results(sweep.record, sweep.out if ranks.is_first else None)
    with ExitStack() as opened:
        ranks.on_all(lambda: opened.enter_context(results.open()))
        if sweep.evaluating:
            record = _evaluate_all(sweep, results, on_result, ranks)
        else:
            record = ranks.on_first(lambda: results.record)
        share_children(sweep, outputs.children, ranks)
        best = record.best_point
        save_best(sweep, best and best.values, outputs.best, outputs.is_resumed, ranks)
    return record


def runner_of(
    sweep: PreparedSweep,
    results: Results,
    judge: Callable[[str, Any], Judgement],
    loading: Loading = FROM_FILES,
) -> SweepRunner:
    """Returns what evaluates any point of a prepared sweep.

    Args:
        sweep: The sweep.
        results: Where results are kept, open.
        judge: Evaluates a parent, by label, or the model of a point, as `merged`.
        loading: How models are loaded.
    """

    def resident() -> Resident:
        from fusion_slerp.evaluation.resident import ResidentModel

        options = sweep.options_at(sweep.points[0])
        return ResidentModel(sweep.models, sweep.base, options, loading.loader, loading.load_kwargs)

    def load_files(label: str) -> Any:
        return load_parent(sweep.parents[label], sweep.dtype)

    parents = tuple(Parent(label, partial(loading.parent or load_files, label)) for label in sweep.parents)
    return SweepRunner(sweep.axes, sweep.options, len(sweep.models), results, parents, resident, judge)


def _evaluate_all(sweep: PreparedSweep, results: Results, on_result: OnResult, ranks: Ranks) -> SweepRecord:
    """Without an examination all is known, perhaps not compared."""
    runner = runner_of(sweep, results, sweep.examination or Examination())
    with without_bars():
        return evaluate_all(runner, sweep.points, on_result, ranks)


@lists_options
def sweep(
    *models: Model,
    base: Model | None = None,
    vary: Mapping[str, Any],
    texts: Mapping[str, Model] | None = None,
    tasks: str | Sequence[str] | None = None,
    include_path: Model | None = None,
    limit: float | None = None,
    out: Model | None = None,
    children: Model | None = None,
    save_best: Model | None = None,
    metric: str | None = None,
    mode: str | None = None,
    max_points: int = MAX_POINTS,
    context_length: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    prompts: Sequence[str] | None = None,
    device: str | None = None,
    **options: Unpack[MergeOptions],
) -> SweepRecord:
    """Merges models at many values of an option, and evaluates each merged model on texts, tasks or both.

    The models are opened and measured once. Each point overwrites the weights of one model in memory, which
    is then evaluated. The parents are evaluated as well, one after the other. The same call resumes a sweep
    that was stopped, and returns at once if everything is known.

    Args:
        *models: The models, as for `merge`.
        base: Their ancestor, for a method that takes one.
        vary: What is varied, and its values: `{"t": "0:1:0.1"}` (start, stop and step, ends included), or
            `{"t": [0.3, 0.5]}`. The name is an option, such as `density`; an option of one model,
            `weight.b`; or that of the tensors whose names contain a text, `t.self_attn`. Several names
            make a grid of all combinations.
        texts: A file or folder by the name of each text, as for `evaluate`.
        tasks: Names of tasks of lm-evaluation-harness, as for `evaluate`; needs the extra `lm-eval`.
        include_path: A folder with more tasks.
        limit: Only the first documents of each task: how many, or a share if below 1.
        out: The folder that keeps the results, `sweep.json`; None returns them only.
        children: Write the merged model of every point to a folder of its own, in this one.
        save_best: Write the best point's merged model to this folder, as `merge` would.
        metric: The path of the score that decides: `average.loss`, or that of one text, `code.loss`, or of
            one task, `gsm8k.exact_match,strict-match`, or `average.score`, the mean of the tasks' main
            scores. None takes `average.loss`, and without texts `average.score`.
        mode: `min` if a lower score is better, or `max`; None takes whichever suits the metric.
        max_points: More points than this are refused.
        context_length: Positions that a model sees at once.
        stride: Positions from one window to the next.
        batch_size: Windows, or requests of a task, in one forward pass.
        max_tokens: Read at most this many tokens of each text.
        prompts: Texts that the merged model of each point continues, for its `samples`.
        device: A torch device; None chooses.
        **options: The options of the merge that stay the same; see `MergeSettings` and the method's.

    Returns:
        All results. Printed, it says which point is best, and from which others it does not differ.

    Raises:
        FusionSlerpError: As `merge`; SettingsError for the sweep's own arguments, OutputError if `out` holds
            another sweep. Before anything is read, all at once, as far as possible.
    """
    given = {
        "context_length": context_length,
        "stride": stride,
        "batch_size": batch_size,
        "max_tokens": max_tokens,
        "prompts": None if prompts is None else list(prompts),
        "device": device,
    }
    prepared = prepare_sweep(
        models,
        base,
        vary=vary,
        texts=texts,
        tasks=make_tasks(tasks, include_path, limit),
        out=children if out is None else out,
        needs_evaluation=children is None,
        metric=metric,
        mode=mode,
        max_points=max_points,
        evaluation={name: value for name, value in given.items() if value is not None},
        **options,
    )
    return run_sweep(prepared, prepare_outputs(prepared, children, save_best))
