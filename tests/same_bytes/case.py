"""Cases, and how they are run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.same_bytes.entries import Found, by_merge


@dataclass(frozen=True, slots=True)
class Case:
    """A small merge that gives the same bytes whenever it is run.

    Attributes:
        make: Writes the parents into a folder, and returns what `run` takes for them.
        options: Those of the merge; `{folder}` in them stands for the folder of the parents.
        run: The entry point that it uses.
    """

    make: Callable[[Path], Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    run: Callable[[Any, Path, Mapping[str, Any]], Found] = by_merge


def run_case(case: Case, folder: Path, threads: int = 2) -> Found:
    """Makes the parents of a case in an empty folder, merges them there, and returns the digests."""
    models = folder / "models"
    models.mkdir(parents=True)
    parents = case.make(models)
    options = {
        name: value.format(folder=models) if isinstance(value, str) and "{folder}" in value else value
        for name, value in case.options.items()
    }
    return case.run(parents, folder / "child", {**options, "threads": threads})
