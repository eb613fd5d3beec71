"""Opens a checkpoint folder: its config, and a map from tensor names to files and offsets."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
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
from fusion_slerp.sources.conversions import ADAPTER, Where, adapter, gguf, quantised
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
"""Twice as many as the largest known models have."""

TRAINING = re.compile(r"training_args|optimizer|scheduler|rng_state")
"""The start of the names of files with the state of a training run."""

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "consolidated*.pth", "*.gguf")
"""Weight files as they occur in checkpoint folders, including those that are never read."""


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


@dataclass(slots=True)
class _Findings:
    problems: list[Problem | FusionSlerpError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    files: dict[Path, FileState] = field(default_factory=dict)


def open_checkpoint(folder: Path, source: str = "", revision: str | None = None) -> Checkpoint:
    """Returns the checkpoint in a local folder; reads headers only.

    As in transformers, safetensors weights are preferred to those of torch, and a single file to
    an index with shards; weight files that are not read are reported in a warning.

    Args:
        folder: A folder with config.json and weights.
        source: The name to show for it; default: the folder.
        revision: Its Hub commit, if it came from the Hub.

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
            problems.append(quantised(folder / CONFIG, key, method))
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
    fix = "name a folder saved by save_pretrained, or download the model again"
    fields = (("file", file), ("found", found), ("needed", needed))
    problems.append(Problem(CheckpointError, f"no usable {file.name}", fields, fix))
    return None


def _read_tensors(folder: Path, findings: _Findings) -> dict[str, TensorEntry]:
    # A link that leads nowhere counts as a file, so that the error names it.
    indexes: dict[str, Any] = {}

    def files_in(name: str) -> tuple[str, ...]:
        indexes[name] = read_index(folder / name)
        return files_listed(indexes[name])

    choice = choose(lambda name: os.path.lexists(folder / name), files_in)
    if choice is None:
        _without_weights(folder, findings)
        return {}
    findings.warnings += [
        f"{folder}: {name} lists files none of which exists; using {choice.start} instead"
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
    """A warning, if the folder has weight files or indexes that are not used."""
    patterns = (*WEIGHTS, *(kind.index for kind in FORMATS))
    names = {path.name for pattern in patterns for path in folder.glob(pattern)}
    unread = sorted(names - used)
    return [f"{folder}: not read: {listed(unread)}"] if unread else []


def no_weights(where: Where, names: Sequence[str], adapter_config: object = None) -> Problem:
    """Returns the problem with a model that has no readable weights.

    Args:
        where: The model.
        names: Its files.
        adapter_config: The content of its adapter_config.json, if it has one.
    """
    if ADAPTER in names:
        return adapter(where, names, adapter_config)
    for kind, pattern in ((SAFETENSORS, r".*\.safetensors"), (TORCH, r"pytorch_model.*\.bin")):
        if shards := [name for name in names if re.fullmatch(pattern, name)]:
            found = f"{listed(shards, 3)}, but no index"
            fix = f"download {kind.index} as well, or rename a single file to {kind.single}"
            return _no_weights(where, found, fix)
    if ggufs := [name for name in names if name.endswith(".gguf")]:
        return gguf(where, ggufs)
    others = [name for name in names if name.endswith((".bin", ".pt", ".pth")) and not TRAINING.match(name)]
    if others:
        fix = "save the model with save_pretrained, or merge another repository's copy of it"
        if len(others) == 1 and not others[0].startswith("consolidated"):
            fix = f"if {printable(others[0], SHOWN_NAME)} holds the weights, rename it to {TORCH.single}"
        return _no_weights(where, f"{listed(others, 3)}: a format or name that is not read", fix)
    return _no_weights(where, "no weight files", "name the folder that holds config.json and the weights")


def _no_weights(where: Where, found: str, fix: str) -> Problem:
    needed = " or ".join(kind.single for kind in FORMATS) + ", or shards with their index"
    return Problem(CheckpointError, "no readable weights", (where, ("found", found), ("needed", needed)), fix)


def _without_weights(folder: Path, findings: _Findings) -> None:
    """Adds what is wrong with a folder that has no readable weights."""
    names = sorted(path.name for path in folder.glob("*"))
    config: Any = None
    if ADAPTER in names:
        with suppress(OSError, ValueError):
            config = read_json(folder / ADAPTER, SMALL)
    if ADAPTER in names or any(name.endswith(".gguf") for name in names):
        findings.problems.clear()  # such folders need no config.json
    findings.problems.append(no_weights(("folder", folder), names, config))


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
    if not isinstance(index, dict):  # read again, to find what is wrong with it
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
    # Unlike pathlib's, this raises no errors: a name can be too long for any file.
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
    """The tensors of every file, up to the limit for a model."""
    entries: dict[str, list[TensorEntry]] = {}
    n_tensors = 0
    for name in names:
        entries[name] = _read_file(index.parent / name, choice, findings)
        n_tensors += len(entries[name])
        if n_tensors > MAX_TENSORS:
            fields = (("file", index), ("found", f"more than {MAX_TENSORS} tensors up to {name}"))
            fix = "do not trust this checkpoint: no known model has that many"
            findings.problems.append(Problem(CheckpointError, "too many tensors", fields, fix))
            break
    return entries


def _too_many(index: Path, shards: Collection[str]) -> Problem | None:
    if len(shards) <= MAX_SHARDS:
        return None
    fields = (("file", index), ("found", f"{len(shards)} weight files"), ("needed", f"at most {MAX_SHARDS}"))
    return Problem(CheckpointError, "too many weight files", fields, "download the index again")


def _one_file_twice(index: Path, names: Sequence[str]) -> list[Problem]:
    """A few files under very many names would be read as many times."""
    by_inode: dict[tuple[int, int], list[str]] = {}
    for name in names:
        by_inode.setdefault(state_of(index.parent / name).inode, []).append(name)
    twice = [" and ".join(same[:2]) for same in by_inode.values() if len(same) > 1]
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
    """The entries of all shards by name, each stored once and in the shard that the index gives."""
    where = {entry.name: shard for shard, stored in entries.items() for entry in stored}
    if where == weight_map and len(where) == sum(map(len, entries.values())):
        return {entry.name: entry for stored in entries.values() for entry in stored}
    by_name: dict[str, dict[str, TensorEntry]] = {}
    for shard, stored in entries.items():
        for entry in stored:
            by_name.setdefault(entry.name, {})[shard] = entry
    lost = [
        f"{name} in {shard}: not there"
        for name, shard in weight_map.items()
        if shard not in by_name.get(name, {})
    ]
    twice = [f"{name} in {' and in '.join(shards)}" for name, shards in by_name.items() if len(shards) > 1]
    if lost or twice:
        fields = (("file", index), ("found", listed([*lost, *twice], 3)))
        fix = "download the index and the shards again, all from one revision"
        findings.problems.append(Problem(CheckpointError, "the index does not match the shards", fields, fix))
    unlisted = [name for name in by_name if name not in weight_map]
    if unlisted:
        findings.warnings.append(
            f"{index.parent}: stored but not in the index, and merged as well: {listed(unlisted, 3)}"
        )
    return {name: entry for name, shards in by_name.items() for entry in shards.values()}
