"""Files that torch.save wrote: the offsets of their tensors, each refusal, and that no code in them runs."""

import builtins
import io
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fusion_slerp.errors import CheckpointError
from fusion_slerp.sources.elements import read_elements
from fusion_slerp.sources.header import TensorEntry
from fusion_slerp.sources.torch_archive import read_archive

DTYPES = "bfloat16 float16 float32 float64 bool uint8 int8 int16 int32 int64 uint16 float8_e4m3fn complex64"


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "pytorch_model.bin"


def saved(file: Path, content: object, **options) -> dict[str, TensorEntry]:
    torch.save(content, file, **options)
    return {entry.name: entry for entry in read_archive(file)}


def stored_bytes(entry: TensorEntry) -> bytes:
    raw = np.empty(entry.nbytes, np.uint8)
    with entry.file.open("rb") as stream:
        read_elements(stream.fileno(), entry, 0, raw)
    return raw.tobytes()


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def lines_of(file: Path) -> list[str]:
    """The lines of the error: headline, file, what was found, fix."""
    with pytest.raises(CheckpointError) as caught:
        read_archive(file)
    lines = str(caught.value).splitlines()
    assert lines[1] == f"  file: {file}"
    assert lines[-1].startswith("Fix: ")
    assert len(lines) == 4
    return lines


def records_of(content: object) -> dict[str, bytes]:
    """The records that torch.save writes, by name."""
    stream = io.BytesIO()
    torch.save(content, stream)
    with zipfile.ZipFile(stream) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_archive(file: Path, records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, data)


# --- what is found --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DTYPES.split())
def test_each_type(file, name):
    tensor = torch.arange(24).reshape(4, 6).to(getattr(torch, name))
    entry = saved(file, {"w": tensor})["w"]
    assert (entry.dtype.name, entry.shape, entry.strides) == (name, (4, 6), None)
    assert entry.nbytes == tensor.nbytes
    assert stored_bytes(entry) == bytes_of(tensor)


def test_a_parameter_a_scalar_and_an_empty_tensor(file):
    content = {
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "scalar": torch.tensor(7.5),
        "empty": torch.empty(0, 4),
        "empty view": torch.ones(3)[3:],
    }
    entries = saved(file, content)
    assert {name: entry.shape for name, entry in entries.items()} == {
        "parameter": (3,),
        "scalar": (),
        "empty": (0, 4),
        "empty view": (0,),
    }
    for name, tensor in content.items():
        assert stored_bytes(entries[name]) == bytes_of(tensor)


def test_a_state_dict_with_the_metadata_of_its_modules(file):
    state = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).state_dict()
    entries = saved(file, state)
    assert entries.keys() == state.keys()
    assert entries["1.num_batches_tracked"].dtype.code == "I64"
    assert all(stored_bytes(entries[name]) == bytes_of(tensor) for name, tensor in state.items())


def test_tensors_of_one_storage_share_their_bytes(file):
    base = torch.arange(24.0).reshape(4, 6)
    content = {"base": base, "again": base, "rows": base[1:3], "flat": base.flatten()[5:7]}
    entries = saved(file, content)
    start = entries["base"].offset
    assert entries["again"].offset == start
    assert entries["rows"].offset == start + 6 * 4
    assert entries["flat"].offset == start + 5 * 4
    assert all(entry.strides is None for entry in entries.values())
    assert all(stored_bytes(entries[name]) == bytes_of(tensor) for name, tensor in content.items())
    assert file.stat().st_size < 2500


@pytest.mark.parametrize(
    ("view", "strides"),
    [
        (lambda x: x.t(), (1, 6)),
        (lambda x: x[:, 1:4], (6, 1)),
        (lambda x: x[1:, ::2], (6, 2)),
        (lambda x: x.reshape(2, 2, 6).permute(2, 0, 1), (1, 12, 6)),
        (lambda x: x[2:3, 1:2].expand(5, 3), (0, 0)),
        (lambda x: x[:, 0].unsqueeze(1).expand(4, 3), (6, 0)),
        (lambda x: x.reshape(24)[::5], (5,)),
        (lambda x: x.diagonal(), (7,)),
    ],
    ids=["transposed", "columns", "every second", "permuted", "one number", "expanded", "steps", "diagonal"],
)
def test_views_whose_elements_do_not_follow_one_another(file, view, strides):
    tensor = view(torch.arange(24, dtype=torch.float32).reshape(4, 6).to(torch.bfloat16))
    entry = saved(file, {"w": tensor})["w"]
    assert (entry.shape, entry.strides) == (tuple(tensor.shape), strides)
    assert entry.nbytes == tensor.numel() * 2
    assert stored_bytes(entry) == bytes_of(tensor)


