"""The data of a report about a sweep, from its record."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusion_slerp.errors import FusionSlerpError
from fusion_slerp.output.lineage import public_name
from fusion_slerp.reports.evaluations import finite, paired, scored, side_by_side
from fusion_slerp.reports.models import model_fields, recorded_fields
from fusion_slerp.reports.names import plain, without_folders
from fusion_slerp.reports.reproduction import reproduction
from fusion_slerp.reports.search_data import search_data
from fusion_slerp.settings.labels import BASE
from fusion_slerp.sources.opening import open_source
from fusion_slerp.sweeps.axes import options_at, parse_axes
from fusion_slerp.sweeps.best import verdict, within_noise
from fusion_slerp.sweeps.record import SweepPoint, SweepRecord, read_record
from fusion_slerp.sweeps.scores import difference_key, score_at, stderr_at, text_of

BEST = "best"


def sweep_data(folder: Path) -> dict[str, Any]:
    """Returns the data of a report about a sweep, or a search.

    Raises:
        SettingsError: The folder has no readable record.
    """
    data = record_data(read_record(folder), folder.resolve().name)
    search = search_data(folder)
    return (
        data if search is None else {**data, "kind": "search", "sweep": {**data["sweep"], "search": search}}
    )


def record_data(record: SweepRecord, name: str) -> dict[str, Any]:
    """Returns the data of a report about a sweep from its record; see `sweep_data`."""
    settings = without_folders(record.settings)
    rows = {label: _row(label, model) for label, model in record.models.items()}
    best = record.best_point
    scores = {**record.parents, **({} if best is None else {BEST: best.scores})}
    samples = {} if best is None else {BEST: best.samples}
    return {
        "kind": "sweep",
        "name": name,
        "made_by": record.version,
        "method": record.method,
        "models": [_model(label, row, record.models[label]) for label, row in rows.items()],
        "has_base": BASE in rows,
        "sweep": _sweep(record),
        "evaluation": {
            **scored(scores),
            "differences": paired({} if best is None else {BEST: _of_parents(best)}),
            "samples": side_by_side(samples),
        },
        "settings": {"method": record.method, **settings},
        "reproduction": _best_merge(record, settings, rows),
    }


def _row(label: str, model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's public name, as the manifest of a merge has it: what has no revision is a folder."""
    source = str(model.get("source", label))
    name = source.partition("@")[0] if model.get("revision") else re.split(r"[/\\]", source.rstrip("/\\"))[-1]
    return {"model": public_name(name), **({"revision": model["revision"]} if model.get("revision") else {})}


def _model(label: str, row: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """What the report says of a model: of a folder that is still there, what its files say."""
    recorded = recorded_fields(label, row)
    source = str(model.get("source", label))
    if model.get("revision") or not os.path.isdir(source):
        return recorded
    try:
        opened = model_fields(label, open_source(source, follow_links=True))
    except (FusionSlerpError, OSError):
        return recorded
    return {**recorded, **opened, "name": row["model"]}


def _sweep(record: SweepRecord) -> dict[str, Any]:
    noise = within_noise(record) if record.best is not None else None
    return {
        "vary": {name: without_folders(values) for name, values in record.vary.items()},
        "metric": dict(record.metric),
        "text": text_of(record.metric),
        "points": [_point(point, record) for point in record.points],
        "parents": {
            label: finite(score_at(each, record.metric["name"])) for label, each in record.parents.items()
        },
        "best": record.best,
        "verdict": verdict(record),
        "within_noise": None if noise is None else list(noise),
        **{
            key: scored({str(i): point.scores for i, point in enumerate(record.points)})[key]
            for key in ("texts",)
        },
    }


def _point(point: SweepPoint, record: SweepRecord) -> dict[str, Any]:
    scores = scored({"point": point.scores})["models"].get("point", {})
    from_best, path = (
        point.differences.get(BEST, {}).get(difference_key(record.metric)),
        record.metric["name"],
    )
    return {
        "values": {name: plain(without_folders(value)) for name, value in point.values.items()},
        "metric": finite(score_at(point.scores, path)),
        "metric_stderr": finite(stderr_at(point.scores, path)),
        "scores": scores,
        "from_best": None if from_best is None else {k: finite(v) for k, v in from_best.items()},
        "seconds": {key: finite(value) for key, value in point.seconds.items()},
    }


def _of_parents(point: SweepPoint) -> dict[str, Any]:
    """The differences of losses from the parents; those of tasks' scores have no text of their key."""
    of_losses = {
        label: {text: each for text, each in differences.items() if text in point.scores}
        for label, differences in point.differences.items()
        if label != BEST
    }
    return {label: each for label, each in of_losses.items() if each}


def _options(record: SweepRecord, settings: Mapping[str, Any], point: SweepPoint) -> dict[str, Any]:
    """The options of a point, as a merge takes them."""
    values = without_folders(point.values)
    given = {"method": values.get("method", record.method), **settings}
    own = {label: label for label in record.models if label != BASE}
    try:
        axes = parse_axes(without_folders(record.vary), given, own)
        return options_at(axes, values, given, len(own))
    except FusionSlerpError:  # of another version
        return {**given, **values}


def _best_merge(
    record: SweepRecord, settings: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any] | None:
    """How to make the best point's model."""
    best = record.best_point
    if best is None:
        return None
    chosen = _options(record, settings, best)
    parents = {label: {**row, "files": {}} for label, row in rows.items()}
    return {**reproduction(parents, chosen, "best"), "verify": None}
