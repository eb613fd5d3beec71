"""The results of a sweep while it runs: in memory, and in its folder, from which it resumes.

    sweep.json              the record
    losses/a.npz            the losses of a parent's tokens, by which models are compared
    losses/t=0.3.npz        those of a point
    documents/a.json        the values of a parent's documents, if there are tasks
    documents/t=0.3.json    those of a point

Each file is written under another name, flushed and renamed, the details before the record that names them.
So whenever the process dies, the record is complete, and everything it names is there.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from fusion_slerp.errors import OutputError, Problem, listed, setting
from fusion_slerp.evaluation.evaluation import Evaluation, load, save
from fusion_slerp.evaluation.harness_documents import load_documents, save_documents
from fusion_slerp.output.lock import FolderLock, LockedError
from fusion_slerp.output.syncing import sync_folder
from fusion_slerp.output.target import check_target
from fusion_slerp.paths import utf8
from fusion_slerp.sweeps.best import best_of
from fusion_slerp.sweeps.identity import changed
from fusion_slerp.sweeps.judgement import Details
from fusion_slerp.sweeps.points import Values
from fusion_slerp.sweeps.record import (
    FILE,
    RecordError,
    Scores,
    SweepPoint,
    SweepRecord,
    as_fields,
    read_fields,
)
from fusion_slerp.sweeps.scores import has_losses, tasks_of

log = logging.getLogger(__name__)

Kept = TypeVar("Kept")

LOSSES, DOCUMENTS, LOCK, NEW = "losses", "documents", ".lock", ".new"
OURS = (FILE, FILE + NEW, LOSSES, DOCUMENTS, LOCK)
"""Names in the folder of a sweep."""


class Results:
    """The record of a sweep and the details that belong to it.

    Args:
        record: The sweep before its first result.
        folder: Where it is kept, an absolute path; None keeps it in memory alone.
    """

    def __init__(self, record: SweepRecord, folder: Path | None) -> None:
        self.folder = folder
        self.record = record
        self._in_memory: dict[str, Details] = {}

    @contextmanager
    def open(self) -> Iterator[None]:
        """Makes the folder, or reads what an earlier run left there; no other process uses it meanwhile.

        Raises:
            OutputError: As `check_folder`, or another process uses it.
        """
        if self.folder is None:
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(self.folder / LOCK)
        try:
            lock.acquire()
            for problem in check_folder(self.folder, self.record.identity):
                raise problem.error()
            self._replace_record(self.peek())
            yield
        except LockedError as error:
            raise _locked(self.folder, error).error() from None
        finally:
            lock.release()

    def peek(self) -> SweepRecord:
        """Returns the record as `open` would find it."""
        try:
            before = read_fields(self.folder) if self.folder is not None else self.record
        except RecordError:
            return self.record
        return _joined(before, self.record)

    def is_complete(self, points: Sequence[Values]) -> bool:
        """Whether the folder already has the results of all parents and points."""
        record = self.peek()
        known = [record.point(values) for values in points]
        scores = {**record.parents, **{point.name: point.scores for point in known if point is not None}}
        is_known = None not in known and record.parents.keys() == record.models.keys()
        return (
            self.folder is not None and is_known and all(self.has_details(*each) for each in scores.items())
        )

    def details(self, name: str) -> Details:
        """Returns the details of a parent, by label, or of a point, by name: those that are there."""
        if name in self._in_memory or self.folder is None:
            return self._in_memory.get(name, Details())
        return Details(
            _read(load, self._losses_file(name)), _read(load_documents, self._documents_file(name))
        )

    def losses(self, name: str) -> Evaluation | None:
        """Returns the losses of a parent, by label, or of a point, by name; None if they are not there."""
        return self.details(name).losses

    def has_details(self, name: str, scores: Scores) -> bool:
        """Whether all details that belong to the scores of a parent or point are there."""
        if name in self._in_memory or self.folder is None:
            known = self._in_memory.get(name, Details())
            losses, documents = known.losses is not None, known.documents is not None
        else:
            losses, documents = self._losses_file(name).is_file(), self._documents_file(name).is_file()
        return (losses or not has_losses(scores)) and (documents or not tasks_of(scores))

    def add_values(self, values: Values) -> None:
        """Adds a point's values to those that the sweep takes, for a point of no grid."""
        before = self.record.vary
        vary = {name: _all_values(before[name], (value,)) for name, value in values.items()}
        self.record = replace(self.record, vary={**before, **vary})

    def add_parent(self, label: str, scores: Scores, details: Details) -> None:
        """Keeps the result of a parent."""
        self._keep(label, details)
        known = {**self.record.parents, label: scores}
        self._replace(parents={label: known[label] for label in self.record.models if label in known})

    def add_point(self, point: SweepPoint, details: Details) -> None:
        """Keeps the result of a point, in the place of an earlier one with the same values."""
        self._keep(point.name, details)
        others = [other for other in self.record.points if other.values != point.values]
        self.replace_points((*others, point))

    def replace_points(self, points: tuple[SweepPoint, ...]) -> None:
        """Keeps the points, in the order of the values."""
        points = tuple(sorted(points, key=self._rank))
        self._replace(points=points, best=best_of([point.scores for point in points], self.record.metric))

    def _rank(self, point: SweepPoint) -> list[int]:
        return [self.record.vary[name].index(value) for name, value in point.values.items()]

    def _replace(self, **changes: Any) -> None:
        self._replace_record(replace(self.record, **changes))

    def _replace_record(self, record: SweepRecord) -> None:
        self.record = record
        if self.folder is not None:
            content = json.dumps(as_fields(self.record), ensure_ascii=False, indent=1, allow_nan=False)
            write_whole(self.folder / FILE, utf8(f"{content}\n"))

    def _keep(self, name: str, details: Details) -> None:
        if self.folder is None:
            self._in_memory[name] = details
            return
        if details.losses is not None:
            _write(save, details.losses, self._losses_file(name))
        if details.documents is not None:
            _write(save_documents, details.documents, self._documents_file(name))

    def _losses_file(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / LOSSES / f"{name}.npz"

    def _documents_file(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / DOCUMENTS / f"{name}.json"


def _read(read: Callable[[Path], Kept], file: Path) -> Kept | None:
    try:
        return read(file)
    except (OSError, ValueError, KeyError, RecursionError) as error:
        log.debug("no details in %s: %s", file, error)
        return None


def _write(save: Callable[[Kept, Path], None], kept: Kept, file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    part = file.with_name(f".{file.name}{NEW}{file.suffix}")
    save(kept, part)
    _publish(part, file)


def write_whole(file: Path, content: bytes) -> None:
    part = file.with_name(file.name + NEW)
    part.write_bytes(content)
    _publish(part, file)


def _publish(part: Path, file: Path) -> None:
    """Gives a complete file its name, in one step, after its bytes are on the disk."""
    with part.open("rb+") as stream:
        os.fsync(stream.fileno())
    os.replace(part, file)
    sync_folder(file.parent)


def check_folder(folder: Path, identity: Mapping[str, Any]) -> list[Problem]:
    """Returns the problem with keeping a sweep of this identity in a folder, which need not exist."""
    if not os.path.lexists(folder):
        return check_target(folder, overwrite=False)
    if not folder.is_dir():
        fix = f"use {setting('out', f'{folder.name}-2')}"
        return [Problem(OutputError, "the folder of the sweep is a file", (("out", folder),), fix)]
    names = sorted(os.listdir(folder))
    if FILE in names:
        return _other_sweep(folder, identity)
    if strangers := [name for name in names if name not in OURS]:
        fields = (("out", folder), ("found", listed(strangers, 3)))
        fix = f"use {setting('out', f'{folder.name}-2')}"
        return [Problem(OutputError, "the folder holds something else than a sweep", fields, fix)]
    return []


def _other_sweep(folder: Path, identity: Mapping[str, Any]) -> list[Problem]:
    try:
        before = read_fields(folder).identity
    except RecordError as error:
        fields = (("file", folder / FILE), ("found", error))
        fix = f"use {setting('out', f'{folder.name}-2')}, or move the file away"
        return [Problem(OutputError, "the folder's record of a sweep is not readable", fields, fix)]
    others = list(changed(before, identity))
    if not others:
        return []
    fields = (("out", folder), ("differs in", listed(others, 5)))
    fix = f"use {setting('out', f'{folder.name}-2')}"
    return [Problem(OutputError, "the folder holds another sweep", fields, fix)]


def _locked(folder: Path, error: LockedError) -> Problem:
    fix = f"wait until it has ended, or use {setting('out', f'{folder.name}-2')}"
    return Problem(OutputError, "another process runs this sweep", (("out", folder), ("by", error)), fix)


def _joined(before: SweepRecord, now: SweepRecord) -> SweepRecord:
    """The record that goes on: with the values that either has, and the earlier results."""
    vary = {name: _all_values(values, before.vary.get(name, ())) for name, values in now.vary.items()}
    joined = replace(now, vary=vary, parents=before.parents, points=before.points)
    best = best_of([point.scores for point in joined.points], joined.metric)
    return replace(joined, best=best)


def _all_values(before: tuple[Any, ...], now: tuple[Any, ...]) -> tuple[Any, ...]:
    """Both, each value once; sorted if they are numbers and something was added."""
    values = [*before, *(value for value in now if value not in before)]
    is_number = all(isinstance(value, (int, float)) for value in values)
    return tuple(sorted(values) if is_number and len(values) > len(before) else values)
