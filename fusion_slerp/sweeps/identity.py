"""The identity of a sweep: two runs that share it give the same results, so the second resumes the first.

Which values are tried is no part of it: a later run may add some, and finds the others evaluated.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fusion_slerp.hashes import file_digest
from fusion_slerp.options import declaration
from fusion_slerp.output.identity import identity_of_models
from fusion_slerp.planning.rules import RULES
from fusion_slerp.settings.mappings import plain
from fusion_slerp.settings.merge_settings import option_fields
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sweeps.tasks import Tasks

TEXT_HASH = "blake3"

MACHINE = ("batch_size", "device")
"""Settings of an evaluation that change the results by rounding only: a run that ran out of memory may resume
with others.
"""


def sweep_identity(
    parents: Mapping[str, Checkpoint],
    options: Mapping[str, Any],
    axes: Iterable[str],
    texts: Mapping[str, Path],
    evaluation: Mapping[str, Any],
    tasks: Tasks | None = None,
) -> dict[str, Any]:
    """Returns the identity of a sweep: plain values, nested.

    Args:
        parents: The models by label.
        options: The options that are the same at every point.
        axes: The names of what is varied.
        texts: The file or folder of each text.
        evaluation: How models are evaluated, by setting.
        tasks: The tasks; None without, which then have no key.

    Raises:
        OSError: A text or a task's file cannot be read.
    """
    identity = {
        "rules": RULES,
        "settings": settings_of(options),
        "vary": sorted(axes),
        **identity_of_models(parents),
        "texts": {name: text_digest(path) for name, path in texts.items()},
        "evaluation": {name: value for name, value in evaluation.items() if name not in MACHINE},
    }
    identity |= {} if tasks is None else {"tasks": tasks.identity()}
    return json.loads(json.dumps(identity))  # as the record returns it: lists for tuples


def settings_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the given options that decide the merged model, without those that have their default."""
    known = option_fields()
    return {
        name: plain(value)
        for name, value in sorted(options.items())
        if name in known and declaration(known[name]).changes_child and value != known[name].default
    }


def text_digest(path: Path) -> Any:
    if not path.is_dir():
        return file_digest(path, TEXT_HASH)
    return {str(file.relative_to(path)): file_digest(file, TEXT_HASH) for file in sorted(_files(path))}


def _files(folder: Path) -> Iterator[Path]:
    for inner, _, names in os.walk(folder):
        yield from (Path(inner) / name for name in names)


def changed(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """Yields the paths of the values that two identities do not share, such as `settings.dtype`."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            yield from changed(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    elif before != now:
        yield path
