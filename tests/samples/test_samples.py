"""Children and unfinished merges of earlier versions stay what they are: verified, gone on with, told of.

The samples lie in folders by the format of their files; each was made with the version of its time, by
the script beside them. They are copied before use, as a merge knows its parents by the times of their files,
too. What is damaged was damaged on purpose. To make a child again takes sine and arccosine of a C library
like the one of then (glibc on x86-64); tests/same_bytes says more.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from fusion_slerp import OutputError, clean, merge, verify
from tests.models import contents, names_in
from tests.samples.merges import FAKE_FOLDER, MERGES, SAMPLES, UNFINISHED, WRITTEN_NS

N_TENSORS = 23
N_FILES = {"merged": 7, "sharded": 11, "united": 7}
OF_UNFINISHED = MERGES[UNFINISHED][2]


@pytest.fixture
def models(tmp_path) -> Path:
    """The folder of all parents and finished children."""
    folder = tmp_path / "models"
    shutil.copytree(SAMPLES / "models", folder)
    for file in folder.rglob("*.*"):
        os.utime(file, ns=(WRITTEN_NS, WRITTEN_NS))
    return folder


@pytest.fixture
def out(tmp_path) -> Path:
    """Where the unfinished merge was to put its child; what it left lies beside."""
    shutil.copytree(SAMPLES / "unfinished", tmp_path / "place")
    return tmp_path / "place" / UNFINISHED


def journal_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.partial") / "journal.jsonl"


def parents_are_in(models: Path, out: Path) -> None:
    """Lets the journal say that its parents are here, as it would on the machine that it comes from."""
    text = journal_of(out).read_text(encoding="utf-8")
    here = json.dumps(str(models.resolve()))[1:-1]
    journal_of(out).write_text(text.replace(f'"{FAKE_FOLDER}/', f'"{here}/'), encoding="utf-8")


def put_damaged(name: str, file: Path) -> None:
    shutil.copyfile(SAMPLES / "damaged" / name, file)


def again(models: Path, out: Path):
    """The same merge as the unfinished one."""
    a, b, options = MERGES[UNFINISHED]
    return merge(models / a, models / b, out=out, **options)


# --- finished children ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MERGES)
def test_a_child_is_as_written(models, name):
    result = verify(models / name)
    assert result.ok, str(result)
    assert (result.n_files, result.n_tensors) == (N_FILES[name], N_TENSORS)


@pytest.mark.parametrize("name", MERGES)
def test_a_child_is_what_its_parents_make(models, name):
    result = verify(models / name, inputs=True, recompute="all")
    assert result.ok, str(result)
    assert result.measured > 0
    assert len(result.recomputed) == N_TENSORS


def test_another_parent_is_found(models):
    shutil.copyfile(models / "songs/model.safetensors", models / "code/model.safetensors")
    found = {
        (deviation.file, deviation.tensor) for deviation in verify(models / "merged", inputs=True).deviations
    }
    assert ("b: weights", "lm_head.weight") in found  # merged: its norm is another one
    assert ("model.safetensors", "model.layers.1.mlp.up_proj.weight") in found  # copied from b
    assert all("layers.0.mlp" not in tensor for _, tensor in found)  # copied from a


@pytest.mark.parametrize("name", MERGES)
def test_a_flipped_bit_is_found(models, name):
    file = sorted((models / name).glob("*.safetensors"))[-1]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    (deviation,) = verify(models / name).deviations
    assert (deviation.file, deviation.found) == (file.name, "not the bytes that were written")


# --- damaged ones -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        ("manifest_flipped.json", "damaged: its own digest, "),
        ("manifest_cut.json", "damaged: not readable: "),
    ],
)
def test_a_damaged_manifest_is_told_and_nothing_is_believed(models, sample, reason):
    put_damaged(sample, models / "merged/merge_manifest.json")
    result = verify(models / "merged", inputs=True)
    (deviation,) = result.deviations
    assert (deviation.file, deviation.tensor) == ("merge_manifest.json", None)
    assert deviation.found.startswith(reason)
    assert (result.n_files, result.n_tensors, result.measured) == (1, 0, 0)


def test_a_cut_report_is_told(models):
    put_damaged("report_cut.json", models / "merged/merge_report.json")
    (deviation,) = verify(models / "merged").deviations
    assert (deviation.file, deviation.found) == ("merge_report.json", "1913 bytes instead of 3827")


def test_with_a_cut_report_no_parent_can_be_compared(models):
    put_damaged("report_cut.json", models / "merged/merge_report.json")
    first, *others = verify(models / "merged", inputs=True).deviations
    assert first.file == "merge_report.json"
    assert others
    for deviation in others:
        assert deviation.file == "a: weights"
        assert deviation.found.endswith(", was None when it was merged")


# --- the unfinished merge ---------------------------------------------------------------------------------


def test_an_unfinished_merge_is_gone_on_with(models, out):
    parents_are_in(models, out)
    result = again(models, out)
    assert result.n_resumed == 2
    assert names_in(out.parent) == [out.name]
    assert contents(out) == contents(models / UNFINISHED)


def test_finished_files_are_taken_as_they_are(models, out):
    """Those that the journal notes, if their bytes are still what it says; the others are made again."""
    parents_are_in(models, out)
    first, second, *rest = sorted(journal_of(out).with_name("files").iterdir())
    second.write_bytes(first.read_bytes())
    for file in rest:
        file.write_bytes(b"half")
    assert again(models, out).n_resumed == 1
    assert contents(out) == contents(models / UNFINISHED)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"t": 0.4}, "settings.t: 0.3 before, 0.4 now"),
        ({"checksum": "xxh3_128"}, "settings.checksum: 'sha256' before, 'xxh3_128' now"),
    ],
)
def test_another_merge_leaves_it_in_peace(models, out, changes, told):
    parents_are_in(models, out)
    before = contents(out.parent)
    with pytest.raises(OutputError) as caught:
        merge(models / "plays", models / "code", out=out, **(OF_UNFINISHED | changes))
    assert "an unfinished merge of something else is in the way" in str(caught.value)
    assert "2 finished weight files" in str(caught.value)
    assert told in str(caught.value)
    assert contents(out.parent) == before


def test_parents_elsewhere_are_other_parents(models, out):
    with pytest.raises(OutputError, match=r"places\.a\.folder: '/models/plays' before"):
        again(models, out)


def test_it_is_cleaned_up(out):
    left = clean(out)
    assert left is not None
    assert sorted(left.finished) == ["model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors"]
    assert left.n_files == 4
    assert names_in(out.parent) == []
    assert clean(out) is None


def test_a_cut_line_counts_as_not_written(models, out):
    put_damaged("journal_cut.jsonl", journal_of(out))
    parents_are_in(models, out)
    assert again(models, out).n_resumed == 1
    assert contents(out) == contents(models / UNFINISHED)


def test_a_cut_line_is_cleaned_up(out):
    put_damaged("journal_cut.jsonl", journal_of(out))
    left = clean(out)
    assert left is not None
    assert left.finished == ("model-00001-of-00004.safetensors",)


def test_a_journal_of_nonsense_is_no_journal(models, out):
    put_damaged("journal_nonsense.jsonl", journal_of(out))
    assert again(models, out).n_resumed == 0
    assert contents(out) == contents(models / UNFINISHED)


def test_a_journal_of_nonsense_is_cleaned_up(out):
    put_damaged("journal_nonsense.jsonl", journal_of(out))
    left = clean(out)
    assert left is not None
    assert (left.finished, left.n_files) == ((), 0)
    assert names_in(out.parent) == []


# --- the samples themselves -------------------------------------------------------------------------------


def test_the_samples_are_small_and_tell_of_no_machine():
    found = contents(SAMPLES)
    assert sum(map(len, found.values())) < 300_000
    assert b"process 1 on elsewhere" in found["unfinished/.sharded.partial/lock"]
    for name, data in found.items():
        for place in (b"/home/", b"/root/", b"/tmp/", b"/Users/"):
            assert place not in data, name