def test_entries_stand_in_the_order_of_their_data(file):
    first, second = torch.ones(3), torch.ones(4)
    entries = list(saved(file, {"b": first, "a": second, "c": first}).values())
    assert [entry.name for entry in entries] == ["b", "c", "a"]


def test_an_archive_that_was_packed_again_in_another_order(file):
    """torch's own places for storages without data presume the order in which it wrote them."""
    content = {f"{i}": torch.full((5 * i,), float(i)) for i in range(1, 5)}
    write_archive(file, dict(reversed(records_of(content).items())))
    entries = {entry.name: entry for entry in read_archive(file)}
    assert entries["4"].offset < entries["1"].offset
    assert all(stored_bytes(entries[name]) == bytes_of(tensor) for name, tensor in content.items())


def test_no_tensor_data_is_read(tmp_path, file):
    """A terabyte that is all hole, so that reading it would take an hour."""
    hole = tmp_path / "hole"
    n = 1 << 40
    hole.touch()
    os.truncate(hole, n)
    storage = torch.UntypedStorage.from_file(str(hole), True, n)
    large = torch.empty(0, dtype=torch.bfloat16).set_(storage, 0, (n // 8192, 4096))
    with torch.serialization.skip_data():
        torch.save({"large": large, "small": torch.ones(4)}, file)
    assert file.stat().st_size > n
    first, second = read_archive(file)
    assert (first.name, first.nbytes, second.name) == ("large", n, "small")
    assert second.offset > first.offset + n


# --- what is refused ------------------------------------------------------------------------------------


def test_git_lfs_pointer(file):
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 12345\n")
    lines = lines_of(file)
    assert lines[0] == "a Git LFS pointer in place of a file"
    git = f"git -C {file.parent} lfs"
    assert lines[3] == f"Fix: {git} install --local && {git} pull"


def test_format_of_torch_before_1_6(file):
    torch.save({"w": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
    lines = lines_of(file)
    assert lines[0] == "a torch file of an old format"
    command = f"import torch; f = '{file}'; torch.save(torch.load(f, map_location='cpu', weights_only=True)"
    assert command in lines[3]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "0 bytes"),
        (b"<html>", "not a zip archive: it begins with b'<html>'"),
        (b"PK", "begins with b'PK'"),
    ],
)
def test_something_else(file, data, found):
    file.write_bytes(data)
    lines = lines_of(file)
    assert lines[0] == "not a file of torch.save"
    assert found in lines[2]


def test_zip_archive_without_a_pickle(file):
    write_archive(file, {"word/document.xml": b"<x/>"})
    assert lines_of(file)[:3:2] == [
        "not a file of torch.save",
        "  found: a zip archive with 0 records named .../data.pkl instead of one",
    ]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated(file, share):
    torch.save({"w": torch.ones(1000)}, file)
    os.truncate(file, int(file.stat().st_size * share))
    lines = lines_of(file)
    assert lines[0] == "damaged torch file"
    assert "truncated" in lines[2]


def test_bytes_missing_in_the_middle(file):
    torch.save({"w": torch.ones(1000)}, file)
    data = file.read_bytes()
    file.write_bytes(data[:1000] + data[2000:])
    assert lines_of(file)[0] == "damaged torch file"


def test_record_whose_header_is_overwritten(file):
    torch.save({"w": torch.ones(2)}, file)
    data = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        start = next(i.header_offset for i in archive.infolist() if i.filename.endswith("data/0"))
    file.write_bytes(data[:start] + b"????" + data[start + 4 :])
    assert "no header before the record 'pytorch_model/data/0'" in lines_of(file)[2]


def test_record_that_reaches_into_the_next(file):
    """By a longer name in its own header, which would shift every element."""
    torch.save({"w": torch.ones(2)}, file)
    data = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        start = next(i.header_offset for i in archive.infolist() if i.filename.endswith("data/0"))
    data[start + 26] += 100
    file.write_bytes(data)
    assert "'pytorch_model/data/0' overlaps what follows it" in lines_of(file)[2]


def test_record_twice(file):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(file, "w") as archive:
            for _ in range(2):
                archive.writestr("x/data.pkl", b"")
    assert lines_of(file)[2] == "  found: two records 'x/data.pkl'"


def test_compressed_record(file):
    write_archive(file, records_of({"w": torch.ones(1000)}), zipfile.ZIP_DEFLATED)
    lines = lines_of(file)
    assert lines[0] == "a compressed torch file"
    assert "python -c" in lines[3]


def test_big_endian(file):
    records = records_of({"w": torch.ones(2)})
    write_archive(file, records | {"archive/byteorder": b"big"})
    assert lines_of(file)[:3:2] == ["a torch file of another byte order", "  found: byteorder b'big'"]


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "name"), [(os.mkdir, "posix.mkdir"), (builtins.exec, "builtins.exec"), (getattr, "getattr")]
)
def test_code_in_the_pickle_is_not_executed(tmp_path, file, function, name):
    goal = tmp_path / "executed"
    arguments = {os.mkdir: (str(goal),), exec: (f"import os; os.mkdir({str(goal)!r})",), getattr: (1, "real")}
    write_archive(
        file,
        {
            "x/data.pkl": pickle.dumps({"w": Call(function, *arguments[function])}, 2),
            "x/version": b"3\n",
        },
    )
    lines = lines_of(file)
    assert lines[0] == "a torch file with more than weights"
    assert name in lines[2]
    assert "it was not executed" in lines[2]
    assert not goal.exists()


