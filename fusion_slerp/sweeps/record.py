"""The record of a sweep: `sweep.json` in its folder, which is replaced in one step after every point."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusion_slerp._version import __version__
from fusion_slerp.errors import Problem, SettingsError
from fusion_slerp.paths import Named, real_path
from fusion_slerp.sources.json_files import Limits, read_json
from fusion_slerp.sweeps.best import HIGHER, LOWER, verdict
from fusion_slerp.sweeps.points import Values, point_name
from fusion_slerp.sweeps.scores import TASKS

FORMAT = 1
FILE = "sweep.json"

LIMITS = Limits(200_000_000, 12_000_000, 2_000_000, 20)
"""Enough for 10,000 points with samples: the folder may be a stranger's."""

Scores = Mapping[str, Any]
"""Scores by name, nested: of texts, `{text: {"loss", "loss_stderr", ...}, ..., "average": {...}}`; of tasks,
`{"tasks": {task: {"n", "metrics": {metric: {"value", "stderr", ...}}, ...}}, "average": {"score", ...}}`.
"""


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One point of a sweep, evaluated.

    Attributes:
        values: The value of everything that is varied, by name.
        scores: Its scores.
        differences: How much its losses and scores exceed those of each parent, by label, and those of the
            best point, as `"best"`: `value`, `stderr` and the 95 % interval's `low` and `high`, by text in
            nats per token, paired by token, and by `TASK.METRIC` and `average.score`, paired by document. A
            parent that other tokens were scored for is missing, and so is `"best"` while the sweep runs.
            Scores that are not means over tokens or documents have none.
        seconds: Wall time of `merge`, the recombination, and of `evaluate`.
        samples: What the model wrote: `{"prompt", "text"}` for each prompt.
    """

    values: Values
    scores: Scores
    differences: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    samples: tuple[Mapping[str, str], ...] = ()

    @property
    def name(self) -> str:
        """Its name in files and folders."""
        return point_name(self.values)


@dataclass(frozen=True, slots=True)
class SweepRecord:
    """A sweep: what it varies, and all that was evaluated so far.

    Attributes:
        format: The format of the record.
        version: The version of fusion_slerp that wrote it.
        method: The method; several, joined by commas, if methods are compared.
        models: The parents by label: `source`, `revision` of a model from the Hub, and its `name` in a pool.
        settings: The options that are the same at every point, without those that have their default.
        vary: What is varied, by name, with the values that it takes.
        metric: `name`, the path of the score that decides in `scores`, and `better`: `lower` or `higher`.
        parents: The parents' scores by label; those that were not evaluated (yet) are missing.
        points: The points that were evaluated, in the order of the values.
        best: The index of the best one; None if there is none yet.
        identity: Everything that decides the results; see `sweeps.identity`.
    """

    method: str
    models: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]
    vary: Mapping[str, tuple[Any, ...]]
    metric: Mapping[str, str]
    parents: Mapping[str, Scores] = field(default_factory=dict)
    points: tuple[SweepPoint, ...] = ()
    best: int | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT
    version: str = __version__

    @property
    def best_point(self) -> SweepPoint | None:
        """The best point so far."""
        return None if self.best is None else self.points[self.best]

    def point(self, values: Values) -> SweepPoint | None:
        """Returns the point with these values; None if it was not evaluated."""
        return next((point for point in self.points if point.values == values), None)

    def __str__(self) -> str:
        return verdict(self)


class RecordError(Exception):
    """A record is missing, damaged or of another format; the message says how."""


def read_record(folder: Named) -> SweepRecord:
    """Returns the record of a sweep, which may still be running.

    Raises:
        SettingsError: The folder has none that is readable.
    """
    path = real_path(folder, SettingsError)
    try:
        return read_fields(path)
    except RecordError as error:
        fields = (("folder", path), ("found", error))
        fix = "name the folder that fusion_slerp sweep was given with -o"
        raise Problem(SettingsError, f"no readable {FILE}", fields, fix).error() from None


def read_fields(folder: Path) -> SweepRecord:
    """Returns the record in a folder.

    Raises:
        FileNotFoundError: There is none.
        RecordError: It is not readable.
    """
    try:
        content = read_json(folder / FILE, LIMITS)
    except FileNotFoundError:
        raise RecordError("there is none") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"not readable: {error}") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        newer = (
            ": a newer version of fusion_slerp wrote it" if isinstance(found, int) and found > FORMAT else ""
        )
        raise RecordError(f"format {found!r}, not {FORMAT}{newer}")
    try:
        return _record(content)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise RecordError(f"damaged: {type(error).__name__} {error}") from None


def as_fields(record: SweepRecord) -> dict[str, Any]:
    """Returns the record as JSON's values; a number that JSON lacks, such as NaN, is null."""
    return {
        "format": record.format,
        "version": record.version,
        "method": record.method,
        "models": json_value(record.models),
        "settings": json_value(record.settings),
        "vary": json_value(record.vary),
        "metric": dict(record.metric),
        "parents": json_value(record.parents),
        "points": [_point_fields(point) for point in record.points],
        "best": record.best,
        "identity": json_value(record.identity),
    }


def _point_fields(point: SweepPoint) -> dict[str, Any]:
    names = ("values", "scores", "differences", "seconds", "samples")
    return {"name": point.name, **{name: json_value(getattr(point, name)) for name in names}}


def json_value(value: Any) -> Any:
    """Returns plain values as JSON has them: lists for tuples, null for a number that JSON lacks."""
    if isinstance(value, Mapping):
        return {str(key): json_value(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _record(content: Mapping[str, Any]) -> SweepRecord:
    points = tuple(map(_point, content["points"]))
    best, metric = content["best"], dict(content["metric"])
    if best is not None:
        points[best]
    if metric["better"] not in (LOWER, HIGHER) or not isinstance(metric["name"], str):
        raise ValueError(f"metric {metric}")
    return SweepRecord(
        method=str(content["method"]),
        models={str(label): dict(model) for label, model in content["models"].items()},
        settings=dict(content["settings"]),
        vary={str(name): tuple(values) for name, values in content["vary"].items()},
        metric=metric,
        parents={str(label): _numbers(scores) for label, scores in content["parents"].items()},
        points=points,
        best=best,
        identity=dict(content["identity"]),
        version=str(content["version"]),
    )


def _point(content: Mapping[str, Any]) -> SweepPoint:
    return SweepPoint(
        dict(content["values"]),
        _numbers(dict(content["scores"])),
        _numbers(dict(content["differences"])),
        _numbers(dict(content["seconds"])),
        tuple(dict(sample) for sample in content["samples"]),
    )


def _numbers(value: Any) -> Any:
    """Scores in which null stands for NaN; those of tasks are plain JSON already."""
    if isinstance(value, Mapping):
        return {key: each if key == TASKS else _numbers(each) for key, each in value.items()}
    return math.nan if value is None else value
