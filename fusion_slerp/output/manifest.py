"""The merged model's merge_manifest.json: its source models and settings, and digests of all its bytes.

It holds no time and no path, so the same merge makes the same manifest, byte for byte, however often it was
interrupted. Its last line is the digest of everything before it, so that a damaged manifest is detected.

Format 1 had two source models, a and b, no method but slerp, and no rules; it is read as format 2.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from fusion_slerp._version import __version__
from fusion_slerp.engine.report import WeightFile
from fusion_slerp.hashes import BESIDE, TENSOR_HASH, Checksum, digest_of, file_digest
from fusion_slerp.methods.slerp import SLERP
from fusion_slerp.output.child_settings import child_settings
from fusion_slerp.output.unfinished import MANIFEST
from fusion_slerp.paths import utf8
from fusion_slerp.planning.layout import Shard, Slot
from fusion_slerp.planning.rules import RULES
from fusion_slerp.settings.labels import is_label
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.sources.json_files import Limits, parse_json
from fusion_slerp.sources.regular_files import read_regular

FORMAT = 2
READABLE = (1, 2)
"""Formats that this version reads."""

SELF = BESIDE
"""The last key: the digest of everything before it."""

PACKAGES = ("numpy", "llvmlite")
"""Their versions are recorded, as they take part in the computation."""


Row = Mapping[str, Any]
"""The manifest's row for a file, a tensor or a source model."""


LIMITS = Limits(100_000_000, 6_000_000, 400_000, 20)
"""Enough for 300,000 tensors: the folder may be a stranger's."""


encode = json.JSONEncoder(ensure_ascii=False).encode
"""Like `json.dumps`, which creates an encoder at each call."""


class ManifestError(Exception):
    """A manifest is missing or damaged; the message says how."""


class NewerManifestError(ManifestError):
    """It is intact, but in a format newer than this version."""


def manifest_text(
    parents: Mapping[str, Mapping[str, Any]],
    settings: MergeSettings,
    files: Mapping[str, Row],
    tensors: Mapping[str, Row],
) -> str:
    """Returns the text of a manifest.

    Args:
        parents: The fingerprints of the source models, by label.
        settings: The settings of the merge.
        files: Every other file of the model: `nbytes`, and the digest under the name of its hash.
        tensors: Every tensor: `file`, `offset`, `nbytes` and the digest, likewise.
    """
    return _sealed(
        {
            "format": FORMAT,
            "rules": RULES,
            "made_by": {
                "fusion_slerp": __version__,
                "python": sys.version.partition(" ")[0],
                **{name: _version(name) for name in PACKAGES},
            },
            "parents": dict(parents),
            "settings": child_settings(settings),
            "files": dict(sorted(files.items())),
            "tensors": dict(tensors),
        }
    )


def _version(package: str) -> str:
    """The package's `__version__`: reading the metadata of packages takes longer than a small merge."""
    return str(getattr(sys.modules.get(package), "__version__", "unknown"))


def _sealed(content: Mapping[str, Any]) -> str:
    """The text, ending with the digest of everything before it."""
    body = utf8(_laid_out(content)).decode().removesuffix("\n}")
    return f'{body},\n "{SELF}": "{digest_of(body.encode(), SELF)}"\n}}\n'


def _laid_out(value: Any, indent: str = "") -> str:
    """JSON with one line per row: mappings of mappings are spread over lines, nothing else is."""
    if not isinstance(value, Mapping) or not any(isinstance(each, Mapping) for each in value.values()):
        return encode(value)
    deeper = f"{indent} "
    rows = [f"{deeper}{encode(key)}: {_laid_out(each, deeper)}" for key, each in value.items()]
    return "\n".join(["{", ",\n".join(rows), f"{indent}}}"])