def test_a_whole_model_names_its_class(file):
    torch.save(torch.nn.Linear(2, 2), file)
    lines = lines_of(file)
    assert "a pickle that calls torch.nn.modules.linear.Linear; it was not executed" in lines[2]
    assert "model.state_dict()" in lines[3]


@pytest.mark.parametrize("data", [b"", b"\0", pickle.dumps({}, 2)[:-1], pickle.dumps({"w": 1}, 4)])
def test_pickle_that_cannot_be_read(file, data):
    write_archive(file, {"x/data.pkl": data, "x/version": b"3\n"})
    lines = lines_of(file)
    assert lines[0] == "damaged torch file"
    assert "the pickle cannot be read: " in lines[2]


def test_pickle_of_an_enormous_size(file, monkeypatch):
    torch.save({"w": torch.ones(2)}, file)
    monkeypatch.setattr("fusion_slerp.sources.torch_archive.MAX_PICKLE_NBYTES", 50)
    assert "50 is the limit" in lines_of(file)[2]


@pytest.mark.parametrize(
    ("content", "found", "fix"),
    [
        ([torch.ones(2)], "a list", "state_dict()"),
        (torch.ones(2), "a Tensor", "state_dict()"),
        ({"state_dict": {"w": torch.ones(2)}}, "'state_dict' is a dict of its own", "['state_dict'], f +"),
        ({"w": torch.ones(2), "epoch": 3}, "'epoch' is of type int", "if torch.is_tensor(v)"),
        ({"w": None}, "'w' is of type NoneType, which the command below leaves out", "is_tensor"),
        ({3: torch.ones(2)}, "3, which cannot be the name of a tensor", "state_dict()"),
        ({"__metadata__": torch.ones(2)}, "'__metadata__', which cannot be", "state_dict()"),
        ({"\ud800": torch.ones(2)}, r"'\ud800', which cannot be", "state_dict()"),
    ],
    ids=["list", "tensor", "nested", "number", "none", "number as a name", "reserved name", "no Unicode"],
)
def test_content_that_is_not_tensors_by_name(file, content, found, fix):
    torch.save(content, file)
    lines = lines_of(file)
    assert lines[0] == "not a map from names to tensors"
    assert found in lines[2]
    assert fix in lines[3]


def test_a_command_to_convert_works_as_pasted(tmp_path):
    file = tmp_path / 'it\'s a "$HOME" `folder`' / "pytorch_model.bin"
    file.parent.mkdir()
    torch.save({"state_dict": {"w": torch.ones(2)}}, file)
    command, _, rename = lines_of(file)[3].removeprefix("Fix: ").rpartition("; then ")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(command, shell=True, check=True, env={**os.environ, "PATH": path})
    assert rename == "rename pytorch_model.bin.converted to pytorch_model.bin"
    file.with_name("pytorch_model.bin.converted").rename(file)
    assert [entry.name for entry in read_archive(file)] == ["w"]


