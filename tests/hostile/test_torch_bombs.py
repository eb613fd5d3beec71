"""Attacks by torch files: pickles and archives that ask for memory or time are refused in time."""

import pickle
import struct
import zipfile

import pytest
import torch

from fusion_slerp.errors import CheckpointError
from fusion_slerp.sources.pickle_check import MAX_CALLS, MAX_STEPS
from fusion_slerp.sources.torch_archive import MAX_PICKLE_NBYTES, read_archive
from fusion_slerp.sources.zip_records import MAX_DIRECTORY_NBYTES
from tests.hostile.bounds import bounded

START = b"\x80\x02"
CONTROL = b"\x1b]0;owned\x07"


def refusal(file) -> list[str]:
    """The lines of the error that reading ends in, soon and within 200 MB."""
    with bounded(), pytest.raises(CheckpointError) as caught:
        read_archive(file)
    lines = str(caught.value).split("\n")
    assert all(line.isprintable() for line in lines)
    assert lines[-1].startswith("Fix: ")
    assert len(str(caught.value)) < 10_000
    assert lines[1] == f"  file: {file}"
    return lines


def archive(file, pickled: bytes) -> None:
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("x/data.pkl", pickled)
        made.writestr("x/version", "3")


@pytest.fixture
def file(tmp_path):
    """Where the file goes; torch, which the first one imports, is there already."""
    torch.save({"w": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    read_archive(tmp_path / "pytorch_model.bin")
    return tmp_path / "pytorch_model.bin"


def number(value: int) -> bytes:
    """A step that makes a whole number of any size."""
    raw = value.to_bytes(8, "little")
    return b"\x8a\x08" + raw


def doubled(n: int) -> bytes:
    """A tuple that holds itself twice, n times over: as a key it would be hashed 2ⁿ times."""
    return b"N" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(n))


LARGE = "a torch file with more than weights"
BOMBS = {
    "bytes without end": (
        b"c__builtin__\nbytearray\n" + number(10**11) + b"\x85R.",
        "a pickle that calls __builtin__.bytearray; it was not executed",
    ),
    "bytes under the newer name": (
        b"cbuiltins\nbytearray\n" + number(10**11) + b"\x85R.",
        "a pickle that calls builtins.bytearray; it was not executed",
    ),
    "a text that doubles": (
        b"c_codecs\nencode\nq\x00" + b"X\x04\0\0\0aaaaX\x03\0\0\0hex\x86R.",
        "a pickle that calls _codecs.encode; it was not executed",
    ),
    "a long text": (b"X" + struct.pack("<I", 10_001) + b"x" * 10_001 + b".", "a string of 10001 bytes"),
    # Torch's own message of it, with a pattern looked for in it, would take an hour.
    "a long name": (b"cevil\n" + b"x" * 10**6 + b"\n.", "a name of 1000000 bytes"),
    "a call of a text": (b"X\x01\0\0\0x)R.", "a call of a non-function"),
    "an object of a text": (b"X\x01\0\0\0x)\x81.", "a call of a non-function"),
    "counted": (
        b"ccollections\nCounter\n)R.",
        "a pickle that calls collections.Counter; it was not executed",
    ),
    "sets": (b"\x8f" * 600_000 + b".", "a pickle that calls set; it was not executed"),
    "a key that takes for ever": (b"}" + doubled(100) + b"Ns.", "a list, tuple or dict that is used twice"),
    "a list within itself": (b"]q\x00h\x00a.", "a list, tuple or dict that is used twice"),
    "tuples within each other": (b"N" + b"\x85" * 600_000 + b".", "values nested more than 16 deep"),
    "lists within each other": (b"]" * 600_000 + b"a" * 599_999 + b".", "values nested more than 16 deep"),
    "dicts within each other": (b"}N" * 20 + b"s" * 20 + b".", "values nested more than 16 deep"),
    "marks": (b"(" * 600_000 + b".", "values nested more than 16 deep"),
    "steps": (b"N" * MAX_STEPS + b".", f"more than {MAX_STEPS} steps"),
    "calls": (
        b"ccollections\nOrderedDict\nq\x00" + b"h\x00)R" * (MAX_CALLS + 1) + b".",
        f"more than {MAX_CALLS} calls",
    ),
}


@pytest.mark.parametrize("case", BOMBS)
def test_pickle(file, case):
    steps, found = BOMBS[case]
    archive(file, START + steps)
    lines = refusal(file)
    assert lines[0] == LARGE
    assert found in lines[2]


FULL = MAX_STEPS - 10
HUNGRY = {
    "lists": b"]" * FULL + b".",
    "numbers": b"J\xff\xff\xff\x7f" * FULL + b".",
    "a memo": b"N" + b"".join(b"r" + i.to_bytes(4, "little") for i in range(FULL)) + b".",
    "calls": b"ctorch\nSize\nq\x00" + b"h\x00)R" * (MAX_CALLS - 10) + b".",
    "texts": (b"X" + struct.pack("<I", 9_999) + "😀".encode() + b"x" * 9_995) * 990 + b".",
}


@pytest.mark.trial
@pytest.mark.parametrize("case", HUNGRY)
def test_the_most_that_torch_is_given_is_bearable(file, case):
    """These are within the bounds, so the bounds must be low enough."""
    archive(file, START + HUNGRY[case])
    assert refusal(file)[0] == "not a map from names to tensors"


@pytest.mark.parametrize("size", [10**12, 2**60, -1])
def test_tensor_of_a_size_that_no_memory_has(file, size):
    raw = size.to_bytes(8, "little", signed=True)
    archive(file, START + b"ctorch\nTensor\n\x8a\x08" + raw + b"\x85R.")
    assert "the pickle cannot be read: " in refusal(file)[2]


def test_pickle_that_is_too_long_is_not_read(file):
    archive(file, START + b"N" * MAX_PICKLE_NBYTES + b".")
    lines = refusal(file)
    assert lines[2].endswith(f"has {MAX_PICKLE_NBYTES + 3} bytes; {MAX_PICKLE_NBYTES} is the limit")


@pytest.mark.parametrize("claim", [2**31, 2**32 - 1])
def test_text_that_claims_to_be_longer_than_the_pickle(file, claim):
    archive(file, START + b"X" + struct.pack("<I", claim) + b"x.")
    assert refusal(file)[2] == f"  found: a pickle with a string of {claim} bytes"


def test_name_that_would_command_a_terminal(file):
    torch.save({CONTROL.decode(): 1}, file)
    assert lines_found(file) == r"'\x1b]0;owned\x07' is of type int, which the command below leaves out"
    archive(file, START + b"cevil\n" + CONTROL + b"x" * 400 + b"\n.")
    assert r"a pickle that calls evil.\x1b]0;owned\x07xxx" in lines_found(file)


def lines_found(file) -> str:
    return refusal(file)[2].removeprefix("  found: ")


def test_tensor_of_very_many_dimensions(file):
    torch.save({"w": torch.ones([1] * 65)}, file)
    assert lines_found(file) == "'w' has 65 dimensions"


def test_tensor_that_repeats_one_element_without_end(file):
    torch.save({"w": torch.ones(1).expand(2**40)}, file)
    assert lines_found(file) == f"'w' repeats 4 bytes up to {2**42}"
    torch.save({"w": torch.ones(1).expand(1000)}, file)
    assert read_archive(file)[0].shape == (1000,)


# --- the archive around it ------------------------------------------------------------------------------


def directory(n: int, claimed: int | None = None) -> bytes:
    """The start of an archive and a directory of n records that are all the same one."""
    start = b"PK\x03\x04" + bytes(30)
    record = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 6) + bytes(16)
    body = b"".join(record + b"%06x" % i for i in range(n))
    nbytes = len(body) if claimed is None else claimed
    n_told = min(n, 65_535)
    return start + body + b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, n_told, n_told, nbytes, len(start), 0)


def test_directory_that_is_too_long_is_not_read(file):
    file.write_bytes(directory(MAX_DIRECTORY_NBYTES // 52 + 1))
    assert f"bytes; {MAX_DIRECTORY_NBYTES} is the limit" in lines_found(file)


def test_directory_of_the_most_records(file):
    file.write_bytes(directory(MAX_DIRECTORY_NBYTES // 52))
    assert "not enough bytes for the record '000000' at byte 0" in lines_found(file)


def test_directory_that_claims_to_be_longer_than_the_file(file):
    file.write_bytes(directory(3, claimed=2**32 - 1))
    assert lines_found(file) == "truncated or damaged: Bad offset for central directory"


def test_no_check_refuses_what_torch_writes(file):
    layers = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(200)))
    torch.save(layers.state_dict(), file)
    with zipfile.ZipFile(file) as saved:
        name = next(name for name in saved.namelist() if name.endswith("data.pkl"))
        assert saved.read(name).startswith(pickle.PROTO)
    assert len(read_archive(file)) == 400
