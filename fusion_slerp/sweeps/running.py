"""The front door of sweeps: many values of a merge's options, from one reading of the models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_slerp.api import Model
from fusion_slerp.errors import FusionSlerpError, OutputError, Problem, SettingsError, raise_all, setting
from fusion_slerp.merging import PreparedMerge, run_merge
from fusion_slerp.paths import real_path
from fusion_slerp.settings.signatures import lists_options
from fusion_slerp.sweeps.children import children, is_made, prepare_child, prepare_children
from fusion_slerp.sweeps.models import load_parent, without_bars
from fusion_slerp.sweeps.points import MAX_POINTS, point_name
from fusion_slerp.sweeps.preparing import AVERAGE_LOSS, PreparedSweep, prepare_sweep
from fusion_slerp.sweeps.record import SweepRecord
from fusion_slerp.sweeps.results import Results
from fusion_slerp.sweeps.runner import Judgement, Parent, Resident, SweepRunner

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fusion_slerp.settings.merge_options import MergeOptions

OnResult = Callable[[SweepRecord, str], object]
"""Called with the record and the name of the parent (its label) or point that was just evaluated."""


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
    if save_best is not None and not sweep.evaluating.texts:
        fix = f"use {setting('texts', {'name': 'FILE.txt'})}, or leave out save_best"
        problems.append(Problem(SettingsError, "without texts, no point is best", (), fix))
    is_resumed = sweep.out is not None and Results(sweep.record, sweep.out).peek() is not sweep.record
    folder, merges = None, list[PreparedMerge]()
    best = None if save_best is None else real_path(save_best, OutputError)
    try:
        if children is not None:
            folder = real_path(children, OutputError)
            merges = prepare_children(sweep, folder, is_resumed)
    except FusionSlerpError as error:
        problems.append(error)
    try:  # any point will do for the checks of the folder
        made = best is not None and is_resumed and any(is_made(sweep, each, best) for each in sweep.points)
        if best is not None and not made:
            prepare_child(sweep, sweep.points[0], best)
    except FusionSlerpError as error:
        problems.append(error)
    raise_all(problems)
    return Outputs(tuple(merges), folder, best, is_resumed)


def run_sweep(
    sweep: PreparedSweep,
    outputs: Outputs = Outputs(),
    *,
    on_result: OnResult = lambda record, name: None,
) -> SweepRecord:
    """Evaluates what is missing, parents first, and writes the merged models that are wanted.

    Args:
        sweep: The sweep.
        outputs: The merged models.
        on_result: Called after each evaluation.

    Raises:
        FusionSlerpError: A merge or an evaluation failed. All earlier results are kept, and the same call
            resumes after them.
    """
    results = Results(sweep.record, sweep.out)
    with results.open():
        if sweep.evaluating.texts:
            _evaluate_all(sweep, results, on_result)
        children(outputs.children)
        _save_best(sweep, results.record, outputs)
    return results.record


def runner_of(sweep: PreparedSweep, results: Results) -> SweepRunner:
    """Returns what evaluates any point of a prepared sweep; `results` must be open."""

    def resident() -> Resident:
        from fusion_slerp.evaluation.resident import ResidentModel

        return ResidentModel(sweep.models, sweep.base, sweep.options_at(sweep.points[0]))

    def judge(name: str, model: Any) -> Judgement:
        assert sweep.evaluation is not None, "everything is known"
        found = sweep.evaluation.evaluate(name, model)
        samples = tuple(sweep.evaluation.samples(name, model))
        return Judgement(found.scores, found, samples)

    return SweepRunner(
        sweep.axes,
        sweep.options,
        len(sweep.models),
        results,
        tuple(
            Parent(label, partial(load_parent, parent, sweep.dtype))
            for label, parent in sweep.parents.items()
        ),
        resident,
        judge,
    )


def _evaluate_all(sweep: PreparedSweep, results: Results, on_result: OnResult) -> None:
    runner = runner_of(sweep, results)
    if sweep.evaluation is None:  # all is known, perhaps not compared
        record = runner.finish()
        for name in (*record.parents, *map(point_name, sweep.points)):
            on_result(record, name)
        return
    with without_bars():
        for parent in runner.parents:
            runner.evaluate_parent(parent)
            on_result(results.record, parent.label)
        for values in sweep.points:
            point = runner.evaluate(values)
            on_result(results.record, point.name)
    runner.finish()


def _save_best(sweep: PreparedSweep, record: SweepRecord, outputs: Outputs) -> None:
    best, folder = record.best_point, outputs.best
    if folder is None or best is None:
        return
    if not (outputs.is_resumed and is_made(sweep, best.values, folder)):
        run_merge(prepare_child(sweep, best.values, folder))


@lists_options
def sweep(
    *models: Model,
    base: Model | None = None,
    vary: Mapping[str, Any],
    texts: Mapping[str, Model] | None = None,
    out: Model | None = None,
    children: Model | None = None,
    save_best: Model | None = None,
    metric: str = AVERAGE_LOSS,
    mode: str = "min",
    max_points: int = MAX_POINTS,
    context_length: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    prompts: Sequence[str] | None = None,
    device: str | None = None,
    **options: Unpack[MergeOptions],
) -> SweepRecord:
    """Merges models at many values of an option, and evaluates each merged model on texts.

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
        out: The folder that keeps the results, `sweep.json`; None returns them only.
        children: Write the merged model of every point to a folder of its own, in this one.
        save_best: Write the best point's merged model to this folder, as `merge` would.
        metric: The path of the score that decides: `average.loss`, or that of one text, `code.loss`.
        mode: `min` if a lower score is better, or `max`.
        max_points: More points than this are refused.
        context_length: Positions that a model sees at once.
        stride: Positions from one window to the next.
        batch_size: Windows in one forward pass.
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
        out=children if out is None else out,
        needs_evaluation=children is None,
        metric=metric,
        mode=mode,
        max_points=max_points,
        evaluation={name: value for name, value in given.items() if value is not None},
        **options,
    )
    return run_sweep(prepared, prepare_outputs(prepared, children, save_best))