def test_no_text_from_the_file_gets_into_a_command_or_to_the_terminal_as_it_is(file):
    torch.save({'a"; touch x; "': {"w": torch.ones(2)}}, file)
    assert "touch" not in lines_of(file)[3]
    records = {"x/data.pkl": b"\x80\x02cevil\x1b[31m\nname\n.", "x/version": b"3\n"}
    write_archive(file, records)
    assert r"a pickle that calls evil\x1b[31m.name; it was not executed" in lines_of(file)[2]


@pytest.mark.filterwarnings("ignore")  # torch's own, of types that it is about to drop
@pytest.mark.parametrize(
    ("make", "found", "fix"),
    [
        (lambda x: x.to_sparse(), "'w' is sparse_coo", "v.to_dense()"),
        (lambda x: x.to_sparse_csr(), "'w' is sparse_csr", "v.to_dense()"),
        (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "quantised", "v.dequantize() if"),
        (lambda x: x.to(torch.complex64).conj(), "'w' is a view with other signs", "resolve_conj()"),
        (lambda x: x.to(torch.complex64).conj().imag, "'w' is a view with other signs", "resolve_neg()"),
    ],
    ids=["sparse", "sparse rows", "quantised", "conjugate", "negative"],
)
def test_tensors_that_are_no_plain_arrays(file, make, found, fix):
    torch.save({"w": make(torch.ones(2, 3))}, file)
    lines = lines_of(file)
    assert lines[0] == "a tensor that is not a plain array of numbers"
    assert found in lines[2]
    assert fix in lines[3]


def test_type_that_is_unknown(file):
    torch.save({"w": torch.ones(2, dtype=torch.complex128)}, file)
    lines = lines_of(file)
    assert lines[0] == "a tensor of an unsupported type"
    assert lines[2] == "  found: 'w' is torch.complex128"


def test_tensor_without_data(file):
    torch.save({"w": torch.ones(2, device="meta")}, file)
    assert lines_of(file)[:3:2] == ["a tensor without data", "  found: 'w' has no storage in the file"]


@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\0" * 9])
def test_storage_of_another_size(file, data):
    write_archive(file, records_of({"w": torch.ones(2)}) | {"archive/data/0": data})
    assert lines_of(file)[2] == f"  found: tensor 'w' needs a storage of 8 bytes, has {len(data)}"


@pytest.mark.parametrize("field", ["offset", "size", "stride"])
def test_tensor_that_reaches_beyond_its_storage(file, field):
    """The pickle of a view, with one number changed."""
    view = torch.zeros(200).as_strided((0x23,), (0x04,), 0x21)
    old, new = {
        "offset": (b"K\x21", b"K\xc0"),
        "size": (b"K\x23\x85", b"K\xff\x85"),
        "stride": (b"K\x04\x85", b"K\xf0\x85"),
    }[field]
    records = records_of({"w": view})
    assert records["archive/data.pkl"].count(old) == 1
    records["archive/data.pkl"] = records["archive/data.pkl"].replace(old, new)
    write_archive(file, records)
    lines = lines_of(file)
    assert lines[0] == "damaged torch file"
    assert "'w'" in lines[2]
    assert "800" in lines[2]


def test_missing_file(tmp_path):
    lines = lines_of(tmp_path / "pytorch_model.bin")
    assert lines[0] == "cannot read a weight file"
    assert lines[2] == "  found: No such file or directory"


@pytest.mark.parametrize("seed", range(40))
def test_damage_anywhere_is_found_or_harmless(file, seed):
    torch.save({"w": torch.arange(6.0), "v": torch.ones(2, 2).t()}, file)
    before = read_archive(file)
    data, rng = bytearray(file.read_bytes()), np.random.default_rng(seed)
    for place in rng.integers(0, len(data), 3):
        data[place] = rng.integers(256)
    file.write_bytes(data)
    try:
        after = read_archive(file)
    except CheckpointError:
        return
    assert [(e.offset, e.shape) for e in after] == [(e.offset, e.shape) for e in before]
