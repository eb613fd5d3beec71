"""Opens a checkpoint folder: its config and a map from tensor names to places in files."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from fusion_slerp.errors import (
    SHOWN_NAME,
    CheckpointError,
    FusionSlerpError,
    Problem,
    listed,
    printable,
    raise_all,
)
from fusion_slerp.sources.file_state import FileState, state_of
from fusion_slerp.sources.formats import (
    FORMATS,
    MAX_SHARDS,
    SAFETENSORS,
    TORCH,
    Choice,
    choose,
    files_listed,
    read_index,
)
from fusion_slerp.sources.header import REDOWNLOAD, TensorEntry
from fusion_slerp.sources.json_files import INDEX as INDEX_LIMITS
from fusion_slerp.sources.json_files import SMALL, Limits, read_json
from fusion_slerp.sources.regular_files import NotRegularError

SINGLE = SAFETENSORS.single
INDEX = SAFETENSORS.index
CONFIG = "config.json"
MAX_TENSORS = 300_000
"""The largest known models have half as many."""

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "consolidated*.pth", "*.gguf")
"""Weight files as they occur in checkpoint folders, those that are never read included."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One parent, known by its headers alone.

    Attributes:
        source: What the user called it: a folder or a hub id.
        folder: The local folder it was read from.
        revision: The hub commit it was resolved to; None for a local folder.
        config: The content of its config.json.
        tensors: Every tensor by name, in the order of the files and of their data.
        warnings: What was odd but harmless, one line each.
        files: The weight files, and what they were just before their headers were read.
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


