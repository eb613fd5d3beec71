"""How the samples of format 1 were made: `python -m tests.samples.make_format1`, at commit fcd3abb.

The samples are frozen: they show what children and unfinished merges of that time look like, for all
versions to come. So this script is a record of what was done. It reaches into the package of that
time and need not run with any later version; were it run again, it would make samples of another time.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np

from fusion_slerp import OutputError, merge
from tests.same_bytes.parents import write_parent
from tests.same_bytes.weights import Weight, Weights, llama, uniform, weight
from tests.samples.merges import FAKE_FOLDER, FORMAT1, WRITTEN_NS

SONGS = ("<unk>", "be", "to", "sing", "not", "la")
"""The tokens of the parent with another vocabulary."""

N_FINISHED = 2
"""Weight files that the unfinished merge has noted as complete."""


def weights(seed: int) -> Weights:
    """Weights of two types, a vector that one parent has as zeros, and integers."""
    null = uniform(seed, 6) * (seed - 1)
    more = {"model.ids": Weight("I64", np.arange(5)), "model.layers.0.null.weight": weight(null)}
    return llama(seed, "BF16", norms="F32") | more


def write_parents(models: Path) -> None:
    """Three parents; files of a stated time, as the journal of a merge holds it."""
    write_parent(models / "plays", weights(1))
    write_parent(models / "code", weights(2))
    write_parent(models / "songs", weights(3), tokens=SONGS)
    for file in models.rglob("*.*"):
        os.utime(file, ns=(WRITTEN_NS, WRITTEN_NS))


def interrupt(models: Path, out: Path) -> None:
    """Begins a merge whose disk fails when the third weight file is noted."""
    from fusion_slerp.publish.staging import Staging

    add, noted = Staging.add, []

    def failing(self, file):
        if len(noted) == N_FINISHED:
            raise OSError(5, "Input/output error")
        add(self, file)
        noted.append(file.name)

    (a, b), options = FORMAT1.merges[FORMAT1.unfinished]
    with patch.object(Staging, "add", failing):
        try:
            merge(models / a, models / b, out=out, threads=1, **options)
        except OutputError:
            return
    raise AssertionError("the merge was not interrupted")


def without_this_machine(staging: Path, models: Path) -> None:
    """Puts a stated folder in the place of the true one, and a stated process in that of the lock."""
    journal = staging / "journal.jsonl"
    text = journal.read_text(encoding="utf-8")
    journal.write_text(text.replace(json.dumps(str(models))[1:-1], FAKE_FOLDER), encoding="utf-8")
    (staging / "lock").write_text("process 1 on elsewhere")


def damage(models: Path, staging: Path, damaged: Path) -> None:
    """Single files as a failing disk, or a crash in the middle of a line, leaves them."""
    damaged.mkdir()
    manifest = (models / "merged/merge_manifest.json").read_bytes()
    place = manifest.index(b'"nbytes": ') + len(b'"nbytes": ')
    flipped = bytes([manifest[place] ^ 1])
    (damaged / "manifest_flipped.json").write_bytes(manifest[:place] + flipped + manifest[place + 1 :])
    (damaged / "manifest_cut.json").write_bytes(manifest[: len(manifest) // 2])
    report = (models / "merged/merge_report.json").read_bytes()
    (damaged / "report_cut.json").write_bytes(report[: len(report) // 2])
    lines = (staging / "journal.jsonl").read_bytes().splitlines(keepends=True)
    cut = b"".join([*lines[:-1], lines[-1][: len(lines[-1]) // 2]])
    (damaged / "journal_cut.jsonl").write_bytes(cut)
    (damaged / "journal_nonsense.jsonl").write_bytes(b"".join([b"\x00nonsense\n", *lines[1:]]))


def main() -> None:
    """Makes all samples again."""
    shutil.rmtree(FORMAT1.folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as place:
        models = Path(place).resolve() / "models"
        models.mkdir()
        write_parents(models)
        for name, ((a, b), options) in FORMAT1.merges.items():
            merge(models / a, models / b, out=models / name, **options)
        staging = models.parent / f"unfinished/.{FORMAT1.unfinished}.partial"
        interrupt(models, staging.with_name(FORMAT1.unfinished))
        without_this_machine(staging, models)
        damage(models, staging, models.parent / "damaged")
        shutil.copytree(models.parent, FORMAT1.folder)


if __name__ == "__main__":
    main()
