"""What an interrupted merge left beside its target: found, compared with a new merge, cleaned up."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from fusion_slerp._version import __version__
from fusion_slerp.errors import OutputError, Problem, listed
from fusion_slerp.hashes import BESIDE, file_digest
from fusion_slerp.output.journal import FORMAT, Content, Identity, read_journal
from fusion_slerp.output.lock import FolderLock, LockedError, holder

LOCK, JOURNAL, FILES, REPLACED = "lock", "journal.jsonl", "files", "replaced"
"""What a staging folder holds; see `staging`."""

MANIFEST = "merge_manifest.json"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What is left of a merge.

    Attributes:
        folder: The staging folder.
        finished: Names of the weight files that are complete.
        n_files: How many weight files the merged model has; 0 if that is not known.
        nbytes: Bytes of everything in the folder.
    """

    folder: Path
    finished: tuple[str, ...]
    n_files: int
    nbytes: int

    def __str__(self) -> str:
        return f"{len(self.finished)} of {self.n_files} weight files, in {self.folder}"


def staging_folder(target: Path) -> Path:
    """The folder in which a target is made: beside it, on the same disk."""
    return target.with_name(f".{target.name}.partial")


def clean_command(target: Path) -> str:
    """What removes it."""
    return f"fusion_slerp clean {shlex.quote(str(target))}"


def find_unfinished(target: Path) -> Unfinished | None:
    """Returns what an interrupted merge to a target left; None if there is nothing."""
    if not target.name or not staging_folder(target).is_dir():
        return None
    folder = staging_folder(target)
    content = read_journal(folder / JOURNAL)
    if content is None:
        return Unfinished(folder, (), 0, _nbytes_in(folder))
    n_files = len(content.identity.get("files", ()))
    return Unfinished(folder, tuple(content.files), n_files, _nbytes_in(folder))


def _nbytes_in(folder: Path) -> int:
    """Bytes of the disk that a folder takes, as far as its process lets us see: it may be at work."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                found = os.lstat(os.path.join(place, name))
                total += getattr(found, "st_blocks", 0) * 512  # Windows does not tell
    return total


def check_unfinished(target: Path, identity: Identity, overwrite: bool) -> list[Problem]:
    """Returns what speaks against a merge where another is under way, or was interrupted.

    Args:
        target: The merged model's folder, an absolute real path.
        identity: Of the merge that is to begin.
        overwrite: Whether it may replace an earlier output.
    """
    if not target.name:  # the root of a file system has nothing beside it
        return []
    folder = staging_folder(target)
    owner = holder(folder / LOCK)
    if owner is not None:
        return [locked(target, owner)]
    content = read_journal(folder / JOURNAL)
    problems = [] if content is None else other_merge(target, content, identity)
    if (folder / REPLACED).is_dir() and not os.path.lexists(target) and not overwrite:
        fields = (("out", target), ("found", f"an earlier output that was being replaced, in {folder}"))
        fix = f"set overwrite: true, or give it its name back: {clean_command(target)}"
        problems.append(Problem(OutputError, "the output exists", fields, fix))
    return problems


def locked(target: Path, owner: str) -> Problem:
    """The problem with a target that another process works on."""
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
    fix = f"run the earlier merge again, to its end; or remove its files: {clean_command(target)}"
    return [Problem(OutputError, "an unfinished merge of something else is in the way", fields, fix)]


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
    """Whether the merged model that a journal is about is the one at the target."""
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


def clean(out: str | os.PathLike[str]) -> Unfinished | None:
    """Removes what an interrupted merge left beside its output; an earlier output gets its place back.

    Args:
        out: The folder that the merge was to make; it is not touched, nor are the models.

    Returns:
        What was removed; None if there was nothing.

    Raises:
        OutputError: A process is merging there, or the folder cannot be removed.
    """
    target = Path(out).expanduser().resolve()
    found = find_unfinished(target)
    if found is None:
        return None
    lock = FolderLock(found.folder / LOCK)
    try:
        lock.acquire()
        put_back(target)
        shutil.rmtree(found.folder)
    except LockedError as error:
        raise locked(target, str(error)).error() from None
    except OSError as error:
        fields = (("folder", found.folder), ("found", error.strerror))
        fix = "check its permissions, or remove it yourself"
        raise Problem(OutputError, "the unfinished merge cannot be removed", fields, fix).error() from error
    finally:
        lock.release()
    return found


def put_back(target: Path) -> None:
    """Gives an earlier output its name back, if a merge died between the two renames that replace it."""
    replaced = staging_folder(target) / REPLACED
    if replaced.is_dir() and not os.path.lexists(target):
        replaced.rename(target)
