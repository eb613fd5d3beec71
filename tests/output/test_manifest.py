"""merge_manifest.json: its content, and that it covers every byte."""

import hashlib
import json
import shutil

import pytest
import xxhash
from blake3 import blake3
from safetensors.numpy import load_file

import fusion_slerp
from fusion_slerp import merge
from fusion_slerp.output.manifest import (
    FORMAT,
    ManifestError,
    NewerManifestError,
    manifest_text,
    read_manifest,
)
from fusion_slerp.planning.rules import RULES
from fusion_slerp.settings.merge_settings import make_settings
from tests.models import contents, write_checkpoint
from tests.samples.merges import FORMAT1

HASHES = {"blake3": blake3, "sha256": hashlib.sha256, "xxh3_128": xxhash.xxh3_128}


@pytest.mark.parametrize("checksum", HASHES)
def test_every_file_has_its_size_and_the_digest_that_tools_print(tmp_path, parents, checksum):
    merge(*parents, out=tmp_path / "child", max_shard_size=100, checksum=checksum)
    manifest = read_manifest(tmp_path / "child")["files"]
    expected = {}
    for name, data in contents(tmp_path / "child").items():
        kind = checksum if name.endswith(".safetensors") else "sha256"
        expected[name] = {"nbytes": len(data), kind: HASHES[kind](data).hexdigest()}
    del expected["merge_manifest.json"]
    assert manifest == expected
    assert len(manifest) == 10


def test_every_tensor_has_its_place_and_digest(tmp_path, parents):
    merge(*parents, out=tmp_path / "child", max_shard_size=100)
    tensors = read_manifest(tmp_path / "child")["tensors"]
    stored = [load_file(file) for file in (tmp_path / "child").glob("*.safetensors")]
    arrays = {name: array for each in stored for name, array in each.items()}
    assert tensors.keys() == arrays.keys()
    for name, row in tensors.items():
        data = (tmp_path / "child" / row["file"]).read_bytes()[row["offset"] :][: row["nbytes"]]
        assert data == arrays[name].tobytes()
        assert row["xxh3_128"] == xxhash.xxh3_128(data).hexdigest()


