"""Digests of the source models are computed from their bytes, or not stated."""

import hashlib
import os
import shlex
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from fusion_slerp import CheckpointError, merge, verify
from fusion_slerp.api import merge_into_memory
from fusion_slerp.output import input_digests
from fusion_slerp.output.input_digests import digests_of, hashed
from fusion_slerp.output.manifest import manifest_text, read_manifest
from fusion_slerp.settings.merge_settings import make_settings
from tests.models import contents, write_checkpoint

WEIGHTS = "model.safetensors"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def of_git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def as_cached(folder: Path, cache: Path) -> Path:
    """The same model as the Hub's cache has it: files by their content, and links to them."""
    snapshot, blobs = cache / "models--owner--a/snapshots" / COMMIT, cache / "models--owner--a/blobs"
    for each in (snapshot, blobs):
        each.mkdir(parents=True)
    for name, data in contents(folder).items():
        digest = hashlib.sha256(data).hexdigest() if name.endswith(".safetensors") else of_git(data)
        (blobs / digest).write_bytes(data)
        (snapshot / name).symlink_to(f"../../blobs/{digest}")
    return snapshot


@pytest.fixture
def cached(parents, tmp_path) -> Path:
    """Model a as the Hub's cache has it."""
    return as_cached(parents[0], tmp_path / "cache")


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def rows_of(child: Path, label: str) -> dict:
    return read_manifest(child)["parents"][label]["files"][WEIGHTS]


def test_without_the_option_the_manifest_has_what_the_hub_lists_under_a_name_of_its_own(
    cached, parents, tmp_path
):
    flip(cached / WEIGHTS)
    merge(cached, parents[1], out=tmp_path / "child")
    row = rows_of(tmp_path / "child", "a")
    assert row["hub_sha256"] == os.path.basename(os.readlink(cached / WEIGHTS))
    assert "sha256" not in row
    assert not {"sha256", "hub_sha256"} & rows_of(tmp_path / "child", "b").keys()


def test_digests_of_all_models_are_noted(cached, parents, tmp_path):
    merge(cached, parents[1], out=tmp_path / "child", hash_inputs=True)
    for label, folder in (("a", cached), ("b", parents[1])):
        expected = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        assert rows_of(tmp_path / "child", label)["sha256"] == expected
    merge(cached, parents[1], out=tmp_path / "plain/child")
    with_digests, plain = contents(tmp_path / "child"), contents(tmp_path / "plain/child")
    assert {name for name in plain if plain[name] != with_digests[name]} == {"merge_manifest.json"}


def test_effect_of_hash_inputs(cached, parents, tmp_path):
    """A bit of the cache is wrong: only the digest shows it."""
    flip(cached / WEIGHTS)
    merge(cached, parents[1], out=tmp_path / "unnoticed")
    with pytest.raises(CheckpointError) as caught:
        merge(cached, parents[1], out=tmp_path / "child", hash_inputs=True)
    lines = str(caught.value).splitlines()
    listed, found = os.path.basename(os.readlink(cached / WEIGHTS)), (cached / WEIGHTS).read_bytes()
    assert lines[:4] == [
        "a file in the Hub's cache is damaged",
        f"  file: {cached / WEIGHTS}",
        f"  found: SHA-256 {hashlib.sha256(found).hexdigest()}",
        f"  listed: {listed}, by the Hub",
    ]
    assert not (tmp_path / "child").exists()
    assert not (tmp_path / ".child.partial").exists()
    command = lines[-1].partition("to download it: ")[2]
    assert shlex.split(command) == ["rm", str((cached / WEIGHTS).resolve())]
    subprocess.run(command, shell=True, check=True)
    assert not (cached / WEIGHTS).exists()


def test_a_merge_into_memory_compares_digests_as_well(cached, parents):
    merge_into_memory(cached, parents[1], hash_inputs=True)
    flip(cached / WEIGHTS)
    merge_into_memory(cached, parents[1])
    with pytest.raises(CheckpointError, match="a file in the Hub's cache is damaged"):
        merge_into_memory(cached, parents[1], hash_inputs=True)


def test_small_files_have_the_digest_of_git(cached, parents, tmp_path):
    merge(cached, parents[1], out=tmp_path / "fine", hash_inputs=True)
    with (cached / "tokenizer_config.json").open("ab") as file:
        file.write(b"\n")
    with pytest.raises(CheckpointError, match=r"SHA-1 of git") as caught:
        merge(cached, parents[1], out=tmp_path / "child", hash_inputs=True)
    assert f"  found: SHA-1 of git {of_git((cached / 'tokenizer_config.json').read_bytes())}\n" in str(
        caught.value
    )


def test_some_mirrors_name_small_files_by_their_plain_sha_1(tmp_path):
    (tmp_path / "blobs").mkdir()
    file = tmp_path / "blobs" / hashlib.sha1(b"x").hexdigest()
    file.write_bytes(b"x")
    assert digests_of({"a": {"x": file}}) == {"a": {"x": hashlib.sha256(b"x").hexdigest()}}


