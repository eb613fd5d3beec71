"""Whether the merged model can be written where the user wants it: the folder, and the space on its disk."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from fusion_slerp.errors import OutputError, Problem, listed, setting
from fusion_slerp.output.partial_folder import SHOWN_NAMES, staging_folder
from fusion_slerp.output.replaceable import in_the_way
from fusion_slerp.paths import Named, refusal, user_path
from fusion_slerp.settings.merge_settings import Overwrite

MARGIN_NBYTES = 1 << 20
"""Space for the card and the index, in addition to the files whose size is known."""

ADDED_NBYTES = len(staging_folder(Path("x")).name) - 1

CANNOT_BE_CREATED = "the output folder cannot be created"


def check_apart(target: Path, inputs: Mapping[Path, str]) -> list[Problem]:
    """Returns a problem for each input folder that the target is, contains, or lies in.

    The targets of links in the folders count as well: replacing the output would remove them.

    Args:
        target: The output folder, an absolute real path.
        inputs: The folders that are read, and a name for each.
    """
    problems = []
    for folder, what in inputs.items():
        overlap = _overlap(target, folder.resolve(), what)
        links = [] if overlap else [path for path in folder.iterdir() if path.is_symlink()]
        linked = (
            _overlap(target, Path(os.path.realpath(link)), f"a file of {what}") for link in sorted(links)
        )
        problems += [problem for problem in (overlap, *linked) if problem]
    return problems


def check_target(target: Path, overwrite: Overwrite, given: Named | None = None) -> list[Problem]:
    """Returns the problems with creating the folder `target`.

    Args:
        target: The output folder, an absolute real path.
        overwrite: Whether a folder is replaced that exists.
        given: The folder as the user named it: nothing is replaced through a link.
    """
    problems = _existing(target, overwrite, given) if os.path.lexists(target) else []
    base = _nearest_folder(target)
    if too_long := _too_long(target):
        problems.append(too_long)
    elif not os.path.isdir(base) or not os.access(base, os.W_OK | os.X_OK):
        state = "not writable" if os.path.isdir(base) else "a file"
        fields = (("out", target), ("folder", base), ("found", state))
        problems.append(Problem(OutputError, CANNOT_BE_CREATED, fields, "choose another output folder"))
    return problems


def _too_long(target: Path) -> Problem | None:
    """The problem with a name that the file system cannot hold, as it is or with what we add to it."""
    refused = refusal(staging_folder(target)) if target.name else None
    if refused is None or refused.errno != errno.ENAMETOOLONG:
        return None
    needed = f"a name that leaves {ADDED_NBYTES} bytes for the partial folder's"
    fields = (("out", target), ("found", refused.strerror), ("needed", needed))
    return Problem(OutputError, CANNOT_BE_CREATED, fields, "choose a shorter name for the output folder")


def check_disk_space(target: Path, nbytes: int) -> list[Problem]:
    """Returns a problem if the disk of `target` lacks that many free bytes."""
    free = shutil.disk_usage(_nearest_folder(target)).free
    if free >= nbytes + MARGIN_NBYTES:
        return []
    fields = (("out", target), ("needed", f"{nbytes} bytes"), ("free", f"{free} bytes"))
    fix = "free space, or choose an output folder on another disk"
    return [Problem(OutputError, "not enough disk space", fields, fix)]


def _nearest_folder(target: Path) -> Path:
    """The nearest existing folder above the target; for the root, the root itself."""
    return next((folder for folder in target.parents if os.path.exists(folder)), target)


def _overlap(target: Path, parent: Path, what: str) -> Problem | None:
    if target != parent and target not in parent.parents and parent not in target.parents:
        return None
    where = "is" if target == parent else "lies inside" if parent in target.parents else "contains"
    fields = (("out", target), (what, parent))
    fix = "choose an output folder outside the models"
    return Problem(OutputError, f"the output {where} {what}", fields, fix)


def _existing(target: Path, overwrite: Overwrite, given: Named | None) -> list[Problem]:
    if not os.path.isdir(target):
        fields = (("out", target), ("found", "a file"))
        return [Problem(OutputError, "the output exists", fields, "choose another name")]
    if not overwrite:
        fix = f"choose another output folder, or use {setting('overwrite', True)} to replace this one"
        return [Problem(OutputError, "the output exists", (("out", target),), fix)]
    link = None if given is None else user_path(given, OutputError)
    if link is not None and os.path.islink(link):
        fields = (("out", link), ("found", f"a link to {os.path.realpath(link)}"))
        fix = "name that folder itself, or remove the link"
        return [Problem(OutputError, "overwrite replaces nothing through a link", fields, fix)]
    return [] if overwrite == "any" else _not_replaceable(target)


def _not_replaceable(target: Path) -> list[Problem]:
    """The problem with an existing folder that is neither empty, nor a merge, nor a model."""
    try:
        names = in_the_way(target)
    except OSError as error:
        fields = (("out", target), ("found", f"{error.filename}: {error.strerror}"))
        fix = "check its permissions, or choose another output folder"
        return [Problem(OutputError, "cannot look into the output folder", fields, fix)]
    if not names:
        return []
    fields = (("out", target), ("in the way", listed(names, SHOWN_NAMES)))
    whole = f"use {setting('overwrite', 'any')} to replace the folder with everything in it"
    fix = f"move away what you need, or choose another output folder; or {whole}"
    return [Problem(OutputError, "overwrite replaces only a model folder", fields, fix)]
