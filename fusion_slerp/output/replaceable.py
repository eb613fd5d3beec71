"""What `overwrite: true` may replace: an earlier merge, or a folder of nothing but a model's files."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from fusion_slerp.methods import METHODS
from fusion_slerp.options import declaration, declared
from fusion_slerp.output.manifest import ManifestError, read_manifest
from fusion_slerp.output.merge_report import REPORT
from fusion_slerp.output.unfinished import MANIFEST
from fusion_slerp.planning.side_files import MODEL_FILES
from fusion_slerp.sources.folder import CONFIG
from fusion_slerp.vocabulary.child_tokenizer import TOKENIZER_FILES

EVALUATION = "evaluation.json"
"""Scores that `evaluate` may write next to a model: no part of the merge, and can be measured again."""

WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")

KNOWN = (
    *WEIGHTS,
    *("model*.safetensors.index.json", "pytorch_model*.bin.index.json", "README.md", MANIFEST, REPORT),
    *(EVALUATION, CONFIG, "generation_config.json", "tokenizer_config.json"),
    *MODEL_FILES,
    *TOKENIZER_FILES,
    *("additional_chat_templates/*.jinja", "mergekit_config.yml"),
    *(".gitattributes", ".cache/huggingface/*", ".DS_Store"),  # of the Hub's client, and of macOS
)
"""Files of a model that can be downloaded or made again: no code, no adapters, no states of a training."""


@cache
def _pictures() -> tuple[str, ...]:
    """The names of all pictures that cards may embed: no others in that folder are known."""
    options = (field for method in METHODS.values() for field in declared(method.options).items())
    scheduled = {name for name, field in options if declaration(field).is_schedule}
    return ("images/angle.svg", *(f"images/{name}.svg" for name in sorted(scheduled)))


def in_the_way(folder: Path) -> list[str]:
    """Returns the names in a folder that `overwrite: true` must not remove, sorted.

    Subfolders end in a slash. Files that a manifest of ours lists may go, and so may all files of `KNOWN` if
    the folder is a model. Empty folders count as nothing.

    Raises:
        OSError: The folder cannot be read.
    """
    known = (*KNOWN, *_pictures())
    everything, unknown = _names(folder, ()), _names(folder, known)
    if not everything or (not unknown and _is_model(everything)):
        return []
    try:
        listed = read_manifest(folder)["files"]
    except ManifestError:
        return unknown or everything
    return _names(folder, known, listed)


def _is_model(names: Collection[str]) -> bool:
    return CONFIG in names and any(fnmatchcase(name, pattern) for name in names for pattern in WEIGHTS)


def _names(folder: Path, known: Collection[str], listed: Collection[str] = ()) -> list[str]:
    """The names of files, and of subfolders with files, that are neither known nor listed."""

    def is_strange(file: str) -> bool:
        fitting = (pattern for pattern in known if ("/" in pattern) == ("/" in file))
        return file not in listed and not any(fnmatchcase(file, pattern) for pattern in fitting)

    with os.scandir(folder) as entries:
        strange = [entry for entry in entries if any(map(is_strange, _files(folder, entry)))]
    names = (f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name for entry in strange)
    return sorted(names)


def _files(folder: Path, entry: os.DirEntry[str]) -> Iterator[str]:
    """The files of an entry, by their paths in the folder; links are files."""
    if not entry.is_dir(follow_symlinks=False):
        yield entry.name
        return
    for inner, folders, files in os.walk(entry.path, onerror=_fail):
        links = [name for name in folders if os.path.islink(os.path.join(inner, name))]
        yield from (Path(inner, name).relative_to(folder).as_posix() for name in (*files, *links))


def _fail(error: OSError) -> None:
    raise error
