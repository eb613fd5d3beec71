"""Each check of a safetensors header, with the bytes that it is there for."""

import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusion_slerp.dtypes import BY_CODE
from fusion_slerp.errors import CheckpointError
from fusion_slerp.sources.header import TensorEntry, read_header


def with_length(header: bytes, data: bytes = b"") -> bytes:
    """A whole file: the header's length as eight bytes, the header, the data."""
    return struct.pack("<Q", len(header)) + header + data


def one_tensor(dtype: str = '"F32"', shape: str = "[2]", offsets: str = "[0,8]", name: str = '"w"') -> bytes:
    """A file with one tensor of eight bytes, described by the given JSON."""
    header = f'{{{name}:{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}'
    return with_length(header.encode(), b"\0" * 8)


def two_tensors(first: str, second: str, data: bytes) -> bytes:
    """A file with the int8 vectors `v` and `w`, whose shape follows from their offsets."""
    described = []
    for name, offsets in (("v", first), ("w", second)):
        begin, end = json.loads(offsets)
        described.append(f'"{name}":{{"dtype":"I8","shape":[{end - begin}],"data_offsets":{offsets}}}')
    return with_length(f"{{{','.join(described)}}}".encode(), data)


DAMAGED = {
    "empty file": (b"", "0 bytes; even an empty file has 8"),
    "too small for a length": (b"\x02\0\0\0\0\0\0", "7 bytes; even an empty file has 8"),
    "header beyond the file": (
        b"\x05\0\0\0\0\0\0\0{}",
        "truncated: the header ends at byte 13, the file at 10",
    ),
    "header over the limit": (
        b"\x01\x36\x6e\x01\0\0\0\0{}",
        "the header claims 24000001 bytes; 24000000 is the limit",
    ),
    "garbage length": (b"\xff\xff\xff\xff\xff\xff\xff\xff{}", "claims 18446744073709551615 bytes"),
    "no header at all": (b"\0\0\0\0\0\0\0\0", "does not start with '{'"),
    "space before the brace": (b"\x03\0\0\0\0\0\0\0 {}", "does not start with '{'"),
    "a list": (b"\x02\0\0\0\0\0\0\0[]", "does not start with '{'"),
    "not UTF-8": (b'\x07\0\0\0\0\0\0\0{"\xff":1}', "not UTF-8 at byte 10"),
    "not JSON": (b"\x02\0\0\0\0\0\0\0{]", "not valid JSON"),
    "text after the JSON": (b"\x04\0\0\0\0\0\0\0{} x", "not valid JSON"),
    "deep JSON": (with_length(b'{"w":' * 100_000 + b"1" + b"}" * 100_000), "not valid JSON"),
    "a number of too many digits": (one_tensor(shape=f"[{'9' * 5000}]"), "not valid JSON"),
    "a tensor twice": (
        with_length(
            b'{"w":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},'
            b'"w":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}',
            b"\0",
        ),
        "'w' occurs twice in one object",
    ),
    "a key twice": (
        with_length(b'{"w":{"dtype":"I8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"\0"),
        "'dtype' occurs twice in one object",
    ),
    "metadata is a list": (with_length(b'{"__metadata__":[]}'), "__metadata__ is not a map of strings"),
    "metadata holds a number": (
        with_length(b'{"__metadata__":{"n":1}}'),
        "__metadata__ is not a map of strings",
    ),
    "a tensor that is a text": (
        with_length(b'{"w":"F32"}'),
        "'w' is not described by dtype, shape and data_offsets",
    ),
    "no shape": (with_length(b'{"w":{"dtype":"I8","data_offsets":[0,0]}}'), "'w' is not described by"),
    "a key too many": (
        with_length(b'{"w":{"dtype":"I8","shape":[0],"data_offsets":[0,0],"scale":1}}'),
        "'w' is not described by",
    ),
    "a name that no UTF-8 can hold": (
        one_tensor(name=r'"\ud800"'),
        r"the tensor name '\ud800' is not valid Unicode",
    ),
    "dtype in small letters": (one_tensor(dtype='"bf16"'), "unknown dtype 'bf16' (did you mean 'BF16'?)"),
    "dtype is a number": (one_tensor(dtype="32"), "'w' has the unknown dtype 32"),
    "shape is a number": (one_tensor(shape="2"), "'w' has the shape 2"),
    "negative size": (one_tensor(shape="[-2]"), "'w' has the shape [-2]"),
    "size is a boolean": (one_tensor(shape="[2,true]"), "'w' has the shape [2, True]"),
    "size is a float": (one_tensor(shape="[2.0]"), "'w' has the shape [2.0]"),
    "size is null": (one_tensor(shape="[null]"), "'w' has the shape [None]"),
    "huge size": (one_tensor(shape="[9223372036854775808]"), "'w' has the shape [9223372036854775808]"),
    "size of thousands of digits": (one_tensor(shape=f"[{'9' * 4000}]"), "'w' has the shape [99999"),
    "sizes with a huge product": (one_tensor(shape="[4294967296,4294967296]"), "'w' has the shape [42949"),
    "sizes with a product of thousands of digits": (
        one_tensor(shape=f"[{','.join(['9223372036854775807'] * 300)}]"),
        "'w' has the shape [92233",
    ),
    "huge offset": (one_tensor(offsets="[0,9223372036854775808]"), "'w' has the data_offsets [0, 92233"),
    "offsets are a text": (one_tensor(offsets='"08"'), "'w' has the data_offsets '08'"),
    "one offset": (one_tensor(offsets="[8]"), "'w' has the data_offsets [8]"),
    "three offsets": (one_tensor(offsets="[0,8,8]"), "'w' has the data_offsets [0, 8, 8]"),
    "negative offset": (one_tensor(offsets="[-8,0]"), "'w' has the data_offsets [-8, 0]"),
    "offset is a float": (one_tensor(offsets="[0,8.0]"), "'w' has the data_offsets [0, 8.0]"),
    "begin after end": (one_tensor(offsets="[8,0]"), "'w' has the data_offsets [8, 0]"),
    "four bits too few": (one_tensor(dtype='"F4"', shape="[15]"), "'w' of F4 [15] needs 7 bytes and 4 bits"),
    "four bits, a byte too few": (
        one_tensor(dtype='"F4"', shape="[18]"),
        "'w' of F4 [18] needs 9 bytes, has",
    ),
    "six bits, too few": (
        one_tensor(dtype='"F6_E2M3"', shape="[8]"),
        "'w' of F6_E2M3 [8] needs 6 bytes, has 8",
    ),
    "too few bytes": (one_tensor(shape="[3]"), "'w' of F32 [3] needs 12 bytes, has 8"),
    "too many bytes": (one_tensor(shape="[1]"), "'w' of F32 [1] needs 4 bytes, has 8"),
    "hole at the start": (two_tensors("[1,2]", "[2,3]", b"\0" * 3), "a hole in the data before tensor 'v'"),
    "hole inside": (two_tensors("[0,1]", "[2,3]", b"\0" * 3), "a hole in the data before tensor 'w'"),
    "overlap": (two_tensors("[0,2]", "[1,3]", b"\0" * 3), "an overlap in the data before tensor 'w'"),
    "two tensors in one place": (
        two_tensors("[0,2]", "[0,2]", b"\0" * 2),
        "an overlap in the data before tensor",
    ),
    "truncated data": (two_tensors("[0,1]", "[1,4]", b"\0" * 3), "truncated: the header describes"),
    "trailing bytes": (two_tensors("[0,1]", "[1,2]", b"\0" * 5), "3 bytes follow the last tensor"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_file(tmp_path, case):
    raw, message = DAMAGED[case]
    file = tmp_path / "model.safetensors"
    file.write_bytes(raw)
    with pytest.raises(CheckpointError) as caught:
        read_header(file)
    lines = str(caught.value).splitlines()
    assert lines[:2] == ["damaged safetensors file", f"  file: {file}"]
    assert message in lines[2]
    assert lines[-1].startswith("Fix: download or copy the file again")


LAXER_IN_THE_LIBRARY = {"a tensor twice", "a key too many", "space before the brace"}


@pytest.mark.parametrize("case", [case for case in DAMAGED if case not in LAXER_IN_THE_LIBRARY])
def test_the_library_refuses_it_too(case):
    with pytest.raises((safetensors.SafetensorError, TypeError, ValueError)):
        safetensors.deserialize(DAMAGED[case][0])


@pytest.mark.parametrize("code", ["F31", "F8_E3M4", "C128"])
def test_a_type_of_a_newer_release_is_no_damage(tmp_path, code):
    file = tmp_path / "model.safetensors"
    file.write_bytes(one_tensor(dtype=json.dumps(code)))
    with pytest.raises(CheckpointError) as caught:
        read_header(file)
    lines = str(caught.value).splitlines()
    assert lines[:2] == ["a tensor of an unknown type", f"  file: {file}"]
    assert lines[2].startswith(f"  found: tensor 'w' has the dtype {code!r}")
    assert lines[3] == "  known: the types of safetensors 0.8; a newer release may have more"
    assert lines[-1].startswith("Fix: merge a copy of the model in bfloat16, float16 or float32")


def test_truncation_names_both_lengths(tmp_path):
    whole = one_tensor()
    file = tmp_path / "model.safetensors"
    file.write_bytes(whole[:-3])
    with pytest.raises(CheckpointError, match=f"describes {len(whole)} bytes, the file has {len(whole) - 3}"):
        read_header(file)


def test_header_at_the_limit_is_read(tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    monkeypatch.setattr("fusion_slerp.sources.header.MAX_HEADER_NBYTES", 2)
    assert read_header(file) == []
    monkeypatch.setattr("fusion_slerp.sources.header.MAX_HEADER_NBYTES", 1)
    with pytest.raises(CheckpointError, match="claims 2 bytes; 1 is the limit"):
        read_header(file)


@pytest.mark.parametrize(
    ("make", "found"),
    [(lambda file: None, "No such file or directory"), (Path.mkdir, "Is a directory")],
)
def test_unreadable_file(tmp_path, make, found):
    make(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        read_header(tmp_path / "model.safetensors")
    lines = str(caught.value).splitlines()
    assert lines[0] == "cannot read a weight file"
    assert lines[1:3] == [f"  file: {tmp_path / 'model.safetensors'}", f"  found: {found}"]
    assert lines[3].startswith("Fix: ")


# --- good files -----------------------------------------------------------------------------------------

GOOD = {
    "no tensors": (b"\x02\0\0\0\0\0\0\0{}", []),
    "metadata alone": (with_length(b'{"__metadata__":{"format":"pt"}}'), []),
    "spaces after the JSON": (b"\x08\0\0\0\0\0\0\0{}      ", []),
    "a scalar": (
        with_length(b'{"w":{"dtype":"BF16","shape":[],"data_offsets":[0,2]}}', b"\x80\x3f"),
        [("w", "BF16", (), 62, 2)],
    ),
    "one without elements between two": (
        with_length(
            b'{"c":{"dtype":"I8","shape":[1],"data_offsets":[2,3]},'
            b'"empty":{"dtype":"F64","shape":[3,0],"data_offsets":[2,2]},'
            b'"a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]}}',
            b"\1\2\3",
        ),
        [("a", "I8", (2,), 172, 2), ("empty", "F64", (3, 0), 174, 0), ("c", "I8", (1,), 174, 1)],
    ),
    "four and six bits": (
        with_length(
            b'{"a":{"dtype":"F4","shape":[3,2],"data_offsets":[0,3]},'
            b'"b":{"dtype":"F6_E3M2","shape":[4],"data_offsets":[3,6]},'
            b'"c":{"dtype":"F4","shape":[0,3],"data_offsets":[6,6]}}',
            b"\1\2\3\4\5\6",
        ),
        [("a", "F4", (3, 2), 174, 3), ("b", "F6_E3M2", (4,), 177, 3), ("c", "F4", (0, 3), 180, 0)],
    ),
    "escapes in a name": (
        with_length(rb'{"\u00e4\"\n":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}', b"\1"),
        [('ä"\n', "I8", (1,), 70, 1)],
    ),
}


@pytest.mark.parametrize("case", GOOD)
def test_good_file(tmp_path, case):
    raw, expected = GOOD[case]
    file = tmp_path / "model.safetensors"
    file.write_bytes(raw)
    assert read_header(file) == [
        TensorEntry(name, BY_CODE[code], shape, file, offset, nbytes)
        for name, code, shape, offset, nbytes in expected
    ]


@pytest.mark.parametrize("dtype", BY_CODE.values(), ids=BY_CODE)
def test_every_type_has_the_librarys_size(dtype):
    nbytes = dtype.nbits  # of eight elements
    header = f'{{"w":{{"dtype":"{dtype.code}","shape":[2,4],"data_offsets":[0,{nbytes}]}}}}'
    ((name, tensor),) = safetensors.deserialize(with_length(header.encode(), bytes(nbytes)))
    assert (name, tensor["dtype"], len(tensor["data"])) == ("w", dtype.code, nbytes)


def test_number_of_elements():
    counts = {(): 1, (0,): 0, (3, 0, 2): 0, (3, 4): 12}
    entries = {shape: TensorEntry("w", BY_CODE["I8"], shape, Path("f"), 0, 0) for shape in counts}
    assert {shape: entry.n_elements for shape, entry in entries.items()} == counts


# --- against the library --------------------------------------------------------------------------------

TORCH_NAMES = sorted(dtype.name for dtype in BY_CODE.values() if dtype.itemsize)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
TENSORS = st.tuples(st.sampled_from(TORCH_NAMES), st.lists(st.integers(0, 4), max_size=4))


@given(
    tensors=st.dictionaries(TEXTS.filter(lambda name: name != "__metadata__"), TENSORS, max_size=6),
    metadata=st.none() | st.dictionaries(TEXTS, TEXTS, min_size=1, max_size=2),
    seed=st.integers(0, 99),
)
def test_reads_what_the_library_writes(tmp_path_factory, tensors, metadata, seed):
    rng = np.random.default_rng(seed)
    written = {name: random_tensor(rng, dtype, shape) for name, (dtype, shape) in tensors.items()}
    raw = safetensors.torch.save(written, metadata)
    file = tmp_path_factory.getbasetemp() / "model.safetensors"
    file.write_bytes(raw)
    entries = read_header(file)
    assert {entry.name: (entry.dtype.name, list(entry.shape)) for entry in entries} == tensors
    for entry in entries:
        data = written[entry.name].reshape(-1).view(torch.uint8).numpy().tobytes()
        assert raw[entry.offset : entry.offset + entry.nbytes] == data
    assert [entry.offset for entry in entries] == sorted(entry.offset for entry in entries)


def random_tensor(rng: np.random.Generator, dtype: str, shape: list[int]) -> torch.Tensor:
    """Random bytes as a tensor of any of the library's types."""
    kind = getattr(torch, dtype)
    data = rng.integers(0, 2 if dtype == "bool" else 256, math.prod(shape) * kind.itemsize, np.uint8)
    return torch.from_numpy(data).view(kind).reshape(shape) if data.size else torch.empty(shape, dtype=kind)
