"""Opens a checkpoint folder: its config, and a map from tensor names to files and offsets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusion_slerp.errors import CheckpointError, Problem, quoted, raise_all
from fusion_slerp.sources.file_state import FileState
from fusion_slerp.sources.findings import Findings
from fusion_slerp.sources.formats import (
    NAMED,
    SAFETENSORS,
    Choice,
    choose,
    files_listed,
    named_weights,
    read_index,
)
from fusion_slerp.sources.header import TensorEntry
from fusion_slerp.sources.json_files import SMALL
from fusion_slerp.sources.no_weights import add_no_weights
from fusion_slerp.sources.placeholders import placeholders
from fusion_slerp.sources.quantisation import quantisation
from fusion_slerp.sources.shards import read_shards
from fusion_slerp.sources.unread import fragment, unread

SINGLE = SAFETENSORS.single
INDEX = SAFETENSORS.index
CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One source model, known from its headers alone.

    Attributes:
        source: The user's name for it: a folder or a Hub id.
        folder: The local folder that it was read from.
        revision: The Hub commit that it was resolved to; None for a local folder.
        config: The content of its config.json.
        tensors: Every tensor by name, in the order of the files and of their data.
        warnings: Harmless oddities, one line each.
        files: The weight files, and their states just before their headers were read.
    """

    source: str
    folder: Path
    revision: str | None
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorEntry]
    warnings: tuple[str, ...] = ()
    files: Mapping[Path, FileState] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.nbytes for entry in self.tensors.values())


def open_checkpoint(folder: Path, source: str = "", revision: str | None = None) -> Checkpoint:
    """Returns the checkpoint in a local folder; reads headers only.

    As in transformers, a file that config.json names is read first, safetensors weights are preferred to
    those of torch, and a single file to an index with shards; weight files that are not read are reported
    in a warning.

    Args:
        folder: A folder with config.json and weights.
        source: The name to show for it; default: the folder.
        revision: Its Hub commit, if it came from the Hub.

    Raises:
        CheckpointError: It is not a checkpoint folder, it is quantised, or any part of it is missing or
            damaged; all faults at once.
    """
    folder = Path(folder)
    findings = Findings()
    config = read_config(folder, findings)
    tensors = _read_tensors(folder, config, findings)
    if problem := quantisation(folder / CONFIG, config, tensors.values()):
        findings.problems.insert(0, problem)
    findings.problems += placeholders(folder, tensors.values())
    raise_all(findings.problems)
    name, warnings = source or str(folder), tuple(findings.warnings)
    return Checkpoint(name, folder, revision, config, tensors, warnings, findings.files)


def read_config(folder: Path, findings: Findings) -> dict[str, Any]:
    """Returns the parsed config.json, or `{}` after adding a problem."""
    return findings.object_in(folder / CONFIG, SMALL, "a checkpoint folder has a config.json") or {}


def _read_tensors(folder: Path, config: Mapping[str, Any], findings: Findings) -> dict[str, TensorEntry]:
    # A link that leads nowhere counts as a file, so that the error names it.
    indexes: dict[str, Any] = {}

    def exists(name: str) -> bool:
        return os.path.lexists(folder / name)

    def files_in(name: str) -> tuple[str, ...]:
        indexes[name] = read_index(folder / name)
        return files_listed(indexes[name])

    named = named_weights(config)
    if config.get(NAMED) is not None and not (named and exists(named)):
        findings.problems.append(_wrongly_named(folder, config[NAMED], named))
        return {}
    choice = choose(exists, files_in, named)
    if choice is None:
        add_no_weights(folder, findings)
        return {}
    findings.warnings += [
        f"{folder}: {name} lists files none of which exists; using {choice.start} instead"
        for name in choice.stale
    ]
    if choice.is_sharded:
        tensors = read_shards(folder, choice, indexes.get(choice.start), findings)
    else:
        tensors = _read_single(folder, choice, findings)
        findings.problems += [] if named else fragment(folder, choice.start, tensors.keys())
    used = {choice.start, *choice.stale, *(entry.file.name for entry in tensors.values())}
    findings.warnings += unread(folder, used, named)
    return tensors


def _wrongly_named(folder: Path, given: object, named: str | None) -> Problem:
    """The problem with weights that config.json names: they are missing, or such a name is not read."""
    shown = quoted(given) if isinstance(given, str) else f"a {type(given).__name__}"
    found = f"{NAMED}: {shown}" + (", which does not exist" if named else "")
    needed = "a file in this folder: NAME.safetensors or NAME.safetensors.index.json"
    fix = f"download that file into {folder}" if named else f"correct {NAMED}"
    fix += f", or remove {NAMED} from config.json if the weights have their usual names"
    fields = (("file", folder / CONFIG), ("found", found), ("needed", needed))
    return Problem(CheckpointError, "no weights where config.json says", fields, fix)


def _read_single(folder: Path, choice: Choice, findings: Findings) -> dict[str, TensorEntry]:
    file = folder / choice.start
    tensors = {entry.name: entry for entry in findings.tensors_in(file, choice.format)}
    if not tensors and not findings.problems:
        fields = (("file", file), ("needed", "the weights of a model"))
        fix = "save or download the model again"
        findings.problems.append(Problem(CheckpointError, "no tensors in the weights", fields, fix))
    return tensors
