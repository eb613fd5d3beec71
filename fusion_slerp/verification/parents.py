"""The source models of a merged model: where they are now, and whether they are still what was merged."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fusion_slerp.errors import CheckpointError, FusionSlerpError, Problem, SettingsError, nearest, raise_all
from fusion_slerp.output.identity import fingerprint
from fusion_slerp.output.unfinished import differences
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.opening import open_source
from fusion_slerp.verification.findings import Deviation

Given = Mapping[str, str | os.PathLike[str]]
"""Where the user says that models are, by label."""


def open_parents(rows: Mapping[str, Mapping[str, Any]], child: Path, given: Given) -> dict[str, Checkpoint]:
    """Opens the source models of a merged model.

    Args:
        rows: The manifest's `parents`.
        child: The merged model's folder.
        given: Where models are now; the others are on the hub at the revision merged, or next to the merged
            model under their own names.

    Raises:
        SettingsError: `given` names a model that was not merged.
        CheckpointError: Models are not there, cannot be opened, or were in memory. All of them are named.
    """
    problems: list[Problem | FusionSlerpError] = list(_unknown_labels(rows, given))
    opened: dict[str, Checkpoint] = {}
    for label, row in rows.items():
        try:
            source = locate(label, row, child, given.get(label))
            opened[label] = open_source(source, follow_links=True)  # nothing is copied from them
        except FusionSlerpError as error:
            problems.append(error)
    raise_all(problems, so="nothing was compared with the source models")
    return opened


def _unknown_labels(rows: Mapping[str, Any], given: Given) -> Iterator[Problem]:
    for label in given:
        if label not in rows:
            fields = (("found", f"{label!r}{nearest(str(label), rows)}"), ("needed", ", ".join(rows)))
            yield Problem(SettingsError, "no such source model", fields, "use the labels of the manifest")


def locate(label: str, row: Mapping[str, Any], child: Path, given: str | os.PathLike[str] | None) -> str:
    """Returns where a source model is: as the user says, on the hub, or next to the merged model.

    Raises:
        CheckpointError: It is a local folder, and not there; or it was in memory.
    """
    name, revision = str(row["model"]), row.get("revision")
    if "files" not in row:
        fields = (("model", f"{label}, {name!r}"), ("found", "a model that was in memory"))
        fix = "leave out --inputs and --recompute"
        raise Problem(CheckpointError, "the source models were not checkpoints", fields, fix).error()
    if given is not None:
        return os.fspath(given)
    if revision is not None:
        return f"{name}@{revision}"
    beside = child.parent / Path(name).name
    if beside.is_dir():
        return str(beside)
    fix = f"say where it is: --model {label}=FOLDER, or in Python models={{{label!r}: 'FOLDER'}}"
    fields = (("looked for", beside),)
    raise Problem(CheckpointError, f"cannot find model {label} ({name!r})", fields, fix).error()


def check_fingerprint(label: str, parent: Checkpoint, row: Mapping[str, Any]) -> list[Deviation]:
    """Returns how a source model differs from the one that was merged, as far as headers and config show."""
    now = fingerprint(parent)
    return [
        Deviation(f"{label}: {name}", None, f"another file than was merged ({what})")
        for kind in ("beside", "files")
        for name in dict.fromkeys([*row[kind], *now[kind]])
        for what in _differences(row[kind].get(name), now[kind].get(name))[:1]
    ]


def _differences(before: Mapping[str, str] | None, now: Mapping[str, str] | None) -> list[str]:
    """How two rows differ. Only files in the hub's cache have a SHA-256; it counts if both have it."""
    if before and now and ("sha256" in before) != ("sha256" in now):
        before, now = ({k: v for k, v in each.items() if k != "sha256"} for each in (before, now))
    return differences(before, now)
