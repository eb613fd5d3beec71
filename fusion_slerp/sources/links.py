"""Whether the files of a model lie in its folder: a stranger's link could lead to a private file.

Files next to the weights are copied unchanged into the merged model, which may be published. So a
`LICENSE` that links to the user's private key must be refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from fusion_slerp.errors import CheckpointError, Problem, listed, setting
from fusion_slerp.sources.regular_files import NotRegularError, check_regular

TEMPLATES = "additional_chat_templates"

MODULE_FOLDER = re.compile(r"\d{1,3}_[A-Za-z]\w{0,99}")
"""Folders with the settings of a module, as sentence-transformers names them: `1_Pooling`."""

SHARED = ".huggingface-shared-blobs"
"""The file by which huggingface_hub marks the folder of contents that all models of its cache share."""

READ = re.compile(
    r".*\.(?:safetensors|bin|json|py|txt|codes|model|tiktoken|jinja)|README\.md"
    rf"|(?:LICEN[SC]E|NOTICE|COPYING|USE_POLICY).*|{TEMPLATES}"
)
"""Names of the files that are read or copied from a model's folder."""


def check_links(folder: Path) -> None:
    """Returns if everything that is read from a model's folder is in it, or in the Hub's cache.

    That cache has the files of a repository once, in `blobs`, and links to them in
    `snapshots/REVISION`; it may have a folder `blobs` for all repositories as well. The folder itself may
    be reached through a link. A hard link to another file is indistinguishable from that file.

    Raises:
        CheckpointError: Links lead elsewhere, or there is a pipe, a socket or a device.
    """
    roots = _roots(folder)
    outside, special = [], []
    for path in _read(folder):
        target = Path(os.path.realpath(path))
        if not any(root == target or root in target.parents for root in roots):
            outside.append(f"{path.relative_to(folder)} -> {target}")
        elif kind := _special(path):
            special.append(f"{path.relative_to(folder)} is {kind}")
    if outside or special:
        raise _strange_files(folder, sorted(outside), sorted(special)).error()


def _roots(folder: Path) -> list[Path]:
    real = Path(os.path.realpath(folder))
    snapshots = [inner for inner in (real, *real.parents) if inner.parent.name == "snapshots"]
    return [real, *(blobs for snapshot in snapshots[:1] for blobs in _blobs(snapshot.parent.parent))]


def _blobs(model: Path) -> Iterator[Path]:
    """The cache's folders of contents for a model: its own, and one for all models if the cache has that."""
    yield model / "blobs"
    if (model.parent / "blobs" / SHARED).is_file():
        yield model.parent / "blobs"


def _read(folder: Path) -> Iterator[Path]:
    own = _names(folder)
    modules = (name for name in own if MODULE_FOLDER.fullmatch(name))
    yield from (folder / name for name in own if READ.fullmatch(name))
    for inner in (TEMPLATES, *modules):
        yield from (folder / inner / name for name in _names(folder / inner) if READ.fullmatch(name))


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # a missing or closed folder is reported by the code that needs it
        return []


def _special(path: Path) -> str | None:
    try:
        check_regular(os.stat(path).st_mode)
    except NotRegularError as error:
        return error.strerror
    except OSError:  # a broken link is reported by the code that needs it
        return None
    return None


def _strange_files(folder: Path, outside: list[str], special: list[str]) -> Problem:
    fields = (("folder", folder), ("found", listed([*outside, *special])))
    if not outside:
        fix = "do not trust this model: download it again"
        return Problem(CheckpointError, "special files in the model's folder", fields, fix)
    allowed = setting("follow_links", True)
    fix = f"copy the files into the folder; or, if the links are your own, use {allowed}"
    return Problem(CheckpointError, "links lead out of the model's folder", fields, fix)
