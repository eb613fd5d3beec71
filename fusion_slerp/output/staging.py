"""The folder next to the target in which the merged model is made, and the rename that publishes it.

`.NAME.partial/` holds a lock, a journal and the merged model's files:

    lock             held by the process that works here; see `lock`
    journal.jsonl    what is merged, and which weight files are finished; see `journal`
    files/           the merged model; becomes the target by one rename, complete or not at all
    replaced/        an earlier output, moved aside where the system cannot exchange two folders
    ranks/           traces of the other processes of a shared merge; see `ranks_folder`

A failure or a stop leaves the target unchanged. If a weight file is finished by then, and the same call
could succeed, the folder stays and the same call resumes there; otherwise it is removed.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from fusion_slerp.engine.report import WeightFile
from fusion_slerp.errors import FusionSlerpError, OutputError, Problem, raise_all
from fusion_slerp.hashes import Checksum, file_digest
from fusion_slerp.interruption import check_signals
from fusion_slerp.output.journal import Content, Identity, Journal, read_journal
from fusion_slerp.output.lock import FolderLock, LockedError
from fusion_slerp.output.partial_folder import (
    FILES,
    JOURNAL,
    LOCK,
    RANKS,
    REPLACED,
    check_partial_folder,
    rank_at_work,
    remove,
    staging_folder,
)
from fusion_slerp.output.renames import exchange, rename_new
from fusion_slerp.output.syncing import flush, sync_folder
from fusion_slerp.output.target import check_target
from fusion_slerp.output.unfinished import (
    clean_command,
    find_unfinished,
    is_published,
    locked,
    other_merge,
    put_back,
    warn_of_rest,
)
from fusion_slerp.settings.merge_settings import Overwrite
from fusion_slerp.waiting import pool, results

log = logging.getLogger(__name__)

KEPT = "kept"
"""The field of a message that says what an interrupted merge left."""

VERIFIERS = 2
"""Finished files that are verified at a time."""


@dataclass(frozen=True, slots=True)
class Staging:
    """A staging folder under the lock of this process.

    Attributes:
        target: The merged model's folder.
        finished: The weight files that are complete and on the disk, by name; those of an interrupted run
            included, once they are verified.
    """

    target: Path
    finished: dict[str, WeightFile]
    _journal: Journal
    _lock: FolderLock

    @property
    def files(self) -> Path:
        """Where the merged model's files are made."""
        return staging_folder(self.target) / FILES

    def add(self, file: WeightFile) -> None:
        """Records that a weight file is complete and on disk; from any thread.

        Raises:
            OSError: The record cannot be written.
        """
        self._journal.add(file)
        self.finished[file.name] = file

    def publish(self, manifest_digest: str, overwrite: Overwrite) -> None:
        """Publishes the merged model at the target.

        Args:
            manifest_digest: The digest by which a later run recognises the model.
            overwrite: Whether to replace what is there; if not, nothing may be there.

        Raises:
            OutputError: What is there has become something that is not replaced.
            OSError: The disk is failing, or another process has created the target in the meantime.
        """
        flush(self.files, self.finished)
        check_signals()
        self._journal.publish(manifest_digest)
        if overwrite and os.path.lexists(self.target):
            for problem in check_target(self.target, overwrite, self.target):  # the merge took a while
                raise problem.error() from FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            _replace(self.files, self.target)
        else:
            rename_new(self.files, self.target)
        try:
            sync_folder(self.target.parent)
        except OSError as error:  # the model is there and complete: the merge has not failed
            log.warning("%s may not be on disk yet: %s", self.target, error.strerror)

    def leave(self, keep: bool) -> None:
        """Releases the folder, and removes it unless it is kept."""
        self._journal.close()
        if not keep:
            _remove_made(staging_folder(self.target))
        self._lock.release()


@contextmanager
def staging(target: Path, identity: Identity, checksum: Checksum) -> Iterator[Staging]:
    """Opens the staging folder of a target: a new one, or that of the same merge, interrupted.

    The caller writes the merged model's files and ends with `publish`.

    Args:
        target: The merged model's folder, an absolute real path.
        identity: The identity of the merge.
        checksum: The hash in the digests of finished files.

    Raises:
        OutputError: The folder cannot be created, another process works there, it holds finished files of
            another merge, or the disk is full or failing.
    """
    missing = [folder for folder in target.parents if not os.path.exists(folder)]
    staged: Staging | None = None
    try:
        staged = _open(target, identity, checksum)
        yield staged
    except BaseException as error:
        if staged is not None:
            staged.leave(keep=bool(staged.finished) and _may_succeed_later(error, target))
        for made in missing:  # where something was kept, they are not empty
            with suppress(OSError):
                made.rmdir()
        explained = _with_what_is_left(error, target)
        if explained is error:
            raise
        raise explained from (error.__cause__ or error)
    staged.leave(keep=False)