def test_a_file_of_two_models_is_read_once(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"x")
    read, real = [], input_digests._hash
    monkeypatch.setattr(input_digests, "_hash", lambda file, stop: read.append(file) or real(file, stop))
    digests = digests_of({"a": {"x": tmp_path / "x"}, "b": {"y": tmp_path / "x"}})
    assert digests["a"]["x"] == digests["b"]["y"]
    assert read == [tmp_path / "x"]


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="a model's file cannot be read") as caught:
        digests_of({"a": {"x": tmp_path / "x"}})
    assert str(tmp_path / "x") in str(caught.value)


def test_the_thread_ends_with_a_merge_that_fails(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(bytes(3 << 20))
    begun = threading.Event()

    def hash_slowly(file, stop):
        begun.set()
        assert stop.wait(60)
        raise input_digests._Stopped

    monkeypatch.setattr(input_digests, "_hash", hash_slowly)

    def fail_meanwhile():
        with hashed({"a": {"x": tmp_path / "x"}}, True):
            assert begun.wait(60)
            raise RuntimeError("of the merge")

    with pytest.raises(RuntimeError, match="of the merge"):
        fail_meanwhile()
    assert not [thread for thread in threading.enumerate() if "hasher" in thread.name]


# --- verify ---------------------------------------------------------------------------------------------


def test_verify_computes_the_digests_that_the_manifest_has(parents, tmp_path):
    merge(*parents, out=tmp_path / "models/child", hash_inputs=True)
    result = verify(tmp_path / "models/child", inputs=True)
    assert (result.ok, result.hashed) == (True, 2)
    assert "2 weight files: SHA-256 computed and compared" in str(result).splitlines()
    before = hashlib.sha256((parents[1] / WEIGHTS).read_bytes()).hexdigest()
    flip(parents[1] / WEIGHTS)
    now = hashlib.sha256((parents[1] / WEIGHTS).read_bytes()).hexdigest()
    deviations = verify(tmp_path / "models/child", inputs=True).deviations
    assert (deviations[0].file, deviations[0].tensor) == (f"b: {WEIGHTS}", None)
    assert deviations[0].found == f"its SHA-256 is {now}, and {before} in the manifest"


def test_verify_says_that_it_computed_none(parents, tmp_path):
    merge(*parents, out=tmp_path / "models/child")
    result = verify(tmp_path / "models/child", inputs=True)
    assert (result.ok, result.hashed) == (True, 0)
    assert result.compared == (
        "2 source models: configs, tokenizers and headers of weight files",
        "no SHA-256 of weight files compared: the manifest has none (merge with hash_inputs)",
        "4 tensors: norms and angles measured again and compared",
    )
    assert verify(tmp_path / "models/child").compared == ()
    assert verify(tmp_path / "models/child", recompute=1).compared == (
        "2 source models: configs, tokenizers and headers of weight files",
        "1 tensor: merged again and compared bit by bit",
    )


def test_a_digest_that_the_hub_lists_is_called_that(cached, parents, tmp_path):
    child = tmp_path / "models/child"
    merge(cached, parents[1], out=child)
    assert verify(child, inputs=True, models={"a": cached, "b": parents[1]}).ok
    renamed = cached.resolve().parents[1] / "blobs" / ("ab" * 32)
    shutil.move((cached / WEIGHTS).resolve(), renamed)
    (cached / WEIGHTS).unlink()
    (cached / WEIGHTS).symlink_to(renamed)
    (deviation,) = verify(child, inputs=True, models={"a": cached, "b": parents[1]}).deviations
    assert deviation.file == f"a: {WEIGHTS}"
    assert deviation.found.startswith("not the file that was merged (sha256, as the Hub lists it now: ")


def test_manifests_of_earlier_versions_have_the_hubs_digest_as_sha256(cached, parents, tmp_path):
    """It was not computed by the merge; it is, when the source models are checked."""
    child = tmp_path / "models/child"
    merge(cached, parents[1], out=child)
    manifest = read_manifest(child)
    row = manifest["parents"]["a"]["files"][WEIGHTS]
    row["sha256"] = row.pop("hub_sha256")
    settings = make_settings(**manifest["settings"])
    text = manifest_text(manifest["parents"], settings, manifest["files"], manifest["tensors"])
    (child / "merge_manifest.json").write_text(text)
    models = {"a": cached, "b": parents[1]}
    assert verify(child, inputs=True, models=models).hashed == 1
    flip(cached / WEIGHTS)
    found = verify(child, inputs=True, models=models).deviations[0].found
    assert found.startswith("its SHA-256 is ")


def test_a_local_copy_of_a_model_of_the_hub_is_that_model(cached, parents, tmp_path):
    child = tmp_path / "models/child"
    merge(cached, parents[1], out=child, hash_inputs=True)
    assert verify(child, inputs=True, models={"a": parents[0], "b": parents[1]}).ok


def test_three_models_of_one_folder_are_hashed_as_one(parents, tmp_path):
    c = write_checkpoint(tmp_path / "models/c", seed=3)
    merge(parents[0], parents[0], c, out=tmp_path / "models/child", method="linear", hash_inputs=True)
    assert verify(tmp_path / "models/child", inputs=True).hashed == 3
