"""The shards of a checkpoint: the files that its index lists, and the tensors that it finds in them."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusion_slerp.errors import CheckpointError, Problem, listed
from fusion_slerp.sources.file_state import state_of
from fusion_slerp.sources.findings import Findings
from fusion_slerp.sources.formats import MAX_SHARDS, Choice, is_plain_name
from fusion_slerp.sources.header import TensorEntry
from fusion_slerp.sources.json_files import INDEX as LIMITS

MAX_TENSORS = 300_000
"""Twice as many as the largest known models have."""


def read_shards(folder: Path, choice: Choice, index: Any, findings: Findings) -> dict[str, TensorEntry]:
    """Returns the tensors of all shards by name, or none after adding problems.

    Args:
        folder: The checkpoint's.
        choice: The index, and the files that it lists.
        index: Its content; None if that could not be read.
        findings: What was found so far.
    """
    file = folder / choice.start
    if not isinstance(index, dict):  # read again, to find what is wrong with it
        index = findings.object_in(file, LIMITS, "an index with a weight_map", strict=True)
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
    index: Path, names: Sequence[str], choice: Choice, findings: Findings
) -> dict[str, list[TensorEntry]]:
    """The tensors of every file, up to the limit for a model."""
    entries: dict[str, list[TensorEntry]] = {}
    n_tensors = 0
    for name in names:
        entries[name] = findings.tensors_in(index.parent / name, choice.format)
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
    outside = [name for name in shards if not is_plain_name(name)]
    if not outside:
        return None
    fields = (("file", index), ("found", listed([repr(name) for name in outside])))
    fix = "do not trust this checkpoint: shards must be files in its own folder"
    return Problem(CheckpointError, "a shard outside the folder", fields, fix)


def _is_weight_map(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(v, str) for v in value.values())


def _select(
    index: Path,
    weight_map: Mapping[str, str],
    entries: Mapping[str, list[TensorEntry]],
    findings: Findings,
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
