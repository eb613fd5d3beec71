"""A lock on a folder that dies with its owner.

The operating system holds it, not the file: when a process ends, for whatever reason, its lock is released,
and a leftover file means nothing.
"""

from __future__ import annotations

import errno
import logging
import os
import platform
import time
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
"""A link in place of our file is not followed."""

PATIENCE_S = 0.05
"""How long a process that only checks the lock may hold it."""

HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""Errors of file systems without locks (some cluster file systems, depending on the mount)."""


class LockedError(Exception):
    """Another process holds the lock; the message names it, if it is known."""


class FolderLock:
    """An exclusive lock: `acquire`, then `release` or the end of the process."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Acquires the lock, creating its file if necessary.

        Raises:
            LockedError: Another process holds it.
            OSError: The file cannot be created: `FileNotFoundError` if its folder is gone.
        """
        until = time.monotonic() + PATIENCE_S
        while self._descriptor is None:
            descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | NOFOLLOW, 0o666)
            try:
                _lock(descriptor)
                if _is_at(descriptor, self._file):  # else its last owner removed it between the two steps
                    self._descriptor = descriptor
            except BlockingIOError:
                if time.monotonic() > until:
                    raise LockedError(_owner(descriptor)) from None
                time.sleep(PATIENCE_S / 10)
            finally:
                if self._descriptor is None:
                    os.close(descriptor)
        with suppress(OSError):  # a full disk: the lock holds without the name of its owner
            owner = f"process {os.getpid()} on {platform.node()}".encode()
            os.ftruncate(self._descriptor, os.write(self._descriptor, owner))
            os.fsync(self._descriptor)  # after a power cut it still shows who made the folder

    def release(self) -> None:
        """Releases the lock; its file stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def holder(file: Path) -> str | None:
    """Returns the process that holds the lock on a file; None if none does, or there is no such file."""
    try:
        descriptor = os.open(file, os.O_RDWR | NOFOLLOW)
    except OSError:
        return None
    try:
        _lock(descriptor, is_shared=True)  # several processes may look at the same time
    except BlockingIOError:
        return _owner(descriptor)
    finally:
        os.close(descriptor)
    return None


def _owner(descriptor: int) -> str:
    return os.read(descriptor, 200).decode("utf-8", "replace") or "an unknown process"


def _lock(descriptor: int, is_shared: bool = False) -> None:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            raise BlockingIOError from None
        if error.errno not in UNSUPPORTED:
            raise
        text = "this file system has no locks (%s): do not let another process merge to the same folder"
        log.warning(text, error.strerror)


def _is_at(descriptor: int, file: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    return False
