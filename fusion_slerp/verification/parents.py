"""The source models of a merged model: where they are now, and whether they are still what was merged."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusion_slerp.errors import CheckpointError, FusionSlerpError, Problem, SettingsError, nearest, raise_all
from fusion_slerp.output.identity import fingerprint
from fusion_slerp.output.unfinished import differences
from fusion_slerp.sources.folder import CONFIG, Checkpoint
from fusion_slerp.sources.opening import open_source
from fusion_slerp.verification.findings import Deviation

Given = Mapping[str, str | os.PathLike[str]]
"""Where the user says that models are, by label."""

Row = Mapping[str, Any]
"""What the manifest says of a source model."""


def open_parents(
    rows: Mapping[str, Row], child: Path, given: Given, command: Sequence[str]
) -> dict[str, Checkpoint]:
    """Opens the source models of a merged model.

    Args:
        rows: The rows of the manifest's `parents`.
        child: The merged model's folder.
        given: Where models are now. The others are looked for under their own names next to the merged model
            and in the current folder, and those of the Hub, at the revision merged, in its cache and online.
        command: The words of the command that verifies, for the message about models that are missing.

    Raises:
        SettingsError: `given` names a model that was not merged.
        CheckpointError: Models cannot be found or opened, or were in memory. All of them are named.
    """
    problems: list[Problem | FusionSlerpError] = list(_unknown_labels(rows, given))
    opened: dict[str, Checkpoint] = {}
    missing: dict[str, list[str]] = {}
    for label, row in rows.items():
        looked: list[str] = []
        try:
            model = _open(label, row, child, given.get(label), looked)
        except FusionSlerpError as error:
            problems.append(error)
            continue
        if model is None:
            missing[label] = looked
        else:
            opened[label] = model
    if missing:
        problems.append(_missing(rows, missing, command))
    raise_all(problems, so="nothing was compared with the source models")
    return {label: opened[label] for label in rows}


def _unknown_labels(rows: Mapping[str, Any], given: Given) -> Iterator[Problem]:
    for label in given:
        if label not in rows:
            fields = (("found", f"{label!r}{nearest(str(label), rows)}"), ("needed", ", ".join(rows)))
            yield Problem(SettingsError, "no such source model", fields, "use a label of the manifest")


def _open(
    label: str, row: Row, child: Path, given: str | os.PathLike[str] | None, looked: list[str]
) -> Checkpoint | None:
    """Opens a model where the user says it is, or where it is found; notes where it was looked for.

    Raises:
        FusionSlerpError: It was in memory, or it cannot be opened.
    """
    if "files" not in row:
        fields = (("model", f"{label}, {str(row['model'])!r}"), ("found", "a model that was in memory"))
        fix = "verify without --inputs and --recompute"
        raise Problem(CheckpointError, "the source models were not checkpoints", fields, fix).error()
    if given is not None:
        return open_source(given, follow_links=True)  # nothing is copied from it
    name, revision = str(row["model"]), row.get("revision")
    folders = neighbours(name, child)
    looked += map(str, folders)
    models = [folder for folder in folders if (folder / CONFIG).is_file()]
    if revision is None:
        return _first_that_fits(models, row)
    return _of_the_hub(f"{name}@{revision}", models, row, looked)


def neighbours(name: str, child: Path) -> list[Path]:
    """Returns where a folder of this name may be: next to the merged model, and in the current folder."""
    last = Path(name).name
    return list(dict.fromkeys([child.parent / last, Path.cwd() / last]))


def _first_that_fits(folders: Sequence[Path], row: Row) -> Checkpoint | None:
    """Opens the first folder that holds what was merged; if none does, the first."""
    if len(folders) < 2:
        return open_source(folders[0], follow_links=True) if folders else None
    return _fitting(folders, row) or open_source(folders[0], follow_links=True)


def _fitting(folders: Sequence[Path], row: Row) -> Checkpoint | None:
    for folder in folders:
        try:
            model = open_source(folder, follow_links=True)
        except FusionSlerpError:
            continue
        if not check_fingerprint("", model, row):
            return model
    return None


def _of_the_hub(source: str, folders: Sequence[Path], row: Row, looked: list[str]) -> Checkpoint | None:
    """Opens a model of the Hub from its cache or from a folder that holds what was merged, else online."""
    cached = _cached(source)
    model = _fitting([*cached, *folders], row)
    if model is not None:
        return model
    try:
        return open_source(source, follow_links=True)
    except CheckpointError as error:
        if cached:  # it is there, and damaged
            raise
        fields = [
            field for problem in error.problems if isinstance(problem, Problem) for field in problem.fields
        ]
        looked.append(f"{source} on the Hub ({dict(fields).get('hub', 'not available')})")
        return None


def _cached(source: str) -> list[Path]:
    import huggingface_hub as hub

    name, _, revision = source.partition("@")
    try:
        return [Path(hub.snapshot_download(name, revision=revision, local_files_only=True))]
    except (OSError, ValueError):  # it is not there, or this is no id
        return []


def _missing(
    rows: Mapping[str, Row], missing: Mapping[str, Sequence[str]], command: Sequence[str]
) -> Problem:
    """One problem for all models that are missing, with the command that says where they are."""
    names = ", ".join(f"{label} ({str(rows[label]['model'])!r})" for label in missing)
    headline = f"cannot find model{'s' * (len(missing) > 1)} {names}"
    fields = [("looked for", where) for each in missing.values() for where in each]
    fields.append(("in Python", f"models={dict.fromkeys(missing, 'FOLDER')!r}"))
    words = [word for label in missing for word in ("--model", f"{label}=FOLDER")]
    return Problem(CheckpointError, headline, tuple(fields), shlex.join([*command, *words]))


def check_fingerprint(label: str, parent: Checkpoint, row: Row) -> list[Deviation]:
    """Returns how a model differs from the one that was merged, by its headers, config and tokenizer."""
    now = fingerprint(parent)
    return [
        Deviation(f"{label}: {name}", None, f"not the file that was merged ({what})")
        for kind in ("beside", "files")
        for name in dict.fromkeys([*row[kind], *now[kind]])
        for what in _differences(row[kind].get(name), now[kind].get(name))[:1]
    ]


def _differences(before: Mapping[str, str] | None, now: Mapping[str, str] | None) -> list[str]:
    """How two rows differ. Only files in the Hub's cache have a SHA-256; it counts if both have one."""
    if before and now and ("sha256" in before) != ("sha256" in now):
        before, now = ({k: v for k, v in each.items() if k != "sha256"} for each in (before, now))
    return differences(before, now)
