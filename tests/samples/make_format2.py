"""How the samples of format 2 were made: `python -m tests.samples.make_format2`, when the merges of more than
two models came.

The samples are frozen, as those of format 1 are: see `make_format1`. This script is a record as well, and
need not run with any later version.
"""

from __future__ import annotations

import itertools
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
from tests.samples.merges import FAKE_FOLDER, FORMAT2, WRITTEN_NS

SONGS = ("<unk>", "be", "to", "sing", "not", "la")
RHYMES = ("la", "<unk>", "or", "not", "be", "moon")
"""The tokens of the models with other vocabularies."""

N_FINISHED = 2
"""Weight files that the unfinished merge has noted as complete."""


def weights(seed: int) -> Weights:
    """Weights of two types, a vector that the first model has as zeros, and integers."""
    null = uniform(seed, 6) * (seed - 1)
    more = {"model.ids": Weight("I64", np.arange(5)), "model.layers.0.null.weight": weight(null)}
    return llama(seed, "BF16", norms="F32") | more


def write_models(models: Path) -> None:
    """Five source models; files of a stated time, as the journal of a merge holds it."""
    write_parent(models / "plays", weights(1))
    write_parent(models / "code", weights(2))
    write_parent(models / "tales", weights(3))
    write_parent(models / "songs", weights(4), tokens=SONGS)
    write_parent(models / "rhymes", weights(5), tokens=RHYMES)
    for file in models.rglob("*.*"):
        os.utime(file, ns=(WRITTEN_NS, WRITTEN_NS))


def make(models: Path, name: str, out: Path, **more: object) -> None:
    """Merges as a sample was merged."""
    names, options = FORMAT2.merges[name]
    merge(*(models / each for each in names), out=out, **{**options, **more})


def interrupt(models: Path, out: Path) -> None:
    """Begins a merge whose disk fails when the third weight file is noted."""
    from fusion_slerp.output.staging import Staging

    add, calls = Staging.add, itertools.count()

    def failing(self, file):
        if next(calls) >= N_FINISHED:
            raise OSError(5, "Input/output error")
        add(self, file)

    with patch.object(Staging, "add", failing):
        try:
            make(models, FORMAT2.unfinished, out, threads=1)
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
    shutil.rmtree(FORMAT2.folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as place:
        models = Path(place).resolve() / "models"
        models.mkdir()
        write_models(models)
        for name in FORMAT2.merges:
            make(models, name, models / name)
        staging = models.parent / f"unfinished/.{FORMAT2.unfinished}.partial"
        interrupt(models, staging.with_name(FORMAT2.unfinished))
        without_this_machine(staging, models)
        damage(models, staging, models.parent / "damaged")
        shutil.copytree(models.parent, FORMAT2.folder)


if __name__ == "__main__":
    main()
