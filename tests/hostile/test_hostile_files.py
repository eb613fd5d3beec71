"""Attacks by weight files, indexes and configs: each is one error that names the file, fast and cheap."""

import json
import os
import random
import socket
import struct

import pytest

from fusion_slerp.errors import CheckpointError
from fusion_slerp.sources.folder import open_checkpoint
from fusion_slerp.sources.header import MAX_HEADER_NBYTES, read_header
from fusion_slerp.sources.json_files import INDEX, SMALL
from tests.hostile.bounds import bounded, cpu_s, parse_s
from tests.models import CONFIG, SHAPES, write_checkpoint, write_json

NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
CONTROL = "\x1b]0;owned\x07\u202e"


def refusal(read, path, **bounds) -> list[str]:
    """The lines of the error that reading a path ends in, soon and within 200 MB or other bounds."""
    with bounded(**bounds), pytest.raises(CheckpointError) as caught:
        read(path)
    lines = str(caught.value).split("\n")
    assert lines[-1].startswith("Fix: ")
    assert all(line.isprintable() for line in lines)
    assert len(str(caught.value)) < 10_000
    return lines


def entry(name: str, shape: str = "[1]", offsets: str = "[0,1]") -> str:
    return f'"{name}":{{"dtype":"I8","shape":{shape},"data_offsets":{offsets}}}'


# --- headers --------------------------------------------------------------------------------------------

