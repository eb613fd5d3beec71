"""The record of a search: `search.json` in its folder, next to the `sweep.json` of the points it evaluated.

`sweep.json` is that of a sweep, with every point that was evaluated in full: a report shows it, and so does
everything else that reads sweeps. `search.json` holds the trials in their order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fusion_slerp._version import __version__
from fusion_slerp.errors import OutputError, Problem, SettingsError, listed, setting
from fusion_slerp.paths import Named, real_path
from fusion_slerp.sources.json_files import read_json
from fusion_slerp.sweeps.identity import changed
from fusion_slerp.sweeps.points import Values, point_name
from fusion_slerp.sweeps.record import LIMITS, Scores, SweepPoint, SweepRecord, read_record

FORMAT = 1
FILE = "search.json"

COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"
"""States of a trial: evaluated in full, stopped early, or with a loss that is no number."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial of a search.

    Attributes:
        values: What it tried: a value by the name of everything that is varied.
        state: `complete`, `pruned` or `failed`.
        loss: The score that decides; of a trial that was stopped, its loss on what it saw; None if it failed.
        share: How much of an evaluation it took, from 0 (the result was known) to 1.
        n_parts: How many parts it has seen; 0 of a complete one.
        difference: Of a trial that was stopped: how much higher its loss was than the best trial's until
            then, with `stderr`, `low` and `high`.
        seconds: Wall time of the recombination and the evaluation.
    """

    values: Values
    state: str
    loss: float | None
    share: float = 1.0
    n_parts: int = 0
    difference: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """The name of its point."""
        return point_name(self.values)


@dataclass(frozen=True, slots=True)
class Holdout:
    """The best point on texts that the search never saw.

    Attributes:
        point: The name of the point.
        digests: The digest of each text.
        scores: The scores of `best` and of each parent, by label.
        differences: How much the best one's losses exceed those of each parent, by label, then by text.
    """

    point: str
    digests: Mapping[str, Any]
    scores: Mapping[str, Scores]
    differences: Mapping[str, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True, slots=True)
class SearchRecord:
    """A search: what it chose from, and all trials so far.

    Attributes:
        sweep: The parents, and the points that were evaluated in full.
        trials: All trials, in their order.
        identity: What decides their sequence: the space, the sampler, its seed and the rule of stopping.
        holdout: The best point on other texts; None without.
    """

    sweep: SweepRecord
    trials: tuple[Trial, ...] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)
    holdout: Holdout | None = None

    @property
    def best_point(self) -> SweepPoint | None:
        """The best point so far."""
        return self.sweep.best_point

    @property
    def n_evaluations(self) -> float:
        """What the trials cost, in evaluations; the parents' not included."""
        return sum(trial.share for trial in self.trials)

    def __str__(self) -> str:
        from fusion_slerp.searches.conclusions import conclusion

        return conclusion(self)


def search_identity(space: Sequence[Any], sampler: str, seed: int, prune: float | None) -> dict[str, Any]:
    """Returns what decides the sequence of trials, apart from the identity of the sweep: plain values."""
    identity = {
        "format": FORMAT,
        "vary": {dimension.name: dimension.as_fields() for dimension in space},
        "sampler": sampler,
        "seed": seed,
        "prune": prune,
    }
    return json.loads(json.dumps(identity))


def differing(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Problem]:
    """Returns the problem with resuming a search with an identity that is not its own."""
    fix = f"use {setting('out', f'{folder.name}-2')}"
    if before.get("format") != FORMAT:
        fields = (("out", folder), ("found", f"format {before.get('format')!r}, not {FORMAT}"))
        return [Problem(OutputError, "another version of fusion_slerp made this search", fields, fix)]
    others = list(changed(before, now))
    if not others:
        return []
    fields = (("out", folder), ("differs in", listed(others, 5)))
    return [Problem(OutputError, "the folder holds another search", fields, fix)]


def trial_fields(trial: Trial) -> dict[str, Any]:
    """Returns a trial as JSON's values."""
    return {"name": trial.name, **asdict(trial)}


def trial_from(fields: Mapping[str, Any]) -> Trial:
    """Returns the trial that `trial_fields` wrote."""
    return Trial(**{name: value for name, value in fields.items() if name != "name"})


def as_fields(record: SearchRecord) -> dict[str, Any]:
    """Returns a search without its points, which are in `sweep.json`, as JSON's values."""
    best = record.best_point
    return {
        "format": FORMAT,
        "version": __version__,
        "identity": dict(record.identity),
        "trials": [{"number": i, **trial_fields(trial)} for i, trial in enumerate(record.trials)],
        "evaluations": round(record.n_evaluations, 3),
        "best": None if best is None else best.name,
        "holdout": None if record.holdout is None else asdict(record.holdout),
    }


def read_search(folder: Named) -> SearchRecord:
    """Returns the record of a search, which may still be running.

    Raises:
        SettingsError: The folder has none that is readable.
    """
    path = real_path(folder, SettingsError)
    sweep = read_record(path)
    try:
        content = read_fields(path)
        trials = tuple(trial_from(_without_number(each)) for each in content["trials"])
        holdout = content["holdout"] and Holdout(**content["holdout"])
        return SearchRecord(sweep, trials, content["identity"], holdout)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        fields = (("folder", path), ("found", f"{type(error).__name__} {error}"))
        fix = "name the folder that fusion_slerp search was given with -o"
        raise Problem(SettingsError, f"no readable {FILE}", fields, fix).error() from None


def read_fields(folder: Path) -> dict[str, Any]:
    """Returns the content of the file.

    Raises:
        OSError, ValueError, RecursionError: There is none, or it is not readable.
    """
    content = read_json(folder / FILE, LIMITS)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"format {found!r}, not {FORMAT}")
    return content


def _without_number(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "number"}
