"""The folder beside the target in which the child is made, and the rename that publishes it.

The target appears by one rename, complete or not at all.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from fusion_slerp.checkpoint.folder import CONFIG
from fusion_slerp.errors import OutputError, Problem

MARGIN_NBYTES = 1 << 20
"""Room for the card and the index, beside the files whose size is known."""


def check_apart(target: Path, inputs: Mapping[Path, str]) -> list[Problem]:
    """Returns a problem for each input folder that the target is, holds, or lies in.

    A folder of links is none of these, but replacing the target would take what they point to.

    Args:
        target: The output folder, an absolute real path.
        inputs: The folders that are read, and what they are.
    """
    problems = []
    for folder, what in inputs.items():
        found = _overlap(target, folder.resolve(), what)
        links = [] if found else [path for path in folder.iterdir() if path.is_symlink()]
        linked = (_overlap(target, link.resolve(), f"a file of {what}") for link in sorted(links))
        problems += [problem for problem in (found, *linked) if problem]
    return problems


def check_place(target: Path, overwrite: bool) -> list[Problem]:
    """Returns what speaks against making the folder `target`, an absolute real path."""
    problems = _existing(target, overwrite) if os.path.exists(target) else []
    base = _nearest_folder(target)
    if not base.is_dir() or not os.access(base, os.W_OK | os.X_OK):
        found = "not writable" if base.is_dir() else "a file"
        fields = (("out", target), ("folder", base), ("found", found))
        fix = "choose another output folder"
        problems.append(Problem(OutputError, "the output folder cannot be made", fields, fix))
    return problems


def check_room(target: Path, nbytes: int) -> list[Problem]:
    """Returns a problem if the disk of `target` has no room for so many bytes."""
    free = shutil.disk_usage(_nearest_folder(target)).free
    if free >= nbytes + MARGIN_NBYTES:
        return []
    fields = (("out", target), ("needed", f"{nbytes} bytes"), ("free", f"{free} bytes"))
    fix = "free space, or choose an output folder on another disk"
    return [Problem(OutputError, "not enough room on the disk", fields, fix)]


def _nearest_folder(target: Path) -> Path:
    """The folder that exists and will hold the target; for the root, the root itself."""
    return next((folder for folder in target.parents if os.path.exists(folder)), target)


def _overlap(target: Path, parent: Path, what: str) -> Problem | None:
    if target != parent and target not in parent.parents and parent not in target.parents:
        return None
    where = "is" if target == parent else "lies inside" if parent in target.parents else "contains"
    fields = (("out", target), (what, parent))
    fix = "choose an output folder outside the models"
    return Problem(OutputError, f"the output {where} {what}", fields, fix)


def _existing(target: Path, overwrite: bool) -> list[Problem]:
    if not target.is_dir():
        fields = (("out", target), ("found", "a file"))
        return [Problem(OutputError, "the output exists", fields, "choose another name")]
    if not overwrite:
        fix = "choose another folder, or set overwrite: true to replace it"
        return [Problem(OutputError, "the output exists", (("out", target),), fix)]
    if any(target.iterdir()) and not (target / CONFIG).exists():
        fields = (("out", target), ("found", f"files, but no {CONFIG}: not an earlier model"))
        fix = "remove that folder yourself, or choose another"
        return [Problem(OutputError, "overwrite replaces only a model folder", fields, fix)]
    return []


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Gives a new folder beside the target, and publishes it as the target on a normal exit.

    On any exception the folder is removed, with the parent folders made for it, and the target is
    as it was.

    Raises:
        OutputError: The folder cannot be made, or another process made the target meanwhile.
    """
    missing = [folder for folder in target.parents if not os.path.exists(folder)]
    tag = f"{os.getpid()}-{token_hex(4)}"  # process ids come again, in containers at once
    folder = target.with_name(f".{target.name}.partial-{tag}")
    replaced = target.with_name(f".{target.name}.replaced-{tag}") if target.exists() else None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        yield folder
        _flush(folder)
        _publish(folder, target, replaced)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        for made in missing:
            with suppress(OSError):
                made.rmdir()
        if isinstance(error, OSError):
            raise _failed(target, error).error() from error
        raise


def _failed(target: Path, error: OSError) -> Problem:
    fields = (
        ("out", target),
        *([("file", error.filename)] if error.filename else []),
        ("found", error.strerror or error),
        ("written", "nothing: the unfinished folder is removed"),
    )
    fix = "free space or choose another output folder, then run the same again"
    return Problem(OutputError, "the child could not be written", fields, fix)


def _publish(folder: Path, target: Path, replaced: Path | None) -> None:
    """Renames; an earlier output steps aside first, to `replaced`, and is removed after."""
    if replaced is None:
        if target.exists():  # a rename would replace an empty folder
            raise FileExistsError(errno.EEXIST, "made by another process meanwhile", str(target))
        folder.rename(target)
        _sync_folder(target.parent)
        return
    try:
        target.rename(replaced)
        folder.rename(target)
    except BaseException:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        raise
    _sync_folder(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)  # the child is there: what remains is no failure


def _flush(folder: Path) -> None:
    """Brings every file and folder to the disk, so that the rename cannot get there first."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as stream:
                os.fsync(stream.fileno())
        else:
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot
            raise
    finally:
        os.close(descriptor)
