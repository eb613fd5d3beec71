"""The renames that publish a folder: one step each, where the system can.

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
"""How a kernel or a file system says that it has no such rename."""


def rename_new(source: Path, target: Path) -> None:
    """Renames a folder to a name that nothing has.

    Raises:
        FileExistsError: Something has it.
        OSError: The system refuses otherwise.
    """
    if _rename(source, target, NOREPLACE, EXCL):
        return
    if os.path.lexists(target):  # a plain rename would replace an empty folder
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)


def exchange(one: Path, other: Path) -> bool:
    """Lets two folders change their names in one step; returns whether the system can do that.

    Raises:
        OSError: The system refuses.
    """
    return _rename(one, other, EXCHANGE, SWAP)


def _rename(source: Path, target: Path, on_linux: int, on_macos: int) -> bool:
    """Returns whether there is such a rename here; if so, it is done."""
    names = os.fsencode(source), os.fsencode(target)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "linux":
            failed = library.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], on_linux)
        elif sys.platform == "darwin":
            failed = library.renamex_np(*names, on_macos)
        else:
            return False
    except (AttributeError, TypeError, OSError):  # the library is older than the call
        return False
    code = ctypes.get_errno()
    if not failed:
        return True
    if code in UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(source), None, str(target))
