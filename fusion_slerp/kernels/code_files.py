"""Compiled kernels in files, since compiling them takes longer than a small merge.

They are in `$XDG_CACHE_HOME/fusion_slerp/kernels`, by default below `~/.cache`; `FUSION_SLERP_KERNELS` names
another folder, or `off`. A file's name is the digest of all that its code depends on, and its first bytes are
the digest of the code: one that is damaged is compiled again. Code is read only from a folder and a file that
nobody but their owner, who runs this process, may write. If nothing can be kept there, no error is raised.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from fusion_slerp.paths import xdg_folder

VARIABLE, OFF = "FUSION_SLERP_KERNELS", "off"

DIGEST_NBYTES = 32

UNFINISHED = ".unfinished"

MOST_FILES = 1000
"""About 20 MB; then all of them are removed, as most are of versions and processors that are gone."""


def folder() -> Path | None:
    """The folder that holds them; None if none can be used."""
    given = os.environ.get(VARIABLE, "")
    if given.lower() == OFF or not hasattr(os, "geteuid"):
        return None
    try:
        return Path(given).expanduser() if given else xdg_folder("XDG_CACHE_HOME", ".cache") / "kernels"
    except RuntimeError:  # there is no home folder
        return None


def name_of(*parts: str) -> str:
    """The name of the code that depends on these texts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:".encode())
        digest.update(part.encode())
    return f"{digest.hexdigest()}.o"


def read(name: str) -> bytes | None:
    """Returns the code that is kept under a name; None if there is none that can be trusted."""
    here = folder()
    with suppress(OSError):
        if here is None or not _is_own(os.lstat(here)):
            return None
        descriptor = os.open(here / name, os.O_RDONLY | os.O_NOFOLLOW)
        with open(descriptor, "rb") as file:
            if not _is_own(os.fstat(descriptor)):
                return None
            digest, code = file.read(DIGEST_NBYTES), file.read()
        return code if hashlib.sha256(code).digest() == digest else None
    return None


def keep(name: str, code: bytes) -> None:
    """Keeps code under a name, if that is possible."""
    here = folder()
    with suppress(OSError):
        if here is None:
            return
        here.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_own(os.lstat(here)):
            return
        _make_room(here)
        descriptor, unfinished = tempfile.mkstemp(dir=here, suffix=UNFINISHED)
        try:
            with open(descriptor, "wb") as file:
                file.write(hashlib.sha256(code).digest() + code)
            os.replace(unfinished, here / name)
        except BaseException:
            os.unlink(unfinished)
            raise


def _make_room(here: Path) -> None:
    """Removes everything that was kept, or left by a process that was killed, if there is too much."""
    files = [file for file in os.listdir(here) if file.endswith((".o", UNFINISHED))]
    if len(files) >= MOST_FILES:
        for file in files:
            (here / file).unlink(missing_ok=True)


def _is_own(state: os.stat_result) -> bool:
    """Whether only this user may write a file or folder."""
    kind = stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)
    return kind and state.st_uid == os.geteuid() and not state.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