@dataclass(slots=True)
class _Findings:
    problems: list[Problem | FusionSlerpError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    files: dict[Path, FileState] = field(default_factory=dict)


def open_checkpoint(folder: Path, source: str = "", revision: str | None = None) -> Checkpoint:
    """Returns the checkpoint in a local folder; reads headers only.

    As in transformers, safetensors weights are preferred to those of torch, and a single file to
    an index with shards; what is left over is reported as a warning.

    Args:
        folder: A folder with config.json and weights.
        source: The name to show for it; default: the folder.
        revision: Its hub commit, if it came from a hub.

    Raises:
        CheckpointError: It is not a checkpoint folder, or any part of it is missing or damaged;
            all faults at once.
    """
    folder = Path(folder)
    findings = _Findings()
    config = read_config(folder, findings.problems)
    tensors = _read_tensors(folder, findings)
    raise_all(findings.problems)
    name, warnings = source or str(folder), tuple(findings.warnings)
    return Checkpoint(name, folder, revision, config, tensors, warnings, findings.files)


def read_config(folder: Path, problems: list[Any]) -> dict[str, Any]:
    """Returns the parsed config.json, or `{}` after adding a problem to the list."""
    config = _read_object(folder / CONFIG, SMALL, problems, "a checkpoint folder has a config.json") or {}
    for key in ("quantization_config", "compression_config"):
        value = config.get(key)
        if value is not None:
            method = value.get("quant_method", "unknown") if isinstance(value, dict) else "unknown"
            found = f"{key}, method {printable(method, SHOWN_NAME)}"
            fields = (("file", folder / CONFIG), ("found", found))
            fix = "merge the unquantised model; dequantise it first if there is no other"
            problems.append(Problem(CheckpointError, "quantised weights cannot be merged", fields, fix))
    return config


def _read_object(
    file: Path, limits: Limits, problems: list[Any], needed: str, strict: bool = False
) -> dict[str, Any] | None:
    """Returns a JSON object from a file, or None after adding a problem to the list."""
    try:
        value = read_json(file, limits, strict)
        if isinstance(value, dict):
            return value
        found = f"JSON, but a {type(value).__name__} instead of an object"
    except FileNotFoundError:
        found = "no such file"
    except NotRegularError as error:
        found = error.strerror
    except (OSError, ValueError) as error:
        found = f"not readable as JSON: {error}"
    fix = "point to a folder saved by save_pretrained, or download the model again"
    fields = (("file", file), ("found", found), ("needed", needed))
    problems.append(Problem(CheckpointError, f"no usable {file.name}", fields, fix))
    return None


def _read_tensors(folder: Path, findings: _Findings) -> dict[str, TensorEntry]:
    # A link that leads nowhere exists too: it will be named.
    indexes: dict[str, Any] = {}

    def files_in(name: str) -> tuple[str, ...]:
        indexes[name] = read_index(folder / name)
        return files_listed(indexes[name])

    choice = choose(lambda name: os.path.lexists(folder / name), files_in)
    if choice is None:
        findings.problems.append(no_weights(("folder", folder), sorted(p.name for p in folder.glob("*"))))
        return {}
    findings.warnings += [
        f"{folder}: {name} lists files none of which exists; read in its place: {choice.start}"
        for name in choice.stale
    ]
    if choice.is_sharded:
        tensors = _read_shards(folder, choice, indexes.get(choice.start), findings)
    else:
        tensors = _read_single(folder, choice, findings)
    used = {choice.start, *choice.stale, *(entry.file.name for entry in tensors.values())}
    findings.warnings += _leftovers(folder, used)
    return tensors


def _read_single(folder: Path, choice: Choice, findings: _Findings) -> dict[str, TensorEntry]:
    file = folder / choice.start
    tensors = {entry.name: entry for entry in _read_file(file, choice, findings)}
    if not tensors and not findings.problems:
        fields = (("file", file), ("needed", "the weights of a model"))
        fix = "save or download the model again"
        findings.problems.append(Problem(CheckpointError, "no tensors in the weights", fields, fix))
    return tensors


def _leftovers(folder: Path, used: set[str]) -> list[str]:
    """A warning, if there are weight files or indexes in the folder that are not used."""
    patterns = (*WEIGHTS, *(kind.index for kind in FORMATS))
    found = {path.name for pattern in patterns for path in folder.glob(pattern)}
    unread = sorted(found - used)
    return [f"{folder}: not read: {listed(unread)}"] if unread else []


def no_weights(place: tuple[str, object], names: list[str]) -> Problem:
    """The problem with a place (its label and name) whose files hold no weights that can be read."""
    found, fix = "no weight files", "point to the folder that holds config.json and the weights"
    other = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".gguf"))]
    if other:
        found = f"{listed(other, 3)}, a format or name that is not read"
        fix = "convert it once: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
    for kind, pattern in ((TORCH, r"pytorch_model.*\.bin"), (SAFETENSORS, r".*\.safetensors")):
        shards = [name for name in names if re.fullmatch(pattern, name)]
        if shards:
            found = f"{listed(shards, 3)}, but no index"
            fix = f"download {kind.index} too, or rename a single file to {kind.single}"
    needed = " or ".join(kind.single for kind in FORMATS) + ", or shards with their index"
    fields = (place, ("found", found), ("needed", needed))
    return Problem(CheckpointError, "no weights that can be read", fields, fix)


def _read_file(file: Path, choice: Choice, findings: _Findings) -> list[TensorEntry]:
    try:
        state = state_of(file)
        entries = choice.format.read(file)
    except CheckpointError as error:
        findings.problems.append(error)
        return []
    except OSError as error:
        fields = (("file", file), ("found", error.strerror))
        findings.problems.append(Problem(CheckpointError, "cannot read a weight file", fields, REDOWNLOAD))
        return []
    findings.files[file] = state
    return entries


def _read_shards(folder: Path, choice: Choice, index: Any, findings: _Findings) -> dict[str, TensorEntry]:
    file = folder / choice.start
    if not isinstance(index, dict):  # read once more, for what is wrong with it
        index = _read_object(file, INDEX_LIMITS, findings.problems, "an index with a weight_map", strict=True)
    if index is None:
        return {}
    weight_map: Any = index.get("weight_map")
    if not _is_weight_map(weight_map):
        fields = (("file", file), ("needed", '"weight_map": {tensor name: file name}'))
        fix = "download the index again"
        findings.problems.append(Problem(CheckpointError, "no usable weight_map", fields, fix))
        return {}
    problem = _too_many(file, set(weight_map.values())) or _outside(file, choice.files)
    if problem:
        findings.problems.append(problem)
        return {}
    # Unlike pathlib's, this knows no errors: a name can be too long for any file.
    missing = [name for name in choice.files if not os.path.isfile(folder / name)]
    if missing:
        found = f"{len(missing)} of {len(choice.files)} shards missing: {listed(missing)}"
        fields = (("file", file), ("found", found))
        fix = f"download the missing files into {folder}"
        findings.problems.append(Problem(CheckpointError, "missing shards", fields, fix))
    absent = set(missing)
    present = [name for name in choice.files if name not in absent]
    findings.problems += _one_file_twice(file, present)
    entries = {} if findings.problems and not missing else _read_files(file, present, choice, findings)
    return _select(file, weight_map, entries, findings) if not findings.problems else {}


