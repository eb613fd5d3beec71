"""Everything of a search that comes before the first weight is read."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_slerp.api import Model
from fusion_slerp.errors import OutputError, Problem, SettingsError, raise_all, setting
from fusion_slerp.paths import real_path
from fusion_slerp.searches.pruning import STANDARD_ERRORS
from fusion_slerp.searches.record import FILE, differing, read_fields, search_identity
from fusion_slerp.searches.sampling import TPE, Direction, check_sampler
from fusion_slerp.searches.space import Space, parse_space, point_at, probes
from fusion_slerp.sweeps.best import HIGHER
from fusion_slerp.sweeps.examination import Evaluating, Examination, examine
from fusion_slerp.sweeps.identity import text_digest
from fusion_slerp.sweeps.planning import plan_all
from fusion_slerp.sweeps.preparing import PreparedSweep, prepare_sweep, text_paths
from fusion_slerp.sweeps.tasks import Tasks

if TYPE_CHECKING:
    from fusion_slerp.evaluation.evaluator import PreparedEvaluation

TRIALS = 30
"""Trials of a search that names no budget."""

ABOVE_0 = math.ulp(0.0)
"""The least number above 0."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """How a search chooses and when it ends.

    Attributes:
        trials: Trials in all, those of earlier runs included; None does not limit them.
        evaluations: No trial begins after trials at the cost of this many evaluations in all; None does not
            limit them.
        minutes: No trial begins after this many minutes of trials, those of earlier runs included; None does
            not limit them.
        sampler: How points are chosen; see `sampling.PACKAGES`.
        seed: Decides all that is random in the choice.
        prune: How many standard errors worse than the best a trial is when it stops; None never stops one.
    """

    trials: int | None = None
    evaluations: float | None = None
    minutes: float | None = None
    sampler: str = TPE
    seed: int = 0
    prune: float | None = STANDARD_ERRORS

    @property
    def max_trials(self) -> int | None:
        """The limit of trials: the usual one if there is no limit at all."""
        return TRIALS if self.is_unlimited else self.trials

    @property
    def is_unlimited(self) -> bool:
        """Whether no limit was given."""
        return self.trials is None and self.evaluations is None and self.minutes is None


@dataclass(frozen=True, slots=True)
class PreparedSearch:
    """A search of which everything is decided and checked, and nothing is written.

    Attributes:
        sweep: The sweep that its points belong to; it has the middle of all ranges as its only point.
        space: What is chosen from.
        chosen: How it chooses, and its budget.
        examination: What the trials are evaluated on, opened.
        holdout: The held-out texts in the tokens of each model; None without.
        digests: The digest of each held-out text.
        identity: What decides the sequence of trials.
    """

    sweep: PreparedSweep
    space: Space
    chosen: Chosen
    examination: Examination
    holdout: PreparedEvaluation | None
    digests: Mapping[str, Any]
    identity: Mapping[str, Any]

    @property
    def direction(self) -> Direction:
        """Optuna's name of what is better."""
        return "maximize" if self.sweep.record.metric["better"] == HIGHER else "minimize"


