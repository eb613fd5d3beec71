"""merge_manifest.json and merge_report.json: what they say, and that they say it of every byte."""

import hashlib
import json
import re
import shutil

import numpy as np
import pytest
import xxhash
from blake3 import blake3
from safetensors.numpy import load_file, save_file

import fusion_slerp
from fusion_slerp import MergeSettings, merge
from fusion_slerp.output.manifest import ManifestError, manifest_text, read_manifest
from tests.models import contents, tiny_tensors, write_checkpoint

HASHES = {"blake3": blake3, "sha256": hashlib.sha256, "xxh3_128": xxhash.xxh3_128}


@pytest.mark.parametrize("checksum", HASHES)
def test_every_file_has_its_size_and_the_digest_that_tools_print(tmp_path, parents, checksum):
    merge(*parents, out=tmp_path / "child", max_shard_size=100, checksum=checksum)
    found = read_manifest(tmp_path / "child")["files"]
    expected = {}
    for name, data in contents(tmp_path / "child").items():
        kind = checksum if name.endswith(".safetensors") else "sha256"
        expected[name] = {"nbytes": len(data), kind: HASHES[kind](data).hexdigest()}
    del expected["merge_manifest.json"]
    assert found == expected
    assert len(found) == 10


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


def test_parents_are_told_without_their_paths(tmp_path, parents):
    merge(*parents, out=tmp_path / "child", tokenizer=str(parents[1]))
    text = (tmp_path / "child/merge_manifest.json").read_text()
    assert str(tmp_path) not in text
    found = read_manifest(tmp_path / "child")
    assert found["settings"]["tokenizer"] == "b"
    for side, folder in zip("ab", parents, strict=True):
        parent = found["parents"][side]
        assert parent["model"] == folder.name
        assert parent["beside"] == {
            name: {"nbytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in contents(folder).items()
            if name != "model.safetensors"
        }
        assert parent["files"].keys() == {"model.safetensors"}
        assert parent["files"]["model.safetensors"]["nbytes"] == (folder / "model.safetensors").stat().st_size


def test_files_of_the_hubs_cache_are_known_by_their_sha256(tmp_path, parents):
    repository, digest = tmp_path / "models--owner--a", "ab" * 32
    snapshot = repository / "snapshots" / ("c" * 40)
    shutil.copytree(parents[0], snapshot)
    (repository / "blobs").mkdir()
    (snapshot / "model.safetensors").rename(repository / "blobs" / digest)
    (snapshot / "model.safetensors").symlink_to(f"../../blobs/{digest}")
    merge(snapshot, parents[1], out=tmp_path / "child")
    row = read_manifest(tmp_path / "child")["parents"]["a"]["files"]["model.safetensors"]
    assert row["sha256"] == digest


def test_settings_are_the_whole_configuration(tmp_path, parents):
    merge(*parents, out=tmp_path / "child", t=[0.2, 0.8], dtype="bfloat16")
    found = read_manifest(tmp_path / "child")
    assert found["settings"]["t"] == [0.2, 0.8]
    assert {"DOT_THRESHOLD", "epsilon", "slices", "vocab_fill", "granularity"} <= found["settings"].keys()
    assert found["made_by"]["fusion_slerp"] == fusion_slerp.__version__


def test_the_same_merge_makes_the_same_manifest(tmp_path, parents):
    for place in ("one", "two"):
        merge(*parents, out=tmp_path / place / "child")
    assert contents(tmp_path / "one/child") == contents(tmp_path / "two/child")


# --- the report -----------------------------------------------------------------------------------------


def test_the_report_tells_what_happened_to_each_tensor_and_why(tmp_path):
    base = tiny_tensors(1)
    other = tiny_tensors(2) | {
        "lm_head.weight": base["lm_head.weight"] * np.float32(1.5),
        "model.embed_tokens.weight": -base["model.embed_tokens.weight"],
        "model.norm.weight": np.zeros(4, np.float32),
    }
    a, b = (write_checkpoint(tmp_path / n, tensors=t) for n, t in (("a", base), ("b", other)))
    result = merge(a, b, out=tmp_path / "child", t=0.25)
    rows = {
        row["name"]: row for row in json.loads((tmp_path / "child/merge_report.json").read_text())["tensors"]
    }
    told = {name: (row["action"], row.get("why")) for name, row in rows.items()}
    assert told == {
        "lm_head.weight": ("lerp", "nearly parallel"),
        "model.embed_tokens.weight": ("lerp", "nearly opposite"),
        "model.layers.0.mlp.up_proj.weight": ("slerp", None),
        "model.norm.weight": ("lerp", "null vector"),
    }
    for report in result.report:
        row = rows[report.name]
        assert (row["t"], row["n_elements"]) == (0.25, report.n_elements)
        assert (row["norm_a"], row["norm_b"]) == (report.norm_a, report.norm_b)
        assert row.get("angle_deg") == report.angle_deg


def test_copies_are_told_with_whose_they_are_and_why(tmp_path, parents):
    for seed, folder in enumerate(parents):
        more = {"ids": np.arange(4, dtype=np.int32)} | (
            {"only.b.weight": np.ones(2, np.float32)} if seed else {}
        )
        save_file(tiny_tensors(seed) | more, folder / "model.safetensors", {"format": "pt"})
    t = [{"filter": "norm", "value": 1}, {"filter": "head", "value": 0}, {"value": 0.5}]
    merge(*parents, out=tmp_path / "child", t=t, missing="copy")
    rows = json.loads((tmp_path / "child/merge_report.json").read_text())["tensors"]
    assert {row["name"]: (row["action"], row.get("why")) for row in rows} == {
        "ids": ("copy if equal", "integer"),
        "lm_head.weight": ("copy a", "t end"),
        "model.embed_tokens.weight": ("slerp", None),
        "model.layers.0.mlp.up_proj.weight": ("slerp", None),
        "model.norm.weight": ("copy b", "t end"),
        "only.b.weight": ("copy b", "owner"),
    }


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
    parents = {side: {"model": side} for side in ("a", "b")}
    text = manifest_text(parents, MergeSettings(), files, tensors)
    (tmp_path / "merge_manifest.json").write_text(text)
    with pytest.raises(ManifestError, match="not of the form that a merge writes"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "parent",
    [{}, {"model": 1}, {"model": "x", "files": {}}, {"model": "x", "files": [], "beside": {}}, ["model"]],
)
def test_so_are_the_parents_in_it(tmp_path, parent):
    parents = {"a": {"model": "a", "files": {}, "beside": {}}, "b": parent}
    (tmp_path / "merge_manifest.json").write_text(manifest_text(parents, MergeSettings(), {}, {}))
    with pytest.raises(ManifestError, match="not of the form that a merge writes"):
        read_manifest(tmp_path)


def test_a_newer_manifest_is_named_as_such(tmp_path, monkeypatch):
    monkeypatch.setattr("fusion_slerp.output.manifest.FORMAT", 2)
    (tmp_path / "merge_manifest.json").write_text(manifest_text({}, MergeSettings(), {}, {}))
    monkeypatch.undo()
    with pytest.raises(ManifestError, match=re.escape("of format 2; this version reads format 1")):
        read_manifest(tmp_path)
