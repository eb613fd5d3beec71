"""Paths of a machine in configs: removed if no reader needs them, else named; all else stays as it is."""

import json
from pathlib import Path

import pytest

from fusion_slerp import merge, plan_merge, verify
from fusion_slerp.planning.private_paths import remaining_paths, without_paths
from tests.models import CONFIG, contents, write_checkpoint, write_json

PRIVATE = "/home/somebody/private/model"
CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json", "preprocessor_config.json")


def with_names(folder: Path) -> Path:
    """Writes the configs as transformers 4 saves them, with both keys."""
    for name in CONFIGS:
        content = CONFIG if name == "config.json" else {"bos_token_id": 1, "model_max_length": 10**30}
        write_json(folder / name, {"_name_or_path": PRIVATE, **content, "name_or_path": PRIVATE})
    return folder


@pytest.mark.parametrize("t", [0, 0.3])
def test_no_file_of_the_model_has_a_path(tmp_path, parents, t):
    a = with_names(parents[0])
    merge(a, parents[1], out=tmp_path / "models/child", t=t)
    for name, data in contents(tmp_path / "models/child").items():
        assert PRIVATE.encode() not in data, name
        assert str(tmp_path).encode() not in data, name
    for name in CONFIGS:
        kept = json.loads((a / name).read_bytes())
        del kept["_name_or_path"], kept["name_or_path"]
        written = (tmp_path / "models/child" / name).read_bytes()
        assert written.decode() == json.dumps(kept, indent=2) + "\n"
    assert verify(tmp_path / "models/child", inputs=True).ok


def test_nested_configs_and_lists_have_none_either():
    before = {"a": {"_name_or_path": PRIVATE, "x": [1, {"name_or_path": "y", "z": 2}]}, "b": "name_or_path"}
    kept = without_paths(json.dumps(before).encode())
    assert isinstance(kept, bytes)
    assert json.loads(kept) == {"a": {"x": [1, {"z": 2}]}, "b": "name_or_path"}


@pytest.mark.parametrize(
    "text",
    [
        '{"rope_theta": 1e4,"x" : NaN}',
        '{"x": "_name_or_path"}',
        '{"tokenizer_file" : "tokenizer.json", "vocab_file":null, "x_file": "/a/b/c"}',
        '{"_name_or_path": ',
        '["name_or_path"',
        "\xff",
    ],
)
def test_all_others_stay_byte_for_byte(tmp_path, text):
    file = tmp_path / "config.json"
    file.write_bytes(text.encode("latin-1"))
    assert without_paths(file) is file
    assert without_paths(file.read_bytes()) == file.read_bytes()


def test_a_file_that_is_too_large_for_a_config_is_left_alone(tmp_path):
    file = tmp_path / "config.json"
    file.write_bytes(b'{"_name_or_path": "' + b"x" * 10_000_000 + b'"}')
    assert without_paths(file) is file


def test_a_tokenizer_from_elsewhere_names_no_path(tmp_path, parents):
    other = with_names(write_checkpoint(tmp_path / "models/c"))
    merge(*parents, out=tmp_path / "models/child", tokenizer=str(other))
    content = json.loads((tmp_path / "models/child/tokenizer_config.json").read_bytes())
    assert content == {"bos_token_id": 1, "model_max_length": 10**30}


@pytest.mark.parametrize(
    "paths",
    [
        {
            "special_tokens_map_file": f"{PRIVATE}/special_tokens_map.json",
            "tokenizer_file": "/tmp/x/tokenizer.json",
        },
        {"special_tokens_map_file": "runs/7/special_tokens_map.json"},
        {"vocab_file": r"C:\\models\\x\\vocab.json", "merges_file": "../x/merges.txt"},
    ],
)
def test_files_of_a_tokenizer_are_removed(tmp_path, parents, paths):
    write_json(parents[0] / "tokenizer_config.json", {**paths, "unk_token": "<unk>"})
    merge(*parents, out=tmp_path / "child")
    assert json.loads((tmp_path / "child/tokenizer_config.json").read_bytes()) == {"unk_token": "<unk>"}


@pytest.mark.parametrize(
    "path",
    [
        "/home/me/clip",
        "/mnt/a/b c/d/",
        "~/models/clip",
        "~me/clip",
        r"C:\models\clip",
        "D:/x",
        r"\\host\x",
        "file:///x",
    ],
)
def test_a_path_that_may_be_needed_is_kept_and_named(tmp_path, parents, path):
    config = CONFIG | {"vision_tower": path, "parts": [{"x": path}]}
    write_json(parents[0] / "config.json", config)
    plan = plan_merge(*parents)
    named = "vision_tower, parts.0.x in config.json are paths of one machine, kept in the merged model"
    assert f"{parents[0]}: {named}" in plan.warnings
    merge(*parents, out=tmp_path / "child")
    assert (tmp_path / "child/config.json").read_bytes() == (parents[0] / "config.json").read_bytes()


@pytest.mark.parametrize(
    "value",
    [
        "/think",
        "</s>",
        "owner/name",
        "a/b/c",
        "https://x.org/a/b",
        "{% if x %}/a/b{% endif %}",
        "/a/b\n",
        "~",
        "/",
        "",
    ],
)
def test_what_is_no_path(value):
    assert remaining_paths(json.dumps({"x": value}).encode()) == []


def test_the_name_of_the_weights_does_not_go_with_them(tmp_path, parents):
    a, b = parents
    write_json(a / "config.json", CONFIG | {"transformers_weights": "other.safetensors"})
    (a / "model.safetensors").rename(a / "other.safetensors")
    plain = merge(b, b, out=tmp_path / "plain").plan.warnings
    assert merge(a, b, out=tmp_path / "child").plan.warnings == plain
    assert json.loads((tmp_path / "child/config.json").read_bytes()) == CONFIG
    assert (tmp_path / "child/model.safetensors").is_file()