def _read_files(
    index: Path, names: Sequence[str], choice: Choice, findings: _Findings
) -> dict[str, list[TensorEntry]]:
    """The tensors of every file, as long as they are not more than any model has."""
    entries: dict[str, list[TensorEntry]] = {}
    n_tensors = 0
    for name in names:
        entries[name] = _read_file(index.parent / name, choice, findings)
        n_tensors += len(entries[name])
        if n_tensors > MAX_TENSORS:
            fields = (("file", index), ("found", f"more than {MAX_TENSORS} tensors up to {name}"))
            fix = "do not trust this checkpoint: no model has so many"
            findings.problems.append(Problem(CheckpointError, "too many tensors", fields, fix))
            break
    return entries


def _too_many(index: Path, shards: Collection[str]) -> Problem | None:
    if len(shards) <= MAX_SHARDS:
        return None
    fields = (("file", index), ("found", f"{len(shards)} weight files"), ("needed", f"at most {MAX_SHARDS}"))
    return Problem(CheckpointError, "too many weight files", fields, "download the index again")


def _one_file_twice(index: Path, names: Sequence[str]) -> list[Problem]:
    """A few files under very many names would be read as often."""
    places: dict[tuple[int, int], list[str]] = {}
    for name in names:
        places.setdefault(state_of(index.parent / name).place, []).append(name)
    twice = [" and ".join(found[:2]) for found in places.values() if len(found) > 1]
    if not twice:
        return []
    fields = (("file", index), ("found", f"one file as {listed(twice, 3)}"))
    fix = "download the shards again"
    return [Problem(CheckpointError, "two shards are one file", fields, fix)]


def _outside(index: Path, shards: Sequence[str]) -> Problem | None:
    outside = [name for name in shards if not _is_plain_name(name)]
    if not outside:
        return None
    fields = (("file", index), ("found", listed([repr(name) for name in outside])))
    fix = "do not trust this checkpoint: shards must be files in its own folder"
    return Problem(CheckpointError, "a shard outside the folder", fields, fix)


def _is_weight_map(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(v, str) for v in value.values())


def _is_plain_name(name: str) -> bool:
    return PurePath(name).name == name and name not in {"", ".", ".."} and "\\" not in name


def _select(
    index: Path,
    weight_map: Mapping[str, str],
    entries: Mapping[str, list[TensorEntry]],
    findings: _Findings,
) -> dict[str, TensorEntry]:
    """The entries of all shards by name, each stored once and where the index says."""
    where = {entry.name: shard for shard, stored in entries.items() for entry in stored}
    if where == weight_map and len(where) == sum(map(len, entries.values())):
        return {entry.name: entry for stored in entries.values() for entry in stored}
    places: dict[str, dict[str, TensorEntry]] = {}
    for shard, stored in entries.items():
        for entry in stored:
            places.setdefault(entry.name, {})[shard] = entry
    lost = [
        f"{name} in {shard}: not there"
        for name, shard in weight_map.items()
        if shard not in places.get(name, {})
    ]
    twice = [f"{name} in {' and in '.join(found)}" for name, found in places.items() if len(found) > 1]
    if lost or twice:
        fields = (("file", index), ("found", listed([*lost, *twice], 3)))
        fix = "download the index and the shards again, all from one revision"
        findings.problems.append(Problem(CheckpointError, "the index does not match the shards", fields, fix))
    unlisted = [name for name in places if name not in weight_map]
    if unlisted:
        findings.warnings.append(
            f"{index.parent}: stored but not in the index, merged all the same: {listed(unlisted, 3)}"
        )
    return {name: entry for name, found in places.items() for entry in found.values()}
