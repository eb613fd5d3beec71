"""Merged models of every format stay what they are: verified, and what is damaged is reported.

The samples lie in folders by the format of their files; each was made with the version of its time, by
the script next to them. What is damaged was damaged on purpose. To make a child again takes sine and
arccosine of a C library like the one of then (glibc on x86-64); tests/same_bytes says more.
"""

from __future__ import annotations

import json
import os
import shutil

import pytest

from fusion_slerp import verify
from tests.models import contents
from tests.samples.merges import FORMAT1, FORMAT2

N_TENSORS = 23
N_FILES = {
    "format1": {"merged": 7, "sharded": 11, "united": 7},
    "format2": {"merged": 7, "summed": 7, "united": 11},
}
CUT_REPORTS = {"format1": (1913, 3827), "format2": (1931, 3863)}
EVERY = [(samples, name) for samples in (FORMAT1, FORMAT2) for name in samples.merges]


@pytest.fixture(params=[FORMAT1, FORMAT2], ids=lambda samples: samples.name)
def samples(request):
    return request.param


every_child = pytest.mark.parametrize(
    ("samples", "name"), EVERY, ids=[f"{samples.name}-{name}" for samples, name in EVERY]
)


# --- finished children ------------------------------------------------------------------------------------


@every_child
def test_a_child_is_as_written(copies, samples, name):
    manifest = json.loads((copies.models / name / "merge_manifest.json").read_text())
    assert f"format{manifest['format']}" == samples.name
    assert manifest["made_by"]["fusion_slerp"] == samples.made_by
    result = verify(copies.models / name)
    assert result.ok, str(result)
    assert (result.n_files, result.n_tensors) == (N_FILES[samples.name][name], N_TENSORS)


@every_child
def test_its_source_models_are_those_that_were_merged(copies, samples, name):
    result = verify(copies.models / name, inputs=True)
    assert result.ok, str(result)
    assert result.measured + len(result.recomputed) > 0


@every_child
def test_a_flipped_bit_is_found(copies, samples, name):
    file = sorted((copies.models / name).glob("*.safetensors"))[-1]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    (deviation,) = verify(copies.models / name).deviations
    assert (deviation.file, deviation.found) == (file.name, "not the bytes that were written")


def test_another_parent_is_found(copies):
    shutil.copyfile(copies.models / "songs/model.safetensors", copies.models / "code/model.safetensors")
    found = {
        (deviation.file, deviation.tensor)
        for deviation in verify(copies.models / "merged", inputs=True).deviations
    }
    assert ("b: weights", "lm_head.weight") in found  # merged: its norm is another one
    assert ("model.safetensors", "model.layers.1.mlp.up_proj.weight") in found  # copied from b
    assert all("layers.0.mlp" not in tensor for _, tensor in found)  # copied from a


def test_one_changed_element_of_a_parent_is_found(copies):
    file = copies.models / "code/model.safetensors"
    data = bytearray(file.read_bytes())
    n = int.from_bytes(data[:8], "little")
    begin, _ = json.loads(data[8 : 8 + n])["lm_head.weight"]["data_offsets"]
    data[8 + n + begin] ^= 1
    file.write_bytes(data)
    (deviation,) = verify(copies.models / "merged", inputs=True).deviations
    assert (deviation.file, deviation.tensor) == ("b: weights", "lm_head.weight")


# --- damaged ones -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        ("manifest_flipped.json", "damaged: its own digest, "),
        ("manifest_cut.json", "damaged: not readable: "),
    ],
)
def test_a_damaged_manifest_is_told_and_nothing_is_believed(copies, sample, reason):
    copies.put_damaged(sample, copies.models / "merged/merge_manifest.json")
    result = verify(copies.models / "merged", inputs=True)
    (deviation,) = result.deviations
    assert (deviation.file, deviation.tensor) == ("merge_manifest.json", None)
    assert deviation.found.startswith(reason)
    assert (result.n_files, result.n_tensors, result.measured) == (1, 0, 0)


def test_a_cut_report_is_told(copies, samples):
    copies.put_damaged("report_cut.json", copies.models / "merged/merge_report.json")
    cut, whole = CUT_REPORTS[samples.name]
    (deviation,) = verify(copies.models / "merged").deviations
    assert (deviation.file, deviation.found) == ("merge_report.json", f"{cut} bytes instead of {whole}")


def test_with_a_cut_report_no_parent_can_be_compared(copies):
    copies.put_damaged("report_cut.json", copies.models / "merged/merge_report.json")
    first, *others = verify(copies.models / "merged", inputs=True).deviations
    assert first.file == "merge_report.json"
    assert others
    for deviation in others:
        assert deviation.file == "a: weights"
        assert deviation.found.endswith(", was None when it was merged")


# --- the samples themselves -------------------------------------------------------------------------------


def test_the_samples_are_small_and_tell_of_no_machine(samples):
    found = contents(samples.folder)
    assert sum(map(len, found.values())) < 300_000
    assert b"process 1 on elsewhere" in found[f"unfinished/.{samples.unfinished}.partial/lock"]
    for name, data in found.items():
        for place in (b"/home/", b"/root/", b"/tmp/", b"/Users/"):
            assert place not in data, name


def test_every_file_of_the_samples_is_frozen_by_the_attributes(samples):
    attributes = (samples.folder.parent / ".gitattributes").read_text()
    assert f"{samples.name}/** -text" in attributes.splitlines()
    assert os.path.isfile(samples.folder.parent / f"make_{samples.name}.py")
