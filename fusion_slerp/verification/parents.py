"""The source models of a merged model: where they are now, and whether they are still what was merged."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusion_slerp.engine.steps import OnBytes
from fusion_slerp.errors import CheckpointError, FusionSlerpError, Problem, SettingsError, nearest, raise_all
from fusion_slerp.hashes import file_digest
from fusion_slerp.output.identity import HUB_SHA256, fingerprint
from fusion_slerp.output.unfinished import differences
from fusion_slerp.paths import absolute_text
from fusion_slerp.sources.folder import CONFIG, Checkpoint
from fusion_slerp.sources.hub.cache import COMMIT, snapshot
from fusion_slerp.sources.opening import open_source
from fusion_slerp.verification.findings import Deviation

Given = Mapping[str, str | os.PathLike[str]]
"""Where the user says that models are, by label."""

Row = Mapping[str, Any]
"""What the manifest says of a source model, or of a file of it."""

HASHING = "hashing"
"""The pass that computes digests, as progress names it."""

DIGESTS = (HUB_SHA256, "sha256")
LISTED = "sha256, as the Hub lists it now"


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
    models = [folder for folder in folders if os.path.isfile(folder / CONFIG)]
    if revision is None:
        return _first_that_fits(models, row)
    return _of_the_hub(f"{name}@{revision}", models, row, looked)


def neighbours(name: str, child: Path) -> list[Path]:
    """Returns where a folder of this name may be: next to the merged model, and in the current folder."""
    last = Path(name).name
    return list(dict.fromkeys([child.parent / last, Path(absolute_text(Path(last)))]))


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
        given = dict(fields)
        looked.append(f"{source} on the Hub ({given.get('hub') or given.get('found') or 'not available'})")
        return None


def _cached(source: str) -> list[Path]:
    """The folder of a commit in the Hub's cache, if it is there."""
    name, _, revision = source.partition("@")
    folder = snapshot(name, revision) if COMMIT.fullmatch(revision) else None
    return [folder] if folder is not None and os.path.isdir(folder) else []


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
        for what in _differences(kind, row[kind].get(name), now[kind].get(name))[:1]
    ]


def _differences(kind: str, before: Row | None, now: Row | None) -> list[str]:
    """How two rows differ: the manifest's, and one of the file as it is, without its weights."""
    if kind == "beside" or before is None or now is None:  # the digests of these were computed, then and now
        return differences(before, now)
    old, new = ({k: v for k, v in row.items() if k not in DIGESTS} for row in (before, now))
    digest = before.get(HUB_SHA256) or before.get("sha256")
    if digest and HUB_SHA256 in now:
        old[LISTED], new[LISTED] = digest, now[HUB_SHA256]
    return differences(old, new)


def nbytes_hashed(parents: Mapping[str, Checkpoint], rows: Mapping[str, Row]) -> int:
    """Returns the bytes that `check_digests` reads."""
    return sum(
        (parents[label].folder / name).stat().st_size
        for label in parents
        for name, row in rows[label]["files"].items()
        if row.get("sha256") is not None
    )


def check_digests(
    parents: Mapping[str, Checkpoint], rows: Mapping[str, Row], on_bytes: OnBytes
) -> Iterator[Deviation | None]:
    """Computes the SHA-256 of each weight file for which the manifest has one that was computed.

    Args:
        parents: The source models by label.
        rows: What the manifest says of them.
        on_bytes: Called with the bytes of each file, `HASHING` and its name.

    Yields:
        A deviation, or None, for each file that was read.
    """
    for label, parent in parents.items():
        for name, row in rows[label]["files"].items():
            before = row.get("sha256")
            if before is not None:
                now = file_digest(parent.folder / name, "sha256")
                on_bytes((parent.folder / name).stat().st_size, HASHING, name)
                difference = f"its SHA-256 is {now}, and {before} in the manifest"
                yield None if now == before else Deviation(f"{label}: {name}", None, difference)
