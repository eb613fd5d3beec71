"""Source models that are merges themselves: what these were made of, as the files in their folders say.

One step back and no further. The folder may be a stranger's: files are read within bounds, names are cut and
cleaned, and of a path only its last name is shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from fusion_slerp.output.manifest import ManifestError, read_manifest
from fusion_slerp.output.unfinished import MANIFEST
from fusion_slerp.sources.json_files import SMALL
from fusion_slerp.vocabulary.remarks import enumerated

MAX_MODELS = 20
"""Source models of a source model that are named; of more, their number is."""

MAX_NAME = 96
"""Characters of a name: as long as a name on the Hub may be."""

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]*\w")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Lineage:
    """What a source model was merged from.

    Attributes:
        models: Its own source models: hub ids, with `@revision` where it is known, or last names of folders.
        n_models: How many there are.
        method: The name of the method; None if it is unknown.
    """

    models: tuple[str, ...]
    n_models: int
    method: str | None = None


def lineage(folder: Path, metadata: Mapping[str, Any]) -> Lineage | None:
    """Returns what a model was merged from; None if nothing says that it is a merge.

    Args:
        folder: The model's.
        metadata: The front matter of its card, for merges of other programs. The Hub regards a model with
            several `base_model`s as a merge of them.
    """
    made = _from_manifest(folder)
    bases = metadata.get("base_model")
    if made is None and isinstance(bases, list) and len(bases) > 1:
        return Lineage(tuple(map(public_name, bases[:MAX_MODELS])), len(bases))
    return made


def _from_manifest(folder: Path) -> Lineage | None:
    if not (folder / MANIFEST).is_file():
        return None
    try:
        manifest = read_manifest(folder, SMALL)
    except ManifestError:  # damaged, or of a newer version
        return None
    parents = manifest["parents"]
    models = tuple(_pinned(row) for row in islice(parents.values(), MAX_MODELS))
    return Lineage(models, len(parents), public_name(str(manifest["settings"].get("method"))))


def _pinned(row: Mapping[str, Any]) -> str:
    revision = str(row.get("revision"))
    return public_name(row["model"]) + (f"@{revision}" if _COMMIT.fullmatch(revision) else "")


def public_name(name: str) -> str:
    """Returns a hub id unchanged, and of anything else the last name, without special characters."""
    if len(name) <= MAX_NAME and _HUB_ID.fullmatch(name):
        return name
    last = re.split(r"[/\\]", name[-1000:].rstrip("/\\"))[-1]
    return re.sub(r"[^\w.-]+", "_", last)[:MAX_NAME] or "unknown"


def sentence(label: str, made: Lineage) -> str:
    """Returns what the card says of a source model that is a merge, in Markdown."""
    more = [f"{made.n_models - len(made.models)} more"] if made.n_models > len(made.models) else []
    source = f"method: {made.method}" if made.method else "according to its card"
    names = enumerated([*(f"`{name}`" for name in made.models), *more])
    return f"Model {label} is itself a merge of {names} ({source})."
