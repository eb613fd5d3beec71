"""The partial folder next to a target: its name, what a merge has in it, and whether a merge made it.

Anybody may have a folder of that name. Only what a merge made is ever changed or removed.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from fusion_slerp.errors import OutputError, Problem, listed
from fusion_slerp.output.lock import NOFOLLOW, holder

LOCK, JOURNAL, FILES, REPLACED, RANKS = "lock", "journal.jsonl", "files", "replaced", "ranks"
"""What a merge has in it; see `staging`."""

SIGNS = {
    JOURNAL: re.compile(rb'\{\s*"journal"\s*:\s*\d+\s*,\s*"identity"\s*:\s*\{'),
    LOCK: re.compile(rb"process \d+ on "),
}
"""The first bytes of files that only a merge writes. The lock's are on disk before any other file is made."""

SIGN_NBYTES = 100
"""Longer than any of these."""

SHOWN_NAMES = 5


def staging_folder(target: Path) -> Path:
    """The folder in which the merged model is made: next to the target, on the same disk."""
    return target.with_name(f".{target.name}.partial")


def stranger(folder: Path) -> str | None:
    """Returns what has the name of a partial folder although no merge made it; None if a merge did.

    Also None if nothing has that name, and for a folder without anything in it, which a merge leaves that
    dies between its first two steps. A merge may begin or end there meanwhile: only a folder that looks the
    same twice was not made by one.
    """
    before: list[str] | None = None
    while True:
        try:
            if os.path.islink(folder):
                return f"a link to {os.readlink(folder)}"
            names = sorted(os.listdir(folder))
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            return "a file"
        except OSError as error:
            return error.strerror
        if not names or any(_has_sign(folder / name) for name in SIGNS) or _is_new_lock(folder, names):
            return None
        if names == before:
            return listed(names, SHOWN_NAMES)
        before = names


def _has_sign(file: Path) -> bool:
    try:
        descriptor = os.open(file, os.O_RDONLY | NOFOLLOW | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return False
    try:
        return SIGNS[file.name].match(os.read(descriptor, SIGN_NBYTES)) is not None
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _is_new_lock(folder: Path, names: list[str]) -> bool:
    """Whether there is nothing but a lock into which its owner has not written yet."""
    try:
        return names == [LOCK] and os.lstat(folder / LOCK).st_size == 0
    except OSError:
        return False


def rank_at_work(folder: Path) -> str | None:
    """Returns a process other than rank 0 that works in a partial folder; None if none does."""
    return next(filter(None, map(holder, (folder / RANKS).glob("*.lock"))), None)


def check_partial_folder(target: Path) -> list[Problem]:
    """Returns a problem if something that no merge made has the name of the target's partial folder."""
    found = stranger(staging_folder(target)) if target.name else None
    if found is None:
        return []
    fields = (("out", target), ("in the way", staging_folder(target)), ("found", found))
    fix = "move it away or remove it yourself, or choose another output folder"
    return [Problem(OutputError, "the partial folder was not made by a merge", fields, fix)]


def remove(folder: Path, ignore_errors: bool = False) -> list[str]:
    """Removes a partial folder and what a merge made in it.

    Journal and lock go last: they say who made the rest.

    Args:
        folder: The partial folder.
        ignore_errors: Remove what can be removed.

    Returns:
        The names of what is in it although no merge made it; then the folder stays.

    Raises:
        OSError: Something cannot be removed.
    """
    try:
        for name in (FILES, REPLACED, RANKS):
            _remove_tree(folder / name, ignore_errors)
        if any(os.path.lexists(folder / name) for name in (FILES, REPLACED, RANKS)):
            return []
        for name in (JOURNAL, LOCK):
            with suppress(FileNotFoundError):
                (folder / name).unlink()
        strange = sorted(os.listdir(folder))
        if not strange:
            folder.rmdir()
    except OSError:
        if not ignore_errors:
            raise
        return []
    return strange


def _remove_tree(path: Path, ignore_errors: bool) -> None:
    if os.path.islink(path):
        path.unlink()
    elif os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=ignore_errors)
