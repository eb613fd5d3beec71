"""Copies of the samples: a merge knows its models by the times of their files as well."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fusion_slerp import merge
from fusion_slerp.api import MergeResult
from tests.samples.merges import FAKE_FOLDER, WRITTEN_NS, Samples


@dataclass(frozen=True, slots=True)
class Copies:
    """Copies of the samples of one format.

    Attributes:
        samples: The samples.
        models: The folder of all source models and finished children.
        out: Where the unfinished merge was to put its child; what it left lies next to it.
    """

    samples: Samples
    models: Path
    out: Path

    @property
    def journal(self) -> Path:
        """That of the unfinished merge."""
        return self.out.with_name(f".{self.out.name}.partial") / "journal.jsonl"

    @property
    def finished(self) -> Path:
        """The finished child of the merge that is also there unfinished."""
        return self.models / self.samples.unfinished

    def models_are_here(self) -> None:
        """Lets the journal say that its models are here, as it would on the machine that it comes from."""
        text = self.journal.read_text(encoding="utf-8")
        here = json.dumps(str(self.models.resolve()))[1:-1]
        self.journal.write_text(text.replace(f'"{FAKE_FOLDER}/', f'"{here}/'), encoding="utf-8")

    def put_damaged(self, name: str, file: Path) -> None:
        """Puts a damaged file in the place of another."""
        shutil.copyfile(self.samples.folder / "damaged" / name, file)

    def merge_again(self, **changes: Any) -> MergeResult:
        """The same merge as the unfinished one, but for some options."""
        names, options = self.samples.merges[self.samples.unfinished]
        return merge(*(self.models / name for name in names), out=self.out, **{**options, **changes})


@pytest.fixture
def copies(tmp_path, samples) -> Copies:
    """Copies of what the fixture `samples` of a module says."""
    found = Copies(samples, tmp_path / "models", tmp_path / "place" / samples.unfinished)
    shutil.copytree(samples.folder / "models", found.models)
    shutil.copytree(samples.folder / "unfinished", found.out.parent)
    for file in found.models.rglob("*.*"):
        os.utime(file, ns=(WRITTEN_NS, WRITTEN_NS))
    return found
