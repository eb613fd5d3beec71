"""Chooses the point of the next trial, with Optuna's samplers.

A choice depends on the seed, the number of the trial and the finished trials alone: each one is made by a
sampler of its own, in a study of its own. So a search that was stopped continues as if it never had been.
"""

from __future__ import annotations

import importlib.util
import json
import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from fusion_slerp.errors import Problem, SettingsError, nearest, setting
from fusion_slerp.searches.space import UNIFORM, Choices, Dimension, Space, all_points, first_points, size
from fusion_slerp.sweeps.points import point_name

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

TPE, GRID = "tpe", "grid"

Direction = Literal["minimize", "maximize"]

OURS = "fusion_slerp"
"""The attribute of a study and of each trial that holds what Optuna has no field for."""

PACKAGES: Mapping[str, tuple[str, ...]] = {
    TPE: (),
    "gp": ("scipy", "torch"),
    "cmaes": ("cmaes",),
    "random": (),
    GRID: (),
}
"""The samplers by name, with the packages that each needs besides Optuna."""

STARTUP_TRIALS = len(UNIFORM)
"""Trials before the sampler's model decides: the first points. Optuna's 10 would be a third of a usual search
of merges, whose losses have one smooth valley.
"""

GOOD_TRIALS, CANDIDATES = 3, 200
"""For TPE: how many trials count as good at least, and how many points compete for the next one. Losses of
merges are smooth and differences between them precise, so that more trust in the best trials pays: with
Optuna's 1 (of up to 10 trials) and 24, a simulated search of t by 5 evaluations came within the noise of the
best value in 7 of 16 cases; with these in all.
"""