def _open(target: Path, identity: Identity, checksum: Checksum) -> Staging:
    """Locks the folder, which is created if necessary, and keeps what can be resumed."""
    folder = staging_folder(target)
    lock = _locked(target, folder)
    finished: dict[str, WeightFile] = {}
    try:
        put_back(target)
        content = read_journal(folder / JOURNAL)
        if content is not None:
            raise_all(other_merge(target, content, identity))
            content = content if content.is_of(identity) else None
        finished = _intact(folder / FILES, content, checksum)
        _clear(folder, finished)
        (folder / FILES).mkdir(exist_ok=True)
        journal = Journal(folder / JOURNAL, content)
        if content is None:
            journal.begin(identity)
    except OutputError:  # another merge's files
        lock.release()
        raise
    except BaseException:
        if not finished:
            _remove_made(folder)
        lock.release()
        raise
    return Staging(target, finished, journal, lock)


def _locked(target: Path, folder: Path) -> FolderLock:
    lock = FolderLock(folder / LOCK)
    while True:
        raise_all(check_partial_folder(target))
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except LockedError as error:
            raise locked(target, str(error)).error() from None
        except FileNotFoundError:  # its last owner removed the folder between the two steps
            continue
        owner = rank_at_work(folder)
        if owner is not None:
            lock.release()
            raise locked(target, owner).error()
        return lock


def _intact(files: Path, content: Content | None, checksum: Checksum) -> dict[str, WeightFile]:
    """The finished files whose digests are those of the journal; reads them once."""
    if content is None:
        return {}

    def is_intact(file: WeightFile) -> bool:
        path = files / file.name
        try:
            return path.lstat().st_size == file.nbytes and file_digest(path, checksum) == file.digest
        except OSError:
            return False

    known = [file for file in content.files.values() if file.name in content.identity["files"]]
    with pool(VERIFIERS, "fusion_slerp verifier") as threads:
        found = zip(known, results(threads, is_intact, known), strict=True)
        intact = [file for file, good in found if good]
    if known:
        n_files = len(content.identity["files"])
        log.info("resuming: %d of %d weight files already done", len(intact), n_files)
    return {file.name: file for file in intact}


def _clear(folder: Path, finished: Mapping[str, WeightFile]) -> None:
    """Removes what a merge made, except finished files; links are removed, never followed."""
    kept = {folder / LOCK, folder / JOURNAL, folder / FILES, *(folder / FILES / name for name in finished)}
    inside = [] if (folder / FILES).is_symlink() else (folder / FILES).glob("*")
    for path in [*inside, *(folder / name for name in (JOURNAL, FILES, REPLACED, RANKS))]:
        if path in kept and not path.is_symlink():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif os.path.lexists(path):
            path.unlink()


def _remove_made(folder: Path) -> None:
    """Removes what a merge made as far as possible: the model may be published by then."""
    warn_of_rest(folder, remove(folder, ignore_errors=True))


def _may_succeed_later(error: BaseException, target: Path) -> bool:
    """Whether the same call could resume: not after bad input, and not once the model is published."""
    content = read_journal(staging_folder(target) / JOURNAL)
    if content is not None and is_published(target, content):
        return False
    return not isinstance(error, FusionSlerpError) or isinstance(error.__cause__, OSError)


def _with_what_is_left(error: BaseException, target: Path) -> BaseException:
    """The error with the leftovers of the merge and how to resume, unless it says so."""
    left = find_unfinished(target)
    if isinstance(error, OSError):
        error = _failed(target, error).error()
    elif not isinstance(error, FusionSlerpError):
        if left is not None:  # Python shows notes below the traceback
            note = f"kept: {left}\nRun the same call again to resume, or remove it: {clean_command(target)}"
            vars(error)["__notes__"] = [*getattr(error, "__notes__", ()), note]
        return error
    elif not isinstance(error.__cause__, OSError):
        return error
    problems = [problem for problem in error.problems if isinstance(problem, Problem)]
    if len(problems) != 1:
        return error
    if left is None:
        what, how = ("written", "nothing: the unfinished folder is removed"), "then run the same call again"
    else:
        again = "then run the same call again, which resumes there"
        what, how = (KEPT, left), f"{again}; or remove it: {clean_command(target)}"
    (problem,) = problems
    if any(name == KEPT for name, _ in problem.fields):  # of a merge that was made together with this one
        if left is None:
            return error
        return replace(
            problem, fields=(*problem.fields, what), fix=f"{problem.fix}; {clean_command(target)}"
        ).error()
    return replace(problem, fields=(*problem.fields, what), fix=f"{problem.fix}, {how}").error()


def _failed(target: Path, error: OSError) -> Problem:
    file = [("file", error.filename)] if error.filename else []
    fields = (("out", target), *file, ("found", error.strerror or error))
    return Problem(
        OutputError,
        "the merged model could not be written",
        fields,
        "free space or choose another output folder",
    )


def _replace(files: Path, target: Path) -> None:
    """Replaces an earlier output by the merged model; in one step, if the system supports it."""
    if exchange(files, target):
        return
    aside = staging_folder(target) / REPLACED
    target.rename(aside)
    try:
        files.rename(target)
    except BaseException:
        put_back(target)
        raise
