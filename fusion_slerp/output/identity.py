"""The identity of a merge: if two runs share it, the second may resume from the first's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusion_slerp._version import __version__
from fusion_slerp.hashes import BESIDE, digest_of, file_digest
from fusion_slerp.output.child_settings import child_settings
from fusion_slerp.output.journal import Identity
from fusion_slerp.output.manifest import row_of
from fusion_slerp.planning.model_names import name_of
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.planning.private_paths import SideFile
from fusion_slerp.planning.rules import RULES
from fusion_slerp.sources.folder import CONFIG, Checkpoint
from fusion_slerp.sources.header import TensorEntry
from fusion_slerp.vocabulary.child_tokenizer import tokenizer_files

HUB_SHA256 = "hub_sha256"
"""The key of the SHA-256 that the Hub lists for a weight file; `sha256` is one that was computed."""


def merge_identity(
    parents: Mapping[str, Checkpoint], plan: MergePlan, side_files: Mapping[str, SideFile]
) -> Identity:
    """Returns the identity of a merge: plain values, nested.

    Args:
        parents: The source models by label, with all their layers.
        plan: The plan of the merge.
        side_files: The merged model's files next to the weights.
    """
    identity = {
        "fusion_slerp": __version__,
        "rules": RULES,
        "settings": {**child_settings(plan.settings), "checksum": plan.settings.checksum},
        **identity_of_models(parents),
        "files": {shard.file_name: digest_of(shard.header, BESIDE) for shard in plan.shards},
        "beside": {name: _side_file_digest(file) for name, file in side_files.items()},
    }
    return json.loads(json.dumps(identity))  # as the journal returns it: lists for tuples


def identity_of_models(parents: Mapping[str, Checkpoint]) -> dict[str, Any]:
    """Returns what identifies models, by label, without reading their weights: `parents`, their fingerprints,
    and `places`, where local models are and when their files were written.
    """
    return {
        "parents": {label: fingerprint(parent) for label, parent in parents.items()},
        "places": {label: _folder(parent) for label, parent in parents.items()},
    }


def _side_file_digest(file: SideFile) -> str:
    return digest_of(file, BESIDE) if isinstance(file, bytes) else file_digest(file, BESIDE)


def _folder(parent: Checkpoint) -> dict[str, Any] | None:
    """A local model's folder and when its files were written; None for a commit of the Hub."""
    if parent.revision is not None:
        return None
    written = {file.name: state.mtime_ns for file, state in parent.files.items()}
    return {"folder": str(parent.folder.resolve()), "written": written}


def fingerprint(parent: Checkpoint) -> dict[str, Any]:
    """Returns what identifies a source model, without reading its weights.

    Digests of its config and tokenizer files, which determine the rows that belong together. For each weight
    file, its size and a digest over the names, types, shapes and offsets of its tensors; for files in the
    Hub's cache also the SHA-256 that the Hub lists for them, by which the cache names them.
    """
    tables: dict[Path, list[TensorEntry]] = {file: [] for file in parent.files}
    for entry in parent.tensors.values():
        tables[entry.file].append(entry)
    files = {
        file.name: {
            "nbytes": parent.files[file].nbytes,
            "tensors": _table_digest(entries),
            **_listed(file),
        }
        for file, entries in sorted(tables.items())
    }
    side_files = {CONFIG: parent.folder / CONFIG, **tokenizer_files(parent.folder)}
    return {
        "model": name_of(parent),
        **({"revision": parent.revision} if parent.revision else {}),
        "beside": {name: row_of(path, BESIDE) for name, path in sorted(side_files.items())},
        "files": files,
    }


def _table_digest(entries: list[TensorEntry]) -> str:
    rows = (f"{e.name}\0{e.dtype.code}\0{e.shape}\0{e.offset}\0{e.strides}" for e in entries)
    return digest_of("\n".join(sorted(rows)).encode(), BESIDE)


def _listed(file: Path) -> dict[str, str]:
    if not file.is_symlink():  # as all files in the Hub's cache are
        return {}
    from fusion_slerp.sources.hub.cache import listed_sha256  # rarely needed

    sha256 = listed_sha256(file)
    return {HUB_SHA256: sha256} if sha256 else {}
