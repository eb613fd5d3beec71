"""Everything of a search that comes before the first weight is read."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
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
from fusion_slerp.sweeps.identity import text_digest
from fusion_slerp.sweeps.models import candidates
from fusion_slerp.sweeps.planning import plan_all
from fusion_slerp.sweeps.preparing import AVERAGE_LOSS, PreparedSweep, prepare_sweep

if TYPE_CHECKING:
    from fusion_slerp.evaluation.evaluator import PreparedEvaluation

TRIALS = 30
"""Trials of a search that names no budget."""


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
        evaluation: The texts in the tokens of each model.
        holdout: The held-out texts in the tokens of each model; None without.
        digests: The digest of each held-out text.
        identity: What decides the sequence of trials.
    """

    sweep: PreparedSweep
    space: Space
    chosen: Chosen
    evaluation: PreparedEvaluation
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
    texts: Mapping[str, Model] | None,
    holdout: Mapping[str, Model] | None = None,
    out: Model | None = None,
    chosen: Chosen = Chosen(),
    metric: str = AVERAGE_LOSS,
    mode: str = "min",
    evaluation: Mapping[str, Any] | None = None,
    **options: Any,
) -> PreparedSearch:
    """Plans the ends and the middle of all ranges, and checks everything that can be checked beforehand.

    Args:
        models: The models a, b, c, ...
        base: Their ancestor, for a method that takes one.
        vary: What is chosen, and from what; see `space` and `sweeps.axes`.
        texts: A file or folder by the name of each text.
        holdout: The same, for texts that only the best point is evaluated on.
        out: The folder of the search; None keeps it in memory alone.
        chosen: How it chooses, and its budget.
        metric: The path of the score that decides.
        mode: `min` if a lower one is better, or `max`.
        evaluation: Further arguments of `Evaluator`.
        **options: The options that are the same for all trials.

    Raises:
        FusionSlerpError: All that is wrong, as far as it can be found at once.
    """
    _check_installed()
    space = parse_space(vary)
    folder = None if out is None else real_path(out, OutputError)
    raise_all([*_wrong_budget(chosen), *check_sampler(chosen.sampler, space), *_without_texts(texts)])
    assert texts is not None
    identity = search_identity(space, chosen.sampler, chosen.seed, chosen.prune)
    raise_all([] if folder is None else _other_search(folder, identity))
    sweep = prepare_sweep(
        models,
        base,
        vary={name: [value] for name, value in point_at(space, 0.5).items()},
        texts=texts,
        out=folder,
        metric=metric,
        mode=mode,
        evaluation=evaluation,
        **options,
    )
    points = probes(space)
    plan_all(models, base, points, [sweep.options_at(values) for values in points])
    prepared = sweep.evaluation or _evaluation(sweep, sweep.evaluating.texts)
    held_out = {
        str(name): Path(os.path.abspath(os.path.expanduser(p))) for name, p in (holdout or {}).items()
    }
    on_others = _evaluation(sweep, held_out) if held_out else None
    digests = {name: text_digest(path) for name, path in held_out.items()}
    raise_all(_not_held_out(sweep, held_out, digests))
    return PreparedSearch(sweep, space, chosen, prepared, on_others, digests, identity)


def _check_installed() -> None:
    if importlib.util.find_spec("optuna") is None:
        fix = "pip install 'fusion-slerp[search]'"
        fields = (("missing", "optuna"),)
        raise Problem(SettingsError, "a search needs Optuna, which is not installed", fields, fix).error()


def _evaluation(sweep: PreparedSweep, texts: Mapping[str, Path]) -> PreparedEvaluation:
    from fusion_slerp.evaluation.evaluator import Evaluator

    return Evaluator(dict(texts), **sweep.evaluating.settings).prepare(candidates(sweep.parents, sweep.plan))


def _wrong_budget(chosen: Chosen) -> list[Problem]:
    problems = []
    limits = (
        ("trials", chosen.trials, "at least 1", TRIALS, chosen.trials is None or chosen.trials >= 1),
        (
            "evaluations",
            chosen.evaluations,
            "more than 0",
            10,
            chosen.evaluations is None or chosen.evaluations > 0,
        ),
        ("minutes", chosen.minutes, "more than 0", 20, chosen.minutes is None or chosen.minutes > 0),
        ("sampler_seed", chosen.seed, "0 or more", 0, chosen.seed >= 0),
        ("prune", chosen.prune, "more than 0", STANDARD_ERRORS, chosen.prune is None or chosen.prune > 0),
    )
    for name, found, needed, example, is_right in limits:
        if not is_right:
            fields = (("found", found), ("needed", needed))
            fix = f"use {setting(name, example)}"
            problems.append(Problem(SettingsError, f"invalid {name}", fields, fix))
    return problems


def _without_texts(texts: Mapping[str, Model] | None) -> list[Problem]:
    if texts:
        return []
    fix = f"use {setting('texts', {'name': 'FILE.txt'})}"
    needed = (("needed", "texts to evaluate the trials on"),)
    return [Problem(SettingsError, "a search needs texts", needed, fix)]


def _other_search(folder: Path, identity: Mapping[str, Any]) -> list[Problem]:
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
