"""Leftovers of an interrupted merge next to its target: finds, compares and removes them."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from fusion_slerp._version import __version__
from fusion_slerp.errors import OutputError, Problem, listed, printable, setting
from fusion_slerp.hashes import BESIDE, file_digest
from fusion_slerp.output.journal import FORMAT, Content, Identity, read_journal
from fusion_slerp.output.lock import FolderLock, LockedError, holder
from fusion_slerp.output.partial_folder import (
    JOURNAL,
    LOCK,
    REPLACED,
    check_partial_folder,
    rank_at_work,
    remove,
    staging_folder,
    stranger,
)
from fusion_slerp.paths import Named, real_path
from fusion_slerp.settings.merge_settings import Overwrite

log = logging.getLogger(__name__)

MANIFEST = "merge_manifest.json"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """The leftovers of an interrupted merge.

    Attributes:
        folder: The staging folder.
        finished: Names of the complete weight files.
        n_files: The number of weight files that the merged model has; 0 if unknown.
        nbytes: Bytes of everything in the folder.
    """

    folder: Path
    finished: tuple[str, ...]
    n_files: int
    nbytes: int

    def __str__(self) -> str:
        return f"{len(self.finished)} of {self.n_files} weight files, in {printable(self.folder)}"


def clean_command(target: Path) -> str:
    """The command that removes the leftovers."""
    return f"fusion_slerp clean {shlex.quote(str(target))}"


def find_unfinished(target: Path) -> Unfinished | None:
    """Returns the leftovers of an interrupted merge to a target; None if there are none."""
    if not target.name:  # the root of a file system has nothing next to it
        return None
    folder = staging_folder(target)
    if not os.path.isdir(folder) or stranger(folder) is not None:
        return None
    content = read_journal(folder / JOURNAL)
    if content is None:
        return Unfinished(folder, (), 0, _nbytes_in(folder))
    n_files = len(content.identity.get("files", ()))
    return Unfinished(folder, tuple(content.files), n_files, _nbytes_in(folder))


def _nbytes_in(folder: Path) -> int:
    """Disk space that a folder takes; files that a running merge removes meanwhile are skipped."""
    total = 0
    for inner, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                state = os.lstat(os.path.join(inner, name))
                total += getattr(state, "st_blocks", 0) * 512  # not known on Windows
    return total


def check_unfinished(target: Path, identity: Identity, overwrite: Overwrite) -> list[Problem]:
    """Returns the problems with a merge if another is running there or was interrupted, or its partial folder
    is somebody else's.

    Args:
        target: The merged model's folder, an absolute real path.
        identity: The identity of the new merge.
        overwrite: Whether it may replace an earlier output.
    """
    if not target.name:
        return []
    if problems := check_partial_folder(target):
        return problems
    folder = staging_folder(target)
    owner = holder(folder / LOCK) or rank_at_work(folder)
    if owner is not None:
        return [locked(target, owner)]
    content = read_journal(folder / JOURNAL)
    problems = [] if content is None else other_merge(target, content, identity)
    if os.path.isdir(folder / REPLACED) and not os.path.lexists(target) and not overwrite:
        fields = (("out", target), ("found", f"an earlier output that was being replaced, in {folder}"))
        fix = f"use {setting('overwrite', True)} to replace it, or restore it: {clean_command(target)}"
        problems.append(Problem(OutputError, "the output exists", fields, fix))
    return problems


def locked(target: Path, owner: str) -> Problem:
    """The problem with a target to which another process is merging."""
    fields = (("out", target), ("by", owner))
    fix = "wait until it has ended, or choose another output folder"
    return Problem(OutputError, "another process is merging to this folder", fields, fix)


def other_merge(target: Path, content: Content, identity: Identity) -> list[Problem]:
    """Returns a problem if finished files of another merge would be lost."""
    if not content.files or is_published(target, content):
        return []
    if content.format != FORMAT or content.version != identity.get("fusion_slerp", content.version):
        return [_other_version(target, content)]
    different = differences(content.identity, identity)
    if not different:
        return []
    fields = (*_kept(target, content), ("differs in", listed(different, 5)))
    fix = f"finish the earlier merge by running it again, or remove its files: {clean_command(target)}"
    return [Problem(OutputError, "a different unfinished merge is in the way", fields, fix)]


def _other_version(target: Path, content: Content) -> Problem:
    fields = (
        *_kept(target, content),
        ("found", f"fusion_slerp {content.version}, journal format {content.format}"),
        ("needed", f"fusion_slerp {__version__}, journal format {FORMAT}"),
    )
    fix = f"finish it with fusion_slerp {content.version}, or remove it: {clean_command(target)}"
    return Problem(OutputError, "an unfinished merge of another version is in the way", fields, fix)


def _kept(target: Path, content: Content) -> tuple[tuple[str, object], ...]:
    return (
        ("out", target),
        ("unfinished", f"{len(content.files)} finished weight files in {staging_folder(target)}"),
    )


def is_published(target: Path, content: Content) -> bool:
    """Whether a journal's merged model is the one at the target."""
    if content.published is None:
        return False
    try:
        return file_digest(target / MANIFEST, BESIDE) == content.published
    except OSError:
        return False


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Returns where two identities differ: `settings.t: 0.3 before, 0.5 now`."""
    if before == now:
        return []
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = dict.fromkeys([*before, *now])
        return [
            each
            for key in keys
            for each in differences(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [f"{name}: {shortened(before)} before, {shortened(now)} now"]


def clean(out: Named) -> Unfinished | None:
    """Removes the leftovers of an interrupted merge; an earlier output that was being replaced is restored.

    Nothing is removed that no merge made: a warning names it.

    Args:
        out: The folder that the merge was to create; neither it nor the models are touched.

    Returns:
        The leftovers that were removed; None if there were none.

    Raises:
        OutputError: A process is merging there, or the folder cannot be removed.
    """
    target = real_path(out, OutputError)
    left = find_unfinished(target)
    if left is None:
        _warn_of_stranger(target)
        return None
    lock = FolderLock(left.folder / LOCK)
    try:
        lock.acquire()
        owner = rank_at_work(left.folder)
        if owner is not None:
            raise LockedError(owner)
        put_back(target)
        warn_of_rest(left.folder, remove(left.folder))
    except LockedError as error:
        raise locked(target, str(error)).error() from None
    except OSError as error:
        fields = (("folder", left.folder), ("found", error.strerror))
        fix = "check its permissions, or remove it yourself"
        raise Problem(OutputError, "the unfinished merge cannot be removed", fields, fix).error() from error
    finally:
        lock.release()
    return left


def _warn_of_stranger(target: Path) -> None:
    for problem in check_partial_folder(target):
        found = dict(problem.fields)["found"]
        log.warning(
            "%s was left alone: no merge made it (found: %s)", printable(staging_folder(target)), found
        )


def warn_of_rest(folder: Path, names: Sequence[str]) -> None:
    """Warns of what is left in a partial folder because no merge made it."""
    if names:
        log.warning("%s was kept: no merge made what is in it (%s)", printable(folder), listed(names, 5))


def put_back(target: Path) -> None:
    """Restores an earlier output, if a merge died between the two renames that replace it."""
    replaced = staging_folder(target) / REPLACED
    if os.path.isdir(replaced) and not os.path.islink(replaced) and not os.path.lexists(target):
        replaced.rename(target)
