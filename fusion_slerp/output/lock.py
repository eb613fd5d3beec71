"""A lock on a folder that dies with its owner.

The system keeps it, not the file: when a process ends, however that happens, its lock is gone, and what is
left of the file means nothing.
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
"""A link that somebody put in the place of our file is not followed."""

PATIENCE_S = 0.05
"""How long a lock may be held by somebody who only asks whether it is."""

HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""How file systems say that they have no locks (some of clusters, mounted without)."""


class LockedError(Exception):
    """Another process holds the lock; the message says which, as far as it said so."""


class FolderLock:
    """An exclusive lock: `acquire`, then `release` or the end of the process."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock, making its file if need be.

        Raises:
            LockedError: Another process holds it.
            OSError: The file cannot be made: `FileNotFoundError` if its folder is gone.
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
        with suppress(OSError):  # on a full disk: the lock holds without a name in it
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, f"process {os.getpid()} on {platform.node()}".encode())

    def release(self) -> None:
        """Gives the lock back; its file stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def holder(file: Path) -> str | None:
    """Returns who holds the lock on a file; None if nobody does, or if there is no such file."""
    try:
        descriptor = os.open(file, os.O_RDWR | NOFOLLOW)
    except OSError:
        return None
    try:
        _lock(descriptor)
    except BlockingIOError:
        return _owner(descriptor)
    finally:
        os.close(descriptor)
    return None


def _owner(descriptor: int) -> str:
    return os.read(descriptor, 200).decode("utf-8", "replace") or "a process that could not say which"


def _lock(descriptor: int) -> None:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            raise BlockingIOError from None
        if error.errno not in UNSUPPORTED:
            raise
        log.warning("no locks here (%s): let no other process merge to the same folder", error.strerror)


def _is_at(descriptor: int, file: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    return False
