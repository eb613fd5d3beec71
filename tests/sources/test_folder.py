"""Opening a checkpoint folder: which files are read, and the errors for missing or wrong ones."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from fusion_slerp.errors import CheckpointError
from fusion_slerp.sources import findings, formats
from fusion_slerp.sources.folder import open_checkpoint
from tests.models import CONFIG, SHAPES, as_torch_files, tiny_tensors, write_checkpoint, write_json

INDEX = "model.safetensors.index.json"
FIRST = "model-00001-of-00003.safetensors"
SECOND = "model-00002-of-00003.safetensors"
TORCH_SINGLE = "pytorch_model.bin"
TORCH_INDEX = "pytorch_model.bin.index.json"
TORCH_SHARDS = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]


@pytest.fixture
def sharded(tmp_path):
    return write_checkpoint(tmp_path / "sharded", n_shards=3)


def message_of(folder) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    text = str(caught.value)
    assert text.splitlines()[-1].startswith("Fix: ")
    return text


def edit_index(folder, **changes: str | None) -> None:
    """Points tensors at other files; None removes the tensor."""
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] |= changes
    index["weight_map"] = {name: file for name, file in index["weight_map"].items() if file is not None}
    write_json(folder / INDEX, index)


# --- what is read ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_shards", [1, 2, 3])
def test_every_tensor_is_found_where_it_lies(tmp_path, n_shards):
    tensors = tiny_tensors(seed=7)
    folder = write_checkpoint(tmp_path / "a", tensors=tensors, n_shards=n_shards)
    checkpoint = open_checkpoint(folder)
    assert {name: entry.shape for name, entry in checkpoint.tensors.items()} == SHAPES
    for name, entry in checkpoint.tensors.items():
        raw = entry.file.read_bytes()[entry.offset : entry.offset + entry.nbytes]
        assert raw == tensors[name].tobytes()
    assert (checkpoint.folder, checkpoint.source, checkpoint.revision) == (folder, str(folder), None)
    assert checkpoint.config == CONFIG
    assert checkpoint.nbytes == sum(tensor.nbytes for tensor in tensors.values())
    assert checkpoint.warnings == ()


def test_single_file_wins_over_an_index_and_says_so(tmp_path):
    folder = write_checkpoint(tmp_path / "a", seed=1)
    write_json(folder / INDEX, {"weight_map": dict.fromkeys(SHAPES, "gone.safetensors")})
    checkpoint = open_checkpoint(folder)
    assert {entry.file.name for entry in checkpoint.tensors.values()} == {"model.safetensors"}
    (warning,) = checkpoint.warnings
    assert warning == f"{folder}: not read: {INDEX}"


def test_weight_files_that_are_not_read_are_named(sharded):
    for name in ("model-00001-of-00002.safetensors", "pytorch_model.bin", "consolidated.00.pth"):
        (sharded / name).write_bytes(b"")
    checkpoint = open_checkpoint(sharded)
    assert len(checkpoint.tensors) == len(SHAPES)
    (warning,) = checkpoint.warnings
    assert warning == (
        f"{sharded}: not read: consolidated.00.pth, model-00001-of-00002.safetensors, pytorch_model.bin"
    )


def test_a_shard_may_be_a_link(tmp_path, sharded):
    (tmp_path / "blob").write_bytes((sharded / FIRST).read_bytes())
    (sharded / FIRST).unlink()
    (sharded / FIRST).symlink_to(tmp_path / "blob")
    assert open_checkpoint(sharded).tensors.keys() == SHAPES.keys()


@pytest.mark.parametrize("name", ["model.safetensors", INDEX])
def test_a_link_that_leads_nowhere_is_named(tmp_path, name):
    """As in a hub cache whose blobs were removed."""
    folder = write_checkpoint(tmp_path / "a")
    (folder / "model.safetensors").unlink()
    (folder / name).symlink_to(tmp_path / "gone")
    lines = message_of(folder).splitlines()
    assert lines[0] in ("cannot read a weight file", f"no usable {INDEX}")
    assert lines[1] == f"  file: {folder / name}"
    assert lines[2].lower().startswith("  found: no such file")


# --- weights that config.json names ---------------------------------------------------------------------


def named(folder, weights: str, n_shards: int = 1):
    """Writes a checkpoint whose weights have other names than usual, and a config that names them."""
    write_checkpoint(folder, seed=7, n_shards=n_shards, config={"transformers_weights": weights})
    (folder / ("model.safetensors" if n_shards == 1 else INDEX)).rename(folder / weights)
    return folder


@pytest.mark.parametrize(
    ("weights", "n_shards"), [("other.safetensors", 1), ("other.safetensors.index.json", 2)]
)
@pytest.mark.parametrize("stray", [False, True])
def test_the_weights_that_the_config_names_are_read(tmp_path, weights, n_shards, stray):
    folder = named(tmp_path / "a", weights, n_shards)
    if stray:
        stray_file = write_checkpoint(tmp_path / "b", seed=8) / "model.safetensors"
        stray_file.rename(folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.tensors.keys() == SHAPES.keys()
    files = {entry.file.name for entry in checkpoint.tensors.values()}
    assert files == (
        {"other.safetensors"} if n_shards == 1 else {f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    )
    warning = f"{folder}: not read: model.safetensors (config.json names {weights}: transformers_weights)"
    assert checkpoint.warnings == ((warning,) if stray else ())


@pytest.mark.parametrize(
    ("value", "found", "fix"),
    [
        ("gone.safetensors", "'gone.safetensors', which does not exist", "download that file into"),
        (
            "gone.safetensors.index.json",
            "'gone.safetensors.index.json', which does not",
            "download that file",
        ),
        ("../b/model.safetensors", "'../b/model.safetensors'", "correct transformers_weights"),
        ("sub/model.safetensors", "'sub/model.safetensors'", "correct transformers_weights"),
        ("pytorch_model.bin", "'pytorch_model.bin'", "correct transformers_weights"),
        (["model.safetensors"], "a list", "correct transformers_weights"),
        ("", "''", "correct transformers_weights"),
    ],
)
def test_names_of_weights_that_are_not_followed(tmp_path, value, found, fix):
    folder = write_checkpoint(tmp_path / "a", config={"transformers_weights": value})
    write_checkpoint(tmp_path / "b"), write_checkpoint(folder / "sub")
    lines = message_of(folder).splitlines()
    assert lines[:2] == ["no weights where config.json says", f"  file: {folder / 'config.json'}"]
    assert lines[2].startswith(f"  found: transformers_weights: {found}")
    assert lines[-1].startswith(f"Fix: {fix}")


def test_no_name_of_weights_is_none(tmp_path):
    folder = write_checkpoint(tmp_path / "a")
    write_json(folder / "config.json", CONFIG | {"transformers_weights": None})
    assert open_checkpoint(folder).tensors.keys() == SHAPES.keys()


# --- files of torch -------------------------------------------------------------------------------------


def files_read(folder) -> tuple[set[str], tuple[str, ...]]:
    """The names of the weight files that are read, and the warnings."""
    checkpoint = open_checkpoint(folder)
    assert checkpoint.tensors.keys() == SHAPES.keys()
    return {entry.file.name for entry in checkpoint.tensors.values()}, checkpoint.warnings


def add_other_weights(folder, tmp_path, n_shards: int = 1) -> None:
    """Puts the torch files of another checkpoint into a folder."""
    other = as_torch_files(write_checkpoint(tmp_path / "other", seed=9), n_shards)
    for file in other.glob("pytorch_model*"):
        file.rename(folder / file.name)


@pytest.mark.parametrize("n_shards", [1, 2, 3])
def test_torch_files_are_read_like_safetensors(tmp_path, n_shards):
    tensors = tiny_tensors(seed=7)
    folder = as_torch_files(write_checkpoint(tmp_path / "a", tensors=tensors), n_shards)
    checkpoint = open_checkpoint(folder)
    assert {name: entry.shape for name, entry in checkpoint.tensors.items()} == SHAPES
    for name, entry in checkpoint.tensors.items():
        raw = entry.file.read_bytes()[entry.offset : entry.offset + entry.nbytes]
        assert raw == tensors[name].tobytes()
    assert checkpoint.warnings == ()


@pytest.mark.parametrize(
    ("n_shards", "n_torch", "unread"),
    [
        (1, 1, TORCH_SINGLE),
        (3, 1, TORCH_SINGLE),
        (1, 2, ", ".join([*TORCH_SHARDS, TORCH_INDEX])),
        (3, 2, ", ".join([*TORCH_SHARDS, TORCH_INDEX])),
    ],
)
def test_safetensors_win_over_torch_and_say_so_once(tmp_path, n_shards, n_torch, unread):
    folder = write_checkpoint(tmp_path / "a", n_shards=n_shards)
    add_other_weights(folder, tmp_path, n_torch)
    names, warnings = files_read(folder)
    assert all(name.endswith(".safetensors") for name in names)
    assert warnings == (f"{folder}: not read: {unread}",)


def test_a_single_torch_file_wins_over_torch_shards(tmp_path):
    folder = as_torch_files(write_checkpoint(tmp_path / "a"), 2)
    add_other_weights(folder, tmp_path)
    names, warnings = files_read(folder)
    assert names == {TORCH_SINGLE}
    assert warnings == (f"{folder}: not read: {', '.join([*TORCH_SHARDS, TORCH_INDEX])}",)


@pytest.mark.parametrize(("n_shards", "start"), [(1, TORCH_SINGLE), (2, TORCH_INDEX)])
def test_an_index_whose_files_are_all_gone_gives_way_to_torch_files(tmp_path, sharded, n_shards, start):
    for file in sharded.glob("*.safetensors"):
        file.unlink()
    add_other_weights(sharded, tmp_path, n_shards)
    names, warnings = files_read(sharded)
    assert all(name.startswith("pytorch_model") for name in names)
    assert warnings == (f"{sharded}: {INDEX} lists files none of which exists; using {start} instead",)


def test_an_index_some_of_whose_files_are_gone_does_not(tmp_path, sharded):
    (sharded / FIRST).unlink()
    add_other_weights(sharded, tmp_path)
    lines = message_of(sharded).splitlines()
    assert lines[0] == "missing shards"
    assert lines[2] == f"  found: 1 of 3 shards missing: {FIRST}"


def test_nor_one_next_to_incomplete_torch_files(tmp_path, sharded):
    for file in sharded.glob("*.safetensors"):
        file.unlink()
    add_other_weights(sharded, tmp_path, 2)
    (sharded / TORCH_SHARDS[0]).unlink()
    lines = message_of(sharded).splitlines()
    assert lines[:2] == ["missing shards", f"  file: {sharded / INDEX}"]


def test_a_torch_shard_that_is_missing_or_damaged(tmp_path):
    folder = as_torch_files(write_checkpoint(tmp_path / "a"), 3)
    (folder / "pytorch_model-00001-of-00003.bin").unlink()
    (folder / "pytorch_model-00002-of-00003.bin").write_bytes(b"")
    message = message_of(folder)
    assert f"file: {folder / TORCH_INDEX}\n  found: 1 of 3 shards missing: pytorch_model-00001" in message
    assert f"file: {folder / 'pytorch_model-00002-of-00003.bin'}\n  found: 0 bytes" in message


def test_a_tensor_in_two_torch_shards_is_refused(tmp_path):
    folder = as_torch_files(write_checkpoint(tmp_path / "a"), 2)
    for name in TORCH_SHARDS:
        tensors = torch.load(folder / name, weights_only=True)
        torch.save(tensors | {"x": torch.ones(2)}, folder / name)
    lines = message_of(folder).splitlines()
    assert lines[:2] == ["the index does not match the shards", f"  file: {folder / TORCH_INDEX}"]
    assert lines[2] == f"  found: x in {' and in '.join(TORCH_SHARDS)}"


def test_a_torch_file_without_tensors_is_no_model(tmp_path):
    folder = as_torch_files(write_checkpoint(tmp_path / "a", tensors={}))
    assert message_of(folder).splitlines()[:2] == [
        "no tensors in the weights",
        f"  file: {folder / TORCH_SINGLE}",
    ]


# --- config.json ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, "no such file"),
        ("", "not readable as JSON"),
        ('{"model_type": "llama"', "not readable as JSON"),
        ("[1]", "JSON, but a list instead of an object"),
        ('"llama"', "JSON, but a str instead of an object"),
        ("[" * 100_000, "not readable as JSON"),
        ("\udcff", "not readable as JSON"),
    ],
    ids=["none", "empty", "cut off", "a list", "a text", "deep", "not UTF-8"],
)
def test_config_that_is_none(tmp_path, text, found):
    folder = write_checkpoint(tmp_path / "a")
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    lines = message_of(folder).splitlines()
    assert lines[0] == "no usable config.json"
    assert lines[1] == f"  file: {folder / 'config.json'}"
    assert lines[2].startswith(f"  found: {found}")


@pytest.mark.parametrize(
    ("key", "value", "method"),
    [
        ("quantization_config", {"quant_method": "gptq", "bits": 4}, "gptq"),
        ("quantization_config", {"bits": 4}, "unknown"),
        ("quantization_config", "gptq", "unknown"),
        ("compression_config", {"quant_method": "compressed-tensors"}, "compressed-tensors"),
    ],
)
def test_quantised_weights_are_refused(tmp_path, key, value, method):
    folder = write_checkpoint(tmp_path / "a", config={key: value})
    lines = message_of(folder).splitlines()
    assert lines[:3] == [
        "quantised weights cannot be merged",
        f"  file: {folder / 'config.json'}",
        f"  found: {key}, method {method}",
    ]


@pytest.mark.parametrize("name", ["config.json", INDEX])
def test_a_json_file_that_git_lfs_has_not_downloaded(sharded, name):
    (sharded / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n")
    lines = message_of(sharded).splitlines()
    assert lines[:2] == ["a Git LFS pointer in place of a file", f"  file: {sharded / name}"]
    assert lines[-1].endswith("lfs pull")


def test_weights_that_git_lfs_has_not_downloaded(tmp_path):
    folder = write_checkpoint(tmp_path / "a", n_shards=2)
    for i in (1, 2):
        file = folder / f"model-0000{i}-of-00002.safetensors"
        file.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize {i}\n")
    git = f"git -C {folder} lfs"
    assert message_of(folder).count("a Git LFS pointer in place of a file\n") == 2
    assert message_of(folder).endswith(f"Fix: {git} install --local && {git} pull")


# --- weights --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("others", "found", "fix"),
    [
        ([], "no weight files", "name the folder that holds config.json and the weights"),
        (["notes.txt", "optimizer.pt"], "no weight files", "name the folder"),
        (
            ["model.bin", "training_args.bin"],
            "model.bin: a format or name that is not read",
            "if model.bin holds the weights, rename it to pytorch_model.bin",
        ),
        (
            ["consolidated.00.pth"],
            "consolidated.00.pth: a format or name that is not read",
            "save the model with save_pretrained",
        ),
        (
            ["pytorch_model-00001-of-00002.bin", "training_args.bin"],
            "pytorch_model-00001-of-00002.bin, but no index",
            "download pytorch_model.bin.index.json",
        ),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            "model-00001-of-00002.safetensors, model-00002-of-00002.safetensors, but no index",
            "download model.safetensors.index.json",
        ),
    ],
    ids=[
        "nothing",
        "no weights",
        "another bin",
        "the first release's format",
        "torch shards without an index",
        "shards without an index",
    ],
)
def test_no_weights(tmp_path, others, found, fix):
    folder = write_checkpoint(tmp_path / "a")
    (folder / "model.safetensors").unlink()
    for name in others:
        (folder / name).write_bytes(b"x")
    lines = message_of(folder).splitlines()
    assert lines[:3] == ["no readable weights", f"  folder: {folder}", f"  found: {found}"]
    assert lines[-1].startswith(f"Fix: {fix}")


def test_a_file_without_tensors_is_no_model(tmp_path):
    folder = write_checkpoint(tmp_path / "a", tensors={})
    lines = message_of(folder).splitlines()
    assert lines[:2] == ["no tensors in the weights", f"  file: {folder / 'model.safetensors'}"]


def test_all_missing_shards_are_named_and_those_that_are_damaged(sharded):
    (sharded / FIRST).unlink()
    (sharded / SECOND).unlink()
    with (sharded / "model-00003-of-00003.safetensors").open("r+b") as stream:
        stream.truncate(100)
    (sharded / "config.json").unlink()
    message = message_of(sharded)
    assert "no usable config.json" in message
    assert f"found: 2 of 3 shards missing: {FIRST}, {SECOND}\n" in message
    assert f"file: {sharded / 'model-00003-of-00003.safetensors'}\n  found: truncated" in message
    assert message.startswith("3 problems, nothing was written:\n\n[1] ")


def test_more_than_ten_missing_shards_are_counted(tmp_path):
    folder = write_checkpoint(tmp_path / "a")
    (folder / "model.safetensors").unlink()
    names = [f"model-{i:05d}-of-00012.safetensors" for i in range(1, 13)]
    write_json(folder / INDEX, {"weight_map": {f"w{i}": name for i, name in enumerate(names)}})
    message = message_of(folder)
    assert f"12 of 12 shards missing: {', '.join(names[:10])}, ... and 2 more" in message
    assert f"Fix: download the missing files into {folder}" in message


@pytest.mark.parametrize(
    "name",
    [
        "../a/model.safetensors",
        "/etc/passwd",
        "sub/model.safetensors",
        "..\\model.safetensors",
        "..",
        ".",
        "",
        "model.safetensors/",
    ],
)
def test_a_shard_outside_the_folder_is_refused(tmp_path, sharded, name):
    (sharded / "sub").mkdir()
    write_checkpoint(tmp_path / "a")
    edit_index(sharded, **{"model.norm.weight": name})
    lines = message_of(sharded).splitlines()
    assert lines[0] == "a shard outside the folder"
    assert lines[1] == f"  file: {sharded / INDEX}"
    assert lines[2] == f"  found: {name!r}"


@pytest.mark.parametrize(
    "index",
    [{}, {"weight_map": {}}, {"weight_map": []}, {"weight_map": {"w": 3}}, {"weight_map": None}],
    ids=["no map", "an empty map", "a list", "a number for a file", "null"],
)
def test_index_without_a_usable_map(sharded, index):
    write_json(sharded / INDEX, index)
    lines = message_of(sharded).splitlines()
    assert lines[:2] == ["no usable weight_map", f"  file: {sharded / INDEX}"]


def test_index_that_is_not_json(sharded):
    (sharded / INDEX).write_text("{")
    lines = message_of(sharded).splitlines()
    assert lines[:2] == [f"no usable {INDEX}", f"  file: {sharded / INDEX}"]


def test_tensors_of_the_index_that_no_shard_has(sharded):
    edit_index(sharded, **{"ghost": FIRST, "model.norm.weight": SECOND})
    lines = message_of(sharded).splitlines()
    assert lines[:2] == ["the index does not match the shards", f"  file: {sharded / INDEX}"]
    assert f"model.norm.weight in {SECOND}: not there" in lines[2]
    assert f"ghost in {FIRST}: not there" in lines[2]
    assert "lm_head" not in lines[2]


def test_tensors_that_the_index_does_not_list_are_read_and_named(sharded):
    edit_index(sharded, **{"model.norm.weight": None})
    checkpoint = open_checkpoint(sharded)
    assert checkpoint.tensors.keys() == SHAPES.keys()
    (warning,) = checkpoint.warnings
    assert warning == f"{sharded}: stored but not in the index, and merged as well: model.norm.weight"


@pytest.mark.parametrize("file", [FIRST, SECOND, None], ids=["first", "second", "unlisted"])
def test_a_tensor_in_two_shards_is_refused(sharded, file):
    """Which of the two another program would take is anybody's guess."""
    for name in (FIRST, SECOND):
        save_file({**load_file(sharded / name), "x": np.zeros(2, "float32")}, sharded / name)
    edit_index(sharded, x=file)
    lines = message_of(sharded).splitlines()
    assert lines[0] == "the index does not match the shards"
    assert lines[2] == f"  found: x in {FIRST} and in {SECOND}"


def test_an_index_is_read_once(sharded, monkeypatch):
    read, read_json = [], formats.read_json
    for module in (formats, findings):
        monkeypatch.setattr(
            module, "read_json", lambda file, *m, **k: read.append(file.name) or read_json(file, *m, **k)
        )
    open_checkpoint(sharded)
    assert read == ["config.json", INDEX]