def read_manifest(folder: Path, limits: Limits = LIMITS) -> dict[str, Any]:
    """Returns the manifest of a merged model, converted to the present format if it is older.

    Raises:
        NewerManifestError: It is of a newer format.
        ManifestError: There is none, or it differs from what was written.
    """
    try:
        raw = read_regular(folder / MANIFEST, limits.nbytes)
        text, content = raw.decode("utf-8"), parse_json(raw, limits)
        digest = content.pop(SELF)
    except FileNotFoundError:
        raise ManifestError("there is none") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ManifestError(f"not readable: {error}") from None
    if _sealed(content) != text:
        more = f" ({_format_text(content)})" if _is_newer(content) else ""
        raise ManifestError(f"its own digest, {str(digest)[:12]}..., does not match its content{more}")
    if content.get("format") not in READABLE:
        raise (NewerManifestError if _is_newer(content) else ManifestError)(_format_text(content))
    content = _in_present_form(content)
    _check_rows(content)
    return content


def _is_newer(content: Mapping[str, Any]) -> bool:
    return _are_counts(content.get("format")) and content["format"] > FORMAT


def version_in(content: Mapping[str, Any]) -> str:
    """Returns the version of fusion_slerp that wrote a manifest, or `"unknown"`."""
    made_by = content.get("made_by")
    return str(made_by.get("fusion_slerp")) if isinstance(made_by, Mapping) else "unknown"


def _format_text(content: Mapping[str, Any]) -> str:
    known = " and ".join(map(str, READABLE))
    return (
        f"format {content.get('format')!r}, written by fusion_slerp {version_in(content)}; "
        f"this version reads formats {known}"
    )


def _in_present_form(content: dict[str, Any]) -> dict[str, Any]:
    if content["format"] == FORMAT or not isinstance(content.get("settings"), dict):
        return content
    return {**content, "rules": 1, "settings": {"method": SLERP.name, **content["settings"]}}


def _check_rows(content: Mapping[str, Any]) -> None:
    """Refuses what no merge writes: the folder may come from a stranger, with a digest that matches."""
    try:
        files, tensors, parents = content["files"], content["tensors"], content["parents"]
        good = (
            all(
                _is_inside(name) and checksum_of(row) and _are_counts(row["nbytes"])
                for name, row in files.items()
            )
            and all(
                row["file"] in files and row[TENSOR_HASH] and _are_counts(row["offset"], row["nbytes"])
                for row in tensors.values()
            )
            and all(is_label(label) and _is_parent(row) for label, row in parents.items())
            and bool(parents)
            and isinstance(content["settings"], dict)
            and _are_counts(content["rules"])
        )
    except (KeyError, TypeError, AttributeError):
        good = False
    if not good:
        raise ManifestError("not in the form that a merge writes")


def _is_parent(row: Row) -> bool:
    """Whether a row is a source model's: in memory only a name; else also weight files and side files."""
    kinds = [row[kind] for kind in ("files", "beside") if kind in row]
    is_whole = len(kinds) != 1 and all(isinstance(each, dict) for kind in kinds for each in kind.values())
    return is_whole and isinstance(row["model"], str)


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _are_counts(*values: object) -> bool:
    return all(type(value) is int and value >= 0 for value in values)


def checksum_of(row: Row) -> Checksum:
    """Returns the name of the hash in a file's row.

    Raises:
        KeyError: The row has no known hash.
    """
    for name in get_args(Checksum):
        if isinstance(row.get(name), str):
            return name
    raise KeyError("digest")


def weight_rows(
    files: Sequence[WeightFile], shards: Sequence[Shard], slots: Sequence[Slot], checksum: Checksum
) -> tuple[dict[str, Row], dict[str, Row]]:
    """Returns the manifest's `files` and `tensors` for the merged model's weights."""
    digests = {report.name: report.digest for file in files for report in file.reports}
    tensors: dict[str, Row] = {
        slot.name: {
            "file": shards[slot.shard].file_name,
            "offset": len(shards[slot.shard].header) + slot.offset,
            "nbytes": slot.nbytes,
            TENSOR_HASH: digests[slot.name],
        }
        for slot in slots
    }
    return {file.name: {"nbytes": file.nbytes, checksum: file.digest} for file in files}, tensors


def row_of(file: Path, checksum: Checksum) -> Row:
    """Returns the manifest's row of a file; reads it.

    Raises:
        OSError: It cannot be read.
    """
    return {"nbytes": file.stat().st_size, checksum: file_digest(file, checksum)}