def test_source_models_are_named_without_their_paths(tmp_path, parents):
    merge(*parents, out=tmp_path / "child", tokenizer=str(parents[1]))
    text = (tmp_path / "child/merge_manifest.json").read_text()
    assert str(tmp_path) not in text
    manifest = read_manifest(tmp_path / "child")
    assert manifest["settings"]["tokenizer"] == "b"
    for label, folder in zip("ab", parents, strict=True):
        parent = manifest["parents"][label]
        assert parent["model"] == folder.name
        assert parent["beside"] == {
            name: {"nbytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in contents(folder).items()
            if name != "model.safetensors"
        }
        assert parent["files"].keys() == {"model.safetensors"}
        assert parent["files"]["model.safetensors"]["nbytes"] == (folder / "model.safetensors").stat().st_size


def test_files_of_the_hubs_cache_are_known_by_the_sha256_that_the_hub_lists(tmp_path, parents):
    repository, digest = tmp_path / "models--owner--a", "ab" * 32
    snapshot = repository / "snapshots" / ("c" * 40)
    shutil.copytree(parents[0], snapshot)
    (repository / "blobs").mkdir()
    (snapshot / "model.safetensors").rename(repository / "blobs" / digest)
    (snapshot / "model.safetensors").symlink_to(f"../../blobs/{digest}")
    merge(snapshot, parents[1], out=tmp_path / "child")
    row = read_manifest(tmp_path / "child")["parents"]["a"]["files"]["model.safetensors"]
    assert row["hub_sha256"] == digest
    assert "sha256" not in row  # which is not that of the file


def test_settings_are_the_whole_configuration(tmp_path, parents):
    merge(*parents, out=tmp_path / "child", t=[0.2, 0.8], dtype="bfloat16")
    manifest = read_manifest(tmp_path / "child")
    assert list(manifest["settings"])[:2] == ["method", "t"]
    assert (manifest["settings"]["method"], manifest["settings"]["t"]) == ("slerp", [0.2, 0.8])
    assert {"DOT_THRESHOLD", "epsilon", "slices", "vocab_fill", "granularity"} <= manifest["settings"].keys()
    assert not {"threads", "overwrite", "checksum", "show_pbar"} & manifest["settings"].keys()
    assert manifest["made_by"]["fusion_slerp"] == fusion_slerp.__version__
    assert (manifest["format"], manifest["rules"]) == (FORMAT, RULES)


def test_three_models_stand_under_their_labels(tmp_path, parents):
    c = write_checkpoint(tmp_path / "models/third", seed=3)
    merge(*parents, c, out=tmp_path / "child", method="linear", weight={"a": 0.5, "b": [0, 1]})
    manifest = read_manifest(tmp_path / "child")
    assert {label: row["model"] for label, row in manifest["parents"].items()} == {
        "a": "a",
        "b": "b",
        "c": "third",
    }
    assert list(manifest["settings"])[:3] == ["method", "weight", "normalize"]
    assert manifest["settings"]["weight"] == {"a": 0.5, "b": [0, 1]}


def test_the_same_merge_makes_the_same_manifest(tmp_path, parents):
    for folder in ("one", "two"):
        merge(*parents, out=tmp_path / folder / "child")
    assert contents(tmp_path / "one/child") == contents(tmp_path / "two/child")


# --- reading --------------------------------------------------------------------------------------------


def test_every_flipped_bit_of_a_manifest_is_noticed(tmp_path, parents):
    merge(*parents, out=tmp_path / "child")
    file = tmp_path / "child/merge_manifest.json"
    data = file.read_bytes()
    for i in range(0, 8 * len(data), 41):
        flipped = bytearray(data)
        flipped[i // 8] ^= 1 << i % 8
        file.write_bytes(flipped)
        with pytest.raises(ManifestError):
            read_manifest(tmp_path / "child")


ROW = {"nbytes": 1, "blake3": "0"}
TENSOR = {"file": "x", "offset": 0, "nbytes": 1, "xxh3_128": "0"}


@pytest.mark.parametrize(
    ("files", "tensors"),
    [
        ({"../x": ROW}, {}),
        ({"/etc/passwd": ROW}, {}),
        ({"a/../../x": ROW}, {}),
        ({"x": {"nbytes": -1, "blake3": "0"}}, {}),
        ({"x": {"nbytes": 1, "md5": "0"}}, {}),
        ({"x": {"nbytes": "1", "blake3": "0"}}, {}),
        ({"x": ROW}, {"w": {**TENSOR, "file": "y"}}),
        ({"x": ROW}, {"w": {**TENSOR, "offset": 1.5}}),
        ({"x": ROW}, {"w": {**TENSOR, "nbytes": True}}),
        ({"x": 1}, {}),
    ],
)
def test_a_manifest_of_a_stranger_is_checked(tmp_path, files, tensors):
    parents = {label: {"model": label} for label in ("a", "b")}
    text = manifest_text(parents, make_settings(), files, tensors)
    (tmp_path / "merge_manifest.json").write_text(text)
    with pytest.raises(ManifestError, match="not in the form that a merge writes"):
        read_manifest(tmp_path)


CHECKPOINT = {"model": "a", "files": {}, "beside": {}}


@pytest.mark.parametrize(
    "parents",
    [
        {},
        {"a": {}},
        {"a": {"model": 1}},
        {"a": {"model": "x", "files": {}}},
        {"a": {"model": "x", "files": [], "beside": {}}},
        {"a": ["model"]},
        {"a": CHECKPOINT, "t": CHECKPOINT},
        {"a": CHECKPOINT, "../b": CHECKPOINT},
        {"A": CHECKPOINT},
    ],
)
def test_so_are_the_source_models_in_it(tmp_path, parents):
    (tmp_path / "merge_manifest.json").write_text(manifest_text(parents, make_settings(), {}, {}))
    with pytest.raises(ManifestError, match="not in the form that a merge writes"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("labels", [("a",), ("a", "b", "c"), ("a", "b", "base"), ("a", "zz")])
def test_any_labels_are_read(tmp_path, labels):
    parents = dict.fromkeys(labels, CHECKPOINT)
    (tmp_path / "merge_manifest.json").write_text(manifest_text(parents, make_settings(), {}, {}))
    assert list(read_manifest(tmp_path)["parents"]) == list(labels)


@pytest.mark.parametrize("rules", [None, -1, "2", True])
def test_rules_are_a_number(tmp_path, monkeypatch, rules):
    monkeypatch.setattr("fusion_slerp.output.manifest.RULES", rules)
    (tmp_path / "merge_manifest.json").write_text(manifest_text({"a": CHECKPOINT}, make_settings(), {}, {}))
    with pytest.raises(ManifestError, match="not in the form that a merge writes"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", FORMAT1.merges)
def test_format_1_is_read_in_the_present_form(name):
    child = FORMAT1.folder / "models" / name
    content = read_manifest(child)
    stored = json.loads((child / "merge_manifest.json").read_text())
    assert (stored["format"], content["format"], content["rules"]) == (1, 1, 1)
    assert content["settings"] == {"method": "slerp", **stored["settings"]}
    for key in ("parents", "files", "tensors"):
        assert content[key] == stored[key]


def test_every_flipped_bit_of_format_1_is_noticed(tmp_path):
    data = (FORMAT1.folder / "models/merged/merge_manifest.json").read_bytes()
    for i in range(0, 8 * len(data), 41):
        flipped = bytearray(data)
        flipped[i // 8] ^= 1 << i % 8
        (tmp_path / "merge_manifest.json").write_bytes(flipped)
        with pytest.raises(ManifestError):
            read_manifest(tmp_path)


def test_a_newer_manifest_is_named_as_such(tmp_path, monkeypatch):
    monkeypatch.setattr("fusion_slerp.output.manifest.FORMAT", 3)
    monkeypatch.setattr("fusion_slerp.output.manifest.__version__", "9.8.7")
    text = manifest_text({}, make_settings(), {}, {})
    monkeypatch.undo()
    (tmp_path / "merge_manifest.json").write_text(text)
    message = "format 3, written by fusion_slerp 9.8.7; this version reads formats 1 and 2"
    with pytest.raises(NewerManifestError) as caught:
        read_manifest(tmp_path)
    assert str(caught.value) == message
    (tmp_path / "merge_manifest.json").write_text(text.replace("slerp", "plerp", 1))
    with pytest.raises(ManifestError, match="does not match its content") as caught:
        read_manifest(tmp_path)
    assert "format 3" in str(caught.value)
