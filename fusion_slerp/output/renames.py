"""The renames that publish a folder, each in one step if the system supports it.

Source: renameat2(2) of Linux, `RENAME_NOREPLACE` and `RENAME_EXCHANGE`; renamex_np(2) of macOS,
`RENAME_EXCL` and `RENAME_SWAP`. Python has neither.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

AT_FDCWD = -100
NOREPLACE, EXCHANGE = 1, 2  # Linux
SWAP, EXCL = 2, 4  # macOS
UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of kernels and file systems without such a rename."""


def rename_new(source: Path, target: Path) -> None:
    """Renames a folder to an unused name.

    Raises:
        FileExistsError: The name is in use.
        OSError: The rename fails for another reason.
    """
    if _rename(source, target, NOREPLACE, EXCL):
        return
    if os.path.lexists(target):  # a plain rename would replace an empty folder
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)


def exchange(one: Path, other: Path) -> bool:
    """Exchanges the names of two folders in one step; returns whether the system supports that.

    Raises:
        OSError: The rename fails.
    """
    return _rename(one, other, EXCHANGE, SWAP)


def _rename(source: Path, target: Path, on_linux: int, on_macos: int) -> bool:
    """Renames; returns whether the system supports that."""
    names = os.fsencode(source), os.fsencode(target)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "linux":
            failed = library.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], on_linux)
        elif sys.platform == "darwin":
            failed = library.renamex_np(*names, on_macos)
        else:
            return False
    except (AttributeError, TypeError, OSError):  # a library older than the call
        return False
    code = ctypes.get_errno()
    if not failed:
        return True
    if code in UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(source), None, str(target))
