"""Flushes files and folder entries to disk, so that a crash cannot undo what was reported."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from pathlib import Path

from fusion_slerp.waiting import pool, results

FLUSHERS = 16
"""Files that are flushed at a time."""


def flush(folder: Path, done: Collection[str]) -> None:
    """Flushes every file and folder to disk, so that the rename cannot get there first.

    All at once: a file system writes its journal for many files as fast as for one.
    """
    paths = [folder, *(path for path in folder.rglob("*") if path.name not in done)]
    with pool(FLUSHERS, "fusion_slerp flusher") as threads:
        list(results(threads, lambda path: sync_folder(path) if path.is_dir() else _sync_file(path), paths))


def _sync_file(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Flushes the entries of a folder to disk, if the system supports it."""
    if os.name == "nt":  # Windows cannot open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # unsupported by the file system
            raise
    finally:
        os.close(descriptor)
