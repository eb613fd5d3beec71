"""Paths as users name them, and as text: whatever the system refuses is an error of ours."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from fusion_slerp.errors import FusionSlerpError, Problem, SettingsError

Named = str | os.PathLike[str]
"""A path as the user names it; `~` and `~user` stand for home folders."""


def xdg_folder(variable: str, default: str) -> Path:
    """Returns our folder below that of an XDG variable: where it is unset or relative, below a home folder's.

    Args:
        variable: Such as `XDG_CACHE_HOME`.
        default: The path from the home folder.

    Raises:
        RuntimeError: There is no home folder.
    """
    given = os.environ.get(variable, "")
    return (Path(given) if os.path.isabs(given) else Path.home() / default) / "fusion_slerp"


def user_path(path: Named, kind: type[FusionSlerpError] = SettingsError) -> Path:
    """Returns a path with the home folder in place of `~`.

    Args:
        path: The user's path.
        kind: The class of the errors.

    Raises:
        FusionSlerpError: It is empty or holds a zero byte, or the home folder is not known.
    """
    text = os.fspath(path)
    if not text:
        raise Problem(kind, "a path is empty", (), "name a folder; ./ is the current one").error()
    if "\0" in text:
        raise Problem(kind, "a path holds a zero byte", (("path", text),), "correct the path").error()
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise _no_home(text, kind).error() from None


def real_path(path: Named, kind: type[FusionSlerpError] = SettingsError) -> Path:
    """Returns the absolute path without links; it need not exist.

    Args:
        path: The user's path.
        kind: The class of the errors.

    Raises:
        FusionSlerpError: As `user_path`; or links lead in a circle, or the working folder was removed.
    """
    given = user_path(path, kind)
    try:
        real = Path(os.path.realpath(given))
    except FileNotFoundError:  # of a relative path
        fields, fix = (("path", given),), "change to a folder that exists, or write the path in full"
        raise Problem(kind, "the current folder does not exist any more", fields, fix).error() from None
    refused = refusal(real)
    if refused is not None and refused.errno == errno.ELOOP:
        fix = "remove or correct the link"
        raise Problem(kind, "links lead in a circle", (("path", given),), fix).error()
    return real


def refusal(path: Path) -> OSError | None:
    """Returns the system's error if it refuses to look a path up; None if it does not, or nothing is there.

    So it is for closed folders, names that are too long, and links in a circle.
    """
    try:
        os.stat(path)
    except OSError as error:
        return None if error.errno in (errno.ENOENT, errno.ENOTDIR) else error
    return None


def absolute_text(path: Path) -> str:
    """Returns the absolute path for a message; unchanged if the working folder was removed."""
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        return str(path)


def utf8(text: str) -> bytes:
    r"""Returns a text as UTF-8.

    Python holds the bytes of a file's name that are not UTF-8 as lone surrogates, which have no UTF-8. They
    become escapes such as `\udcff`: in a string of JSON, they stand for the same name.
    """
    return text.encode("utf-8", "backslashreplace")


def _no_home(text: str, kind: type[FusionSlerpError]) -> Problem:
    user = text.partition(os.sep)[0].removeprefix("~")
    if not user:
        fix = "set HOME, or write the path without ~"
        return Problem(kind, "the home folder is not known", (("path", text),), fix)
    fields = (("path", text), ("found", f"no user {user!r}"))
    return Problem(kind, "no home folder for a path", fields, f"for a folder of that name, write ./{text}")