def prepare_search(
    models: Sequence[Model],
    base: Model | None = None,
    *,
    vary: Mapping[str, Any],
    texts: Mapping[str, Model] | None = None,
    tasks: Tasks | None = None,
    examiner: Callable[[PreparedSweep], Examination] | None = None,
    holdout: Mapping[str, Model] | None = None,
    out: Model | None = None,
    chosen: Chosen = Chosen(),
    **given: Any,
) -> PreparedSearch:
    """Plans the ends and the middle of all ranges, and checks everything that can be checked beforehand.

    Args:
        models: The models a, b, c, ...
        base: Their ancestor, for a method that takes one.
        vary: What is chosen, and from what; see `space` and `sweeps.axes`.
        texts: A file or folder by the name of each text.
        tasks: Tasks of lm-evaluation-harness.
        examiner: Opens what the trials are evaluated on in the place of texts and tasks.
        holdout: As `texts`, for those that only the best point is evaluated on.
        out: The folder of the search; None keeps it in memory alone.
        chosen: How it chooses, and its budget.
        **given: `metric`, `mode`, `evaluation` and other arguments of `prepare_sweep`, and the options that
            are the same for all trials.

    Raises:
        FusionSlerpError: All that is wrong, as far as it can be found at once.
    """
    _check_installed()
    space = parse_space(vary)
    folder = None if out is None else real_path(out, OutputError)
    has_any = bool(texts) or tasks is not None or examiner is not None
    raise_all([*wrong_budget(chosen), *check_sampler(chosen.sampler, space), *_without_evaluation(has_any)])
    identity = search_identity(space, chosen.sampler, chosen.seed, chosen.prune)
    raise_all([] if folder is None else other_search(folder, identity))
    middle = {name: [value] for name, value in point_at(space, 0.5).items()}
    sweep = prepare_sweep(models, base, vary=middle, texts=texts, tasks=tasks, out=folder, **given)
    points = probes(space)
    plan_all(models, base, points, [sweep.options_at(values) for values in points])
    if examiner is not None:
        examination = examiner(sweep)
    else:
        examination = sweep.examination or examine(sweep.evaluating, sweep.parents, sweep.plan)
    held_out = text_paths(holdout)
    on_others = _held_out(sweep, held_out)
    digests = {name: text_digest(path) for name, path in held_out.items()}
    raise_all(_not_held_out(sweep, held_out, digests))
    return PreparedSearch(sweep, space, chosen, examination, on_others, digests, identity)


def _check_installed() -> None:
    if importlib.util.find_spec("optuna") is None:
        fix = "pip install 'fusion-slerp[search]'"
        fields = (("missing", "optuna"),)
        raise Problem(SettingsError, "a search needs Optuna, which is not installed", fields, fix).error()


def _held_out(sweep: PreparedSweep, texts: Mapping[str, Path]) -> PreparedEvaluation | None:
    evaluating = Evaluating(texts, None, sweep.evaluating.settings)
    return examine(evaluating, sweep.parents, sweep.plan).texts if texts else None


def wrong_budget(chosen: Chosen) -> list[Problem]:
    """Returns the problem with each number that is out of its range."""
    limits = (
        ("trials", chosen.trials, 1, "at least 1", TRIALS),
        ("evaluations", chosen.evaluations, ABOVE_0, "more than 0", 10),
        ("minutes", chosen.minutes, ABOVE_0, "more than 0", 20),
        ("sampler_seed", chosen.seed, 0, "0 or more", 0),
        ("prune", chosen.prune, ABOVE_0, "more than 0", STANDARD_ERRORS),
    )
    return [
        Problem(
            SettingsError,
            f"invalid {name}",
            (("found", given), ("needed", needed)),
            f"use {setting(name, example)}",
        )
        for name, given, least, needed, example in limits
        if given is not None and not given >= least
    ]


def _without_evaluation(has_any: bool) -> list[Problem]:
    if has_any:
        return []
    fix = f"use {setting('texts', {'name': 'FILE.txt'})}"
    needed = (("needed", "texts or tasks to evaluate the trials on"),)
    return [Problem(SettingsError, "a search needs texts or tasks", needed, fix)]


def other_search(folder: Path, identity: Mapping[str, Any]) -> list[Problem]:
    """Returns the problem with resuming the search in a folder with this identity."""
    if not os.path.lexists(folder / FILE):
        return []
    try:
        return differing(folder, read_fields(folder).get("identity", {}), identity)
    except (OSError, ValueError, RecursionError) as error:
        fields = (("file", folder / FILE), ("found", error))
        fix = f"use {setting('out', f'{folder.name}-2')}, or move the file away: the study is kept"
        return [Problem(OutputError, "the folder's record of a search is not readable", fields, fix)]


def _not_held_out(
    sweep: PreparedSweep, held_out: Mapping[str, Path], digests: Mapping[str, Any]
) -> list[Problem]:
    """The problem with each held-out text that the search sees."""
    seen = list(sweep.record.identity["texts"].values())
    return [
        Problem(
            SettingsError,
            f"the held-out text {name} is one of the search's texts",
            (("path", held_out[name]), ("needed", "a text that decides nothing")),
            f"use {setting('holdout', {name: 'OTHER.txt'})}",
        )
        for name, digest in digests.items()
        if digest in seen
    ]