TRIES = 1000
"""Random points that may turn out to be tried already before the first untried one is taken."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """The point of a trial.

    Attributes:
        values: A value by the name of each dimension.
        attributes: What the sampler wants to remember of the trial.
    """

    values: Mapping[str, Any]
    attributes: Mapping[str, Any] = field(default_factory=dict)


def check_sampler(sampler: str, space: Space) -> list[Problem]:
    """Returns the problems with a sampler: it is unknown, not installed, or does not suit the space."""
    if sampler not in PACKAGES:
        found = f"{sampler!r}{nearest(str(sampler), PACKAGES)}"
        fields = (("found", found), ("needed", ", ".join(PACKAGES)))
        return [Problem(SettingsError, "no such sampler", fields, f"use {setting('sampler', TPE)}")]
    if missing := [name for name in PACKAGES[sampler] if importlib.util.find_spec(name) is None]:
        fix = f"pip install {' '.join(missing)}, or use {setting('sampler', TPE)}"
        fields = (("missing", ", ".join(missing)),)
        return [Problem(SettingsError, f"the sampler {sampler} is not installed", fields, fix)]
    endless = [each for each in space if not isinstance(each, Choices)]
    if sampler != GRID or not endless:
        return []
    example = {each.name: f"{_number(each.low)}:{_number(each.high)}:STEP" for each in endless}
    fields = (("found", ", ".join(f"{each.name}={each.low}:{each.high}" for each in endless)),)
    fix = f"use {setting('vary', example)}"
    return [Problem(SettingsError, "the sampler grid needs steps", fields, fix)]


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def suggest(
    space: Space,
    finished: Sequence[FrozenTrial],
    tried: Sequence[Mapping[str, Any]],
    sampler: str,
    seed: int,
    direction: Direction = "minimize",
) -> Suggestion | None:
    """Returns the point of the next trial; None if every point was tried.

    Args:
        space: What to choose from.
        finished: All trials so far, in their order.
        tried: Their points.
        sampler: A name of `PACKAGES`.
        seed: The seed of the search.
        direction: Whether lower or higher is better.
    """
    number, known = len(finished), {point_name(values) for values in tried}
    if len(known) >= size(space):
        return None
    if sampler == GRID:
        return Suggestion(next(point for point in all_points(space) if point_name(point) not in known))
    first = first_points(space)
    if number < len(first):
        return Suggestion(first[number])
    suggestion = _sampled(space, finished, _sampler(sampler, _seed(seed, number)), direction)
    if point_name(suggestion.values) not in known:
        return suggestion
    return Suggestion(_untried(space, known, random.Random(f"{seed} {number}")))


def _seed(seed: int, number: int) -> int:
    import numpy as np

    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def _sampled(
    space: Space, finished: Sequence[FrozenTrial], sampler: BaseSampler, direction: Direction
) -> Suggestion:
    import optuna

    study = optuna.create_study(sampler=sampler, direction=direction)
    study.add_trials(_with_estimates(finished))
    trial = study.ask(distributions(space))
    values = {dimension.name: value_of(dimension, trial.params[dimension.name]) for dimension in space}
    return Suggestion(values, dict(study.trials[trial.number].system_attrs))


def _with_estimates(finished: Sequence[FrozenTrial]) -> Iterator[FrozenTrial]:
    """Yields the trials; those that stopped early as complete ones, with an estimate of their score.

    That is the best score until then and the difference from it, which is known well, as it is paired. Some
    samplers would otherwise ignore these trials, which are most.
    """
    from optuna.trial import TrialState, create_trial

    best = math.inf
    for trial in finished:
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            best = min(best, trial.value)
        if trial.state != TrialState.PRUNED:
            yield trial
            continue
        yield create_trial(
            value=best + trial.user_attrs[OURS]["difference"]["value"],
            params=trial.params,
            distributions=trial.distributions,
            system_attrs=trial.system_attrs,
        )


def _sampler(name: str, seed: int) -> BaseSampler:
    """Returns a fresh sampler of Optuna; all dimensions are chosen together, as they depend on each other."""
    from optuna import samplers

    if name == TPE:
        return _tpe(seed)
    if name == "gp":
        return samplers.GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
    if name == "cmaes":
        return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
    return samplers.RandomSampler(seed=seed)


def _tpe(seed: int) -> BaseSampler:
    from optuna.samplers import TPESampler

    with warnings.catch_warnings():  # `gamma` is to be removed in Optuna 6
        warnings.simplefilter("ignore", FutureWarning)
        return TPESampler(
            seed=seed,
            n_startup_trials=STARTUP_TRIALS,
            n_ei_candidates=CANDIDATES,
            gamma=lambda n: max(GOOD_TRIALS, math.ceil(0.1 * n)),
            multivariate=True,
            constant_liar=False,
        )


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Returns the space as Optuna has it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for each in space:
        if not isinstance(each, Choices):
            found[each.name] = FloatDistribution(each.low, each.high)
        elif each.is_ordered:  # by the index of the step: its number is exact
            found[each.name] = IntDistribution(0, len(each.values) - 1)
        else:
            found[each.name] = CategoricalDistribution(tuple(map(_choice, each.values)))
    return found


def value_of(dimension: Any, param: Any) -> Any:
    """Returns the value that an Optuna parameter stands for."""
    if not isinstance(dimension, Choices):
        return dimension.nearest(param)
    if dimension.is_ordered:
        return dimension.values[param]
    return next(value for value in dimension.values if _choice(value) == param)


def params_of(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a point as Optuna's parameters."""
    return {dimension.name: _param(dimension, values[dimension.name]) for dimension in space}


def _param(dimension: Any, value: Any) -> Any:
    if not isinstance(dimension, Choices):
        return value
    return dimension.values.index(value) if dimension.is_ordered else _choice(value)


def _choice(value: Any) -> Any:
    """A value as one of Optuna's categories, which are plain."""
    return value if isinstance(value, str | int | float | bool | None) else json.dumps(value)


def _untried(space: Space, known: set[str], rng: random.Random) -> Mapping[str, Any]:
    """A random point in the place of one that was tried."""

    def draw(each: Dimension) -> Any:
        return rng.choice(each.values) if isinstance(each, Choices) else each.at(rng.random())

    for _ in range(TRIES):
        point = {dimension.name: draw(dimension) for dimension in space}
        if point_name(point) not in known:
            return point
    rest = islice(all_points(space), len(known) + 1)
    return next(point for point in rest if point_name(point) not in known)
