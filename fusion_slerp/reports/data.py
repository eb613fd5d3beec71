"""The data of a report: one plain dictionary. The page holds it as JSON, and pictures are drawn from it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion_slerp._version import __version__
from fusion_slerp.errors import FusionSlerpError, Problem, SettingsError, not_an_option, raise_all
from fusion_slerp.output.manifest import ManifestError
from fusion_slerp.output.unfinished import MANIFEST
from fusion_slerp.paths import real_path
from fusion_slerp.reports.evaluations import FILE, read_evaluation, with_labels
from fusion_slerp.reports.summary import summary
from fusion_slerp.settings.labels import BASE, labels
from fusion_slerp.sweeps.record import FILE as SWEEP

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Subject:
    """What a report is about.

    Attributes:
        models: A merged model's folder, a sweep's folder, or two models or more.
        base: The models' ancestor; None without.
        evaluation: A file that `evaluate` wrote; None takes the one in the merged model's folder, if any.
        is_quick: Whether a merged model's weights are not read.
    """

    models: tuple[str, ...]
    base: str | None = None
    evaluation: str | None = None
    is_quick: bool = False


def gather(
    subject: Subject, progress: Callable[[int, int], object] = lambda done, total: None
) -> dict[str, Any]:
    """Returns the data of a report.

    Args:
        subject: What it is about.
        progress: Called with the bytes read and the bytes in all.

    Raises:
        SettingsError: There is nothing to show: one model that is no merge, or no such folder.
        CheckpointError: A model cannot be opened.
    """
    data = _gathered(subject, progress)
    if subject.evaluation is not None:
        data["evaluation"] = with_labels(read_evaluation(real_path(subject.evaluation)), data["models"])
    return completed(data)


def completed(data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns gathered data with the report's format, this version and the summary."""
    return {"format": FORMAT, "fusion_slerp": __version__, **data, "summary": summary(data)}


def _gathered(subject: Subject, progress: Callable[[int, int], object]) -> dict[str, Any]:
    first, *others = subject.models
    if others:
        return _comparison(subject, progress)
    folder = real_path(first)
    if subject.base is not None:
        fields = (("found", f"one model, {first}, and the base {subject.base}"),)
        fix = "name two models or more, or leave --base out"
        raise Problem(SettingsError, "a base needs models to compare", fields, fix).error()
    if os.path.lexists(folder / SWEEP):
        from fusion_slerp.reports.sweep_data import sweep_data

        return sweep_data(folder)
    return _child(first, folder, subject, progress)


def _child(
    given: str, folder: Path, subject: Subject, progress: Callable[[int, int], object]
) -> dict[str, Any]:
    from fusion_slerp.reports.child import child_data

    try:
        data = child_data(folder, progress, subject.is_quick)
    except ManifestError as error:
        raise _nothing_to_show(given, folder, error).error() from None
    if subject.evaluation is None and (folder / FILE).is_file():
        data["evaluation"] = with_labels(read_evaluation(folder / FILE), data["models"])
    return data


def _nothing_to_show(given: str, folder: Path, error: ManifestError) -> Problem:
    word = shlex.quote(not_an_option(given))
    if not folder.is_dir():
        fields = (("found", f"no folder {given}"),)
        return Problem(SettingsError, "nothing to report on", fields, "name a merged model, or two models")
    if os.path.lexists(folder / MANIFEST):
        fields = (("file", folder / MANIFEST), ("found", error))
        return Problem(
            SettingsError, "the merged model's manifest is unusable", fields, f"fusion_slerp verify {word}"
        )
    fields = (
        ("folder", folder),
        ("found", f"neither {MANIFEST} of a merge nor {SWEEP} of a sweep"),
    )
    fix = f"compare it with another model: fusion_slerp report {word} OTHER"
    return Problem(SettingsError, "not a merged model", fields, fix)


def _comparison(subject: Subject, progress: Callable[[int, int], object]) -> dict[str, Any]:
    from fusion_slerp.inspection.facts import inspect_anything
    from fusion_slerp.reports.comparison import comparison_data, differences_of

    names = [*labels(len(subject.models)), *([] if subject.base is None else [BASE])]
    sources = [*subject.models, *([] if subject.base is None else [subject.base])]
    opened, failures = {}, []
    for label, source in zip(names, sources, strict=True):
        try:
            opened[label] = inspect_anything(source)
        except FusionSlerpError as error:
            failures.append(error)
    raise_all(failures)
    models = {label: (model, problems) for label, (model, _, problems) in opened.items()}
    facts = {label: facts for label, (_, facts, _) in opened.items()}
    return comparison_data(models, facts, differences_of(models, progress))
