"""Whether the files of a model lie in its folder: a stranger's link could lead to a private file.

Files beside the weights are copied into the child as they are, and the child is published. So a
`LICENSE` that leads to a key of the user's must be seen before.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from fusion_slerp.errors import CheckpointError, Problem, listed
from fusion_slerp.sources.regular_files import NotRegularError, check_regular

TEMPLATES = "additional_chat_templates"

READ = re.compile(
    r".*\.(?:safetensors|bin|json|py|txt|codes|model|tiktoken|jinja)|README\.md"
    rf"|(?:LICEN[SC]E|NOTICE|COPYING|USE_POLICY).*|{TEMPLATES}"
)
"""Names of whatever is read or copied of a model's folder."""


def check_links(folder: Path) -> None:
    """Returns if everything that is read of a model's folder lies in it, or in its cache of the hub.

    That cache has the files of a repository once, in `blobs`, and links to them in
    `snapshots/REVISION`. The folder itself may be reached through a link. A hard link to another file
    cannot be told from the file.

    Raises:
        CheckpointError: Links lead elsewhere, or there is a pipe, a socket or a device.
    """
    roots = _roots(folder)
    outside, special = [], []
    for path in _read(folder):
        target = Path(os.path.realpath(path))
        if not any(root == target or root in target.parents for root in roots):
            outside.append(f"{path.relative_to(folder)} -> {target}")
        elif found := _special(path):
            special.append(f"{path.relative_to(folder)} is {found}")
    if outside or special:
        raise _strange_files(folder, sorted(outside), sorted(special)).error()


def _roots(folder: Path) -> list[Path]:
    real = Path(os.path.realpath(folder))
    snapshots = [inner for inner in (real, *real.parents) if inner.parent.name == "snapshots"]
    return [real, *(snapshot.parent.parent / "blobs" for snapshot in snapshots[:1])]


def _read(folder: Path) -> Iterator[Path]:
    for inner in (folder, folder / TEMPLATES):
        try:
            names = os.listdir(inner)
        except OSError:  # what is missing or closed is said by whoever needs it
            continue
        yield from (inner / name for name in names if READ.fullmatch(name))


def _special(path: Path) -> str | None:
    try:
        check_regular(os.stat(path).st_mode)
    except NotRegularError as error:
        return error.strerror
    except OSError:  # a link to nothing is said by whoever needs it
        return None
    return None


def _strange_files(folder: Path, outside: list[str], special: list[str]) -> Problem:
    fields = (("folder", folder), ("found", listed([*outside, *special])))
    if not outside:
        fix = "do not trust this model: download it again"
        return Problem(CheckpointError, "something else in the place of files", fields, fix)
    fix = "copy the files into the folder; or, if the links are your own, set follow_links: true"
    return Problem(CheckpointError, "links lead out of the model's folder", fields, fix)