LONG = "x" * 23_900_000
HEADERS = {
    "many tensors": (
        lambda: "{" + ",".join(entry(f"w{i}", "[1,1,1]", f"[{i},{i + 1}]") for i in range(100_003)) + "}",
        "not valid JSON: about 100004 objects; 100002 is the limit",
    ),
    "many dimensions of each": (
        lambda: "{" + ",".join(entry(f"w{i}", "[1,1,1,1]", f"[{i},{i + 1}]") for i in range(100_000)) + "}",
        "not valid JSON: about 1400000 values; 1300000 is the limit",
    ),
    "many empty objects": (
        lambda: "{" + ",".join(f'"{i}":{{}}' for i in range(100_001)) + "}",
        "tensor '0' is not described by dtype, shape and data_offsets",
    ),
    "much metadata": (
        lambda: '{"__metadata__":{' + ",".join(f'"{i}":"{i}"' for i in range(640_000)) + "},"
        + entry("w", "[2]") + "}",
        "tensor 'w' of I8 [2] needs 2 bytes, has 1",
    ),
    "a name of megabytes": (lambda: "{" + entry(LONG, "[2]") + "}", f"tensor '{'x' * 100}...{'x' * 100}' of"),
    "a name of wide characters": (lambda: "{" + entry("😀" + LONG, "[2]") + "}", "needs 2 bytes"),
    "a name of escapes": (lambda: "{" + entry("\\ud83d\\ude00" + LONG, "[2]") + "}", "needs 2 bytes"),
    "a type of megabytes": (
        lambda: '{"w":{"dtype":"' + LONG + '","shape":[],"data_offsets":[0,1]}}',
        "unknown dtype 'xxxxxxxxxxxx...xxxxxxxxxxxxx'",
    ),
    "many dimensions": (
        lambda: "{" + entry("w", f"[{','.join(['9223372036854775807'] * 100_000)}]") + "}",
        "'w' has the shape [9223372036854775807, ",
    ),
    "one dimension too many": (lambda: "{" + entry("w", f"[{'1,' * 64}1]") + "}", "'w' has the shape [1, 1"),
    "much nesting": (lambda: "{" + entry("w", "[[[[[1]]]]]") + "}", "values nested more than 4 deep"),
    "very much nesting": (lambda: '{"w":' + "[" * 1_000_000, "values nested more than 4 deep"),
    "many digits": (lambda: "{" + entry("w", f"[{'9' * 20_000_000}]") + "}", "valid JSON: Exceeds the limit"),
    "commands for a terminal": (
        lambda: "{" + entry("\\u001b]0;owned\\u0007\\u202e\\r\\n", "[2]") + "}",
        r"tensor '\x1b]0;owned\x07\u202e\r\n' of I8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_header(tmp_path, case):
    make, found = HEADERS[case]
    header = make().encode()
    (tmp_path / NAME).write_bytes(struct.pack("<Q", len(header)) + header + b"\0")
    del header
    lines = refusal(read_header, tmp_path / NAME)
    assert lines[:2] == ["damaged safetensors file", f"  file: {tmp_path / NAME}"]
    assert found in lines[2]


@pytest.mark.parametrize("nbytes", [MAX_HEADER_NBYTES + 1, 100_000_000, 2**40, 2**64 - 1])
def test_header_that_claims_to_be_huge_is_not_read(tmp_path, nbytes):
    with (tmp_path / NAME).open("wb") as stream:
        stream.write(struct.pack("<Q", nbytes) + b"{")
        stream.truncate(200_000_000)  # sparse: it takes no disk space
    lines = refusal(read_header, tmp_path / NAME, most=3, most_nbytes=5_000_000)
    assert lines[2] == f"  found: the header claims {nbytes} bytes; {MAX_HEADER_NBYTES} is the limit"


def test_header_of_the_most_bytes_that_are_read(tmp_path):
    header = (b'{"__metadata__":{"k":"' + b"x" * MAX_HEADER_NBYTES)[: MAX_HEADER_NBYTES - 3] + b'"}}'
    (tmp_path / NAME).write_bytes(struct.pack("<Q", len(header)) + header)
    with bounded(most=50, reference_s=lambda: cpu_s(lambda: json.loads(header), 1)):
        assert read_header(tmp_path / NAME) == []


@pytest.mark.trial
def test_header_of_the_most_tensors(tmp_path):
    entries = (entry(f"model.layers.{i}.weight", "[1,1]", f"[{i},{i + 1}]") for i in range(100_000))
    header = f"{{{','.join(entries)}}}".encode()
    (tmp_path / NAME).write_bytes(struct.pack("<Q", len(header)) + header + bytes(100_000))
    with bounded(most=50, reference_s=lambda: cpu_s(lambda: json.loads(header), 1)):
        assert len(read_header(tmp_path / NAME)) == 100_000


# --- special files --------------------------------------------------------------------------------------


def pipe(path) -> str:
    os.mkfifo(path)
    return "a pipe in place of a file"


def listening(path) -> str:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket may have about a hundred characters
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)
    return "a socket in place of a file"


def device(path) -> str:
    path.symlink_to("/dev/zero")
    return "a device in place of a file"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in folders are a matter of Unix")
@pytest.mark.parametrize("make", [pipe, listening, device])
@pytest.mark.parametrize("name", [NAME, INDEX_NAME, "config.json", "pytorch_model.bin"])
def test_no_file_is_waited_for(tmp_path, name, make):
    folder = write_checkpoint(tmp_path / "a")
    if name != "config.json":
        (folder / NAME).unlink()
    (folder / name).unlink(missing_ok=True)
    found = make(folder / name)
    lines = refusal(open_checkpoint, folder)
    assert lines[1] == f"  file: {folder / name}"
    assert lines[2] == f"  found: {found}"


# --- indexes --------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of one file, under a name that only an index knows."""
    made = write_checkpoint(tmp_path / "a")
    (made / NAME).rename(made / "1.safetensors")
    return made


def test_giant_index_is_not_read(folder):
    with (folder / INDEX_NAME).open("wb") as stream:
        stream.truncate(10**9)
    lines = refusal(open_checkpoint, folder)
    assert lines[1] == f"  file: {folder / INDEX_NAME}"
    assert lines[2] == f"  found: not readable as JSON: 1000000000 bytes; {INDEX.nbytes} is the limit"


def test_index_of_very_many_tensors(folder):
    write_json(folder / INDEX_NAME, {"weight_map": dict.fromkeys(map(str, range(310_000)), "1.safetensors")})
    assert f"values; {INDEX.n_marks} is the limit" in refusal(open_checkpoint, folder)[2]


@pytest.mark.trial
def test_index_of_the_most_tensors_that_are_not_there(folder):
    names = dict.fromkeys((f"model.layers.{i}.weight" for i in range(290_000)), "1.safetensors")
    write_json(folder / INDEX_NAME, {"weight_map": names})
    lines = refusal(open_checkpoint, folder)
    assert lines[0] == "the index does not match the shards"
    assert lines[2].endswith("and 289997 more")


@pytest.mark.trial
def test_index_of_very_many_files(folder):
    write_json(folder / INDEX_NAME, {"weight_map": {f"{i}": f"{i}.safetensors" for i in range(290_000)}})
    lines = refusal(open_checkpoint, folder)
    assert lines == [
        "too many weight files",
        f"  file: {folder / INDEX_NAME}",
        "  found: 290000 weight files",
        "  needed: at most 10000",
        "Fix: download the index again",
    ]


@pytest.mark.parametrize("link", [os.link, os.symlink], ids=["hard", "symbolic"])
def test_one_file_under_many_names_is_not_read_again_and_again(folder, link):
    names = [f"{i}.safetensors" for i in range(2, 3000)]
    for name in names:
        link(folder / "1.safetensors", folder / name)
    write_json(folder / INDEX_NAME, {"weight_map": dict(zip(names, names, strict=True))})
    lines = refusal(open_checkpoint, folder)
    assert lines[0] == "two shards are one file"
    assert lines[2] == "  found: one file as 2.safetensors and 3.safetensors"


def test_more_tensors_than_any_model_has(folder, monkeypatch):
    monkeypatch.setattr("fusion_slerp.sources.shards.MAX_TENSORS", len(SHAPES) - 1)
    write_json(folder / INDEX_NAME, {"weight_map": dict.fromkeys(SHAPES, "1.safetensors")})
    lines = refusal(open_checkpoint, folder)
    assert lines[0] == "too many tensors"
    assert lines[2] == f"  found: more than {len(SHAPES) - 1} tensors up to 1.safetensors"


def test_index_that_names_a_tensor_twice(folder):
    text = json.dumps({"weight_map": dict.fromkeys(SHAPES, "1.safetensors")})
    (folder / INDEX_NAME).write_text(text[:-2] + ',"lm_head.weight":"2.safetensors"}}')
    lines = refusal(open_checkpoint, folder)
    assert lines[2] == "  found: not readable as JSON: 'lm_head.weight' occurs twice in one object"


@pytest.mark.parametrize("name", [f"{CONTROL}.safetensors", "x" * 100_000, "\ud800"])
def test_names_of_shards_are_fit_to_be_shown(folder, name):
    write_json(folder / INDEX_NAME, {"weight_map": {"w": name}})
    assert refusal(open_checkpoint, folder)[0] == "missing shards"


# --- configs --------------------------------------------------------------------------------------------

CONFIGS = {
    "a giant": (lambda: " " * (SMALL.nbytes + 1), f"{SMALL.nbytes + 1} bytes; {SMALL.nbytes} is the limit"),
    "very many values": (lambda: json.dumps({"layer_types": [1] * 600_000}), "500000 is the limit"),
    "much nesting": (lambda: '{"a":' * 52 + "1" + "}" * 52, "values nested more than 50 deep"),
    "very much nesting": (lambda: '{"a":' * 100_000, "values nested more than 50 deep"),
    "a number of many digits": (lambda: '{"vocab_size": ' + "9" * 1_000_000 + "}", "Exceeds the limit"),
    "no UTF-8": (lambda: '{"a": "\udcff"}', "can't decode byte 0xff"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_config(folder, case):
    make, found = CONFIGS[case]
    (folder / "config.json").write_text(make(), encoding="utf-8", errors="surrogateescape")
    (folder / "1.safetensors").rename(folder / NAME)
    lines = refusal(open_checkpoint, folder)
    assert lines[:2] == ["no usable config.json", f"  file: {folder / 'config.json'}"]
    assert found in lines[2]


def test_a_method_of_quantisation_is_shown_as_one_short_line(tmp_path):
    config = {"quantization_config": {"quant_method": CONTROL + "x" * 10**6}}
    lines = refusal(open_checkpoint, write_checkpoint(tmp_path / "a", config=config))
    assert lines[2].startswith(r"  found: quantization_config, method \x1b]0;owned\x07\u202ex")


def test_random_bytes_are_no_config(folder):
    rng, taken_s = random.Random(5), parse_s()
    for _ in range(200):
        (folder / "config.json").write_bytes(rng.randbytes(rng.randrange(200)))
        assert refusal(open_checkpoint, folder, reference_s=lambda: taken_s)
    write_json(folder / "config.json", CONFIG)
