"""Whether the merged model can be written where the user wants it: the folder, and the space on its disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from fusion_slerp.errors import OutputError, Problem, setting
from fusion_slerp.sources.folder import CONFIG

MARGIN_NBYTES = 1 << 20
"""Space for the card and the index, in addition to the files whose size is known."""


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
        linked = (_overlap(target, link.resolve(), f"a file of {what}") for link in sorted(links))
        problems += [problem for problem in (overlap, *linked) if problem]
    return problems


def check_target(target: Path, overwrite: bool) -> list[Problem]:
    """Returns the problems with creating the folder `target`, an absolute real path."""
    problems = _existing(target, overwrite) if os.path.exists(target) else []
    base = _nearest_folder(target)
    if not base.is_dir() or not os.access(base, os.W_OK | os.X_OK):
        state = "not writable" if base.is_dir() else "a file"
        fields = (("out", target), ("folder", base), ("found", state))
        fix = "choose another output folder"
        problems.append(Problem(OutputError, "the output folder cannot be created", fields, fix))
    return problems


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


def _existing(target: Path, overwrite: bool) -> list[Problem]:
    if not target.is_dir():
        fields = (("out", target), ("found", "a file"))
        return [Problem(OutputError, "the output exists", fields, "choose another name")]
    if not overwrite:
        fix = f"choose another output folder, or use {setting('overwrite', True)} to replace this one"
        return [Problem(OutputError, "the output exists", (("out", target),), fix)]
    if any(target.iterdir()) and not (target / CONFIG).exists():
        fields = (("out", target), ("found", f"files, but no {CONFIG}: not an earlier model"))
        fix = "remove that folder yourself, or choose another"
        return [Problem(OutputError, "overwrite replaces only a model folder", fields, fix)]
    return []
