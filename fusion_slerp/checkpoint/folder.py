"""Opens a checkpoint folder: its config and a map from tensor names to places in files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from fusion_slerp.checkpoint.header import TensorEntry, read_header
from fusion_slerp.errors import CheckpointError, FusionSlerpError, Problem, listed, raise_all

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"


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
    """

    source: str
    folder: Path
    revision: str | None
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorEntry]
    warnings: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.nbytes for entry in self.tensors.values())


@dataclass(slots=True)
class _Findings:
    problems: list[Problem | FusionSlerpError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def open_checkpoint(folder: Path, source: str = "", revision: str | None = None) -> Checkpoint:
    """Returns the checkpoint in a local folder; reads headers only.

    As in transformers, `model.safetensors` is preferred to an index with shards; a leftover of
    the other kind is reported as a warning.

    Args:
        folder: A folder with config.json and safetensors weights.
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
    return Checkpoint(source or str(folder), folder, revision, config, tensors, tuple(findings.warnings))


def read_config(folder: Path, problems: list[Any]) -> dict[str, Any]:
    """Returns the parsed config.json, or `{}` after adding a problem to the list."""
    config = read_json(folder / CONFIG, problems, "a checkpoint folder has a config.json")
    if "quantization_config" in config or "compression_config" in config:
        key = "quantization_config" if "quantization_config" in config else "compression_config"
        method = (config[key] or {}).get("quant_method", "unknown")
        fields = (("file", folder / CONFIG), ("found", f"{key}, method {method}"))
        fix = "merge the unquantised model; dequantise it first if there is no other"
        problems.append(Problem(CheckpointError, "quantised weights cannot be merged", fields, fix))
    return config


def read_json(file: Path, problems: list[Any], needed: str) -> dict[str, Any]:
    """Returns a JSON object from a file, or `{}` after adding a problem to the list."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return value
        found = f"JSON, but a {type(value).__name__} instead of an object"
    except FileNotFoundError:
        found = "no such file"
    except (OSError, ValueError, RecursionError) as error:
        found = f"not readable as JSON: {error}"
    fix = "point to a folder saved by save_pretrained, or download the model again"
    fields = (("file", file), ("found", found), ("needed", needed))
    problems.append(Problem(CheckpointError, f"no usable {file.name}", fields, fix))
    return {}


def _read_tensors(folder: Path, findings: _Findings) -> dict[str, TensorEntry]:
    if (folder / SINGLE).exists():
        if (folder / INDEX).exists():
            findings.warnings.append(f"{folder}: {SINGLE} is read; the {INDEX} beside it is ignored")
        return {entry.name: entry for entry in _read_file(folder / SINGLE, findings)}
    if (folder / INDEX).exists():
        return _read_shards(folder, findings)
    findings.problems.append(_no_weights(folder))
    return {}


def _no_weights(folder: Path) -> Problem:
    other = sorted(p.name for p in folder.glob("*") if p.suffix in {".bin", ".pt", ".pth", ".gguf"})
    found = f"{listed(other, 3)}, a format that is not read" if other else "no weight files"
    fix = (
        "convert it once: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
        if other
        else "point to the folder that holds config.json and the weights"
    )
    fields = (("folder", folder), ("found", found), ("needed", f"{SINGLE}, or {INDEX} and its shards"))
    return Problem(CheckpointError, "no safetensors weights", fields, fix)


def _read_file(file: Path, findings: _Findings) -> list[TensorEntry]:
    try:
        return read_header(file)
    except CheckpointError as error:
        findings.problems.append(error)
        return []


def _read_shards(folder: Path, findings: _Findings) -> dict[str, TensorEntry]:
    index = read_json(folder / INDEX, findings.problems, "an index with a weight_map")
    if not index:
        return {}
    weight_map: Any = index.get("weight_map")
    if not _is_weight_map(weight_map):
        fields = (("file", folder / INDEX), ("needed", '"weight_map": {tensor name: file name}'))
        fix = "download the index again"
        findings.problems.append(Problem(CheckpointError, "no usable weight_map", fields, fix))
        return {}
    shards = list(dict.fromkeys(weight_map.values()))
    outside = [name for name in shards if not _is_plain_name(name)]
    if outside:
        fields = (("file", folder / INDEX), ("found", listed(outside)))
        fix = "do not trust this checkpoint: shards must be files in its own folder"
        findings.problems.append(Problem(CheckpointError, "a shard outside the folder", fields, fix))
        return {}
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        found = f"{len(missing)} of {len(shards)} shards missing: {listed(missing)}"
        fields = (("file", folder / INDEX), ("found", found))
        fix = f"download the missing files into {folder}"
        findings.problems.append(Problem(CheckpointError, "missing shards", fields, fix))
    entries = {name: _read_file(folder / name, findings) for name in shards if name not in missing}
    return _select(folder, weight_map, entries, findings) if not findings.problems else {}


def _is_weight_map(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(v, str) for v in value.values())


def _is_plain_name(name: str) -> bool:
    return PurePath(name).name == name and name not in {"", ".", ".."} and "\\" not in name


def _select(
    folder: Path,
    weight_map: Mapping[str, str],
    entries: Mapping[str, list[TensorEntry]],
    findings: _Findings,
) -> dict[str, TensorEntry]:
    """Picks for each name the entry the index points at; every stored tensor is accounted for."""
    tensors: dict[str, TensorEntry] = {}
    unlisted: list[str] = []
    for shard, stored in entries.items():
        for entry in stored:
            if weight_map.get(entry.name, shard) == shard:
                tensors[entry.name] = entry
            if entry.name not in weight_map:
                unlisted.append(entry.name)
    lost = [name for name in weight_map if name not in tensors]
    if lost:
        found = f"{listed([f'{name} in {weight_map[name]}' for name in lost], 3)}: not there"
        fields = (("file", folder / INDEX), ("found", found))
        fix = "download the index and the shards again, all from one revision"
        findings.problems.append(Problem(CheckpointError, "the index does not match", fields, fix))
    if unlisted:
        findings.warnings.append(
            f"{folder}: stored but not in the index, merged all the same: {listed(unlisted, 3)}"
        )
    return tensors
