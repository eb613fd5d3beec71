"""How tensors are laid out in files, and how other libraries read the files and the index."""

import json
import os

import pytest
import safetensors
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from hypothesis import given
from hypothesis import strategies as st

from fusion_slerp.api import merge
from fusion_slerp.dtypes import BY_CODE
from fusion_slerp.output.shard_writer import index_json
from fusion_slerp.planning.layout import Tensor, lay_out
from fusion_slerp.sources.folder import open_checkpoint
from fusion_slerp.sources.header import read_header
from tests.models import names_in, save_transformers_model
from tests.weight_files import tensor, write


def groups(tensors: list[Tensor], limit: int) -> list[list[str]]:
    """The names of the tensors of each file, in the order of their offsets."""
    slots, files = lay_out(tensors, limit)
    return [[slot.name for slot in slots if slot.shard == i] for i in range(len(files))]


# --- layout ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "limit", "expected"),
    [
        ([10, 10, 10], 30, [["0", "1", "2"]]),
        ([10, 10, 10], 29, [["0", "1"], ["2"]]),
        ([10, 10, 10], 10, [["0"], ["1"], ["2"]]),
        ([6, 6, 2, 6, 2, 2], 10, [["0"], ["1", "2"], ["3", "4", "5"]]),
        ([5, 50, 5], 10, [["0"], ["1"], ["2"]]),
        ([50, 5, 5], 10, [["0"], ["1", "2"]]),
        ([50], 10, [["0"]]),
        ([0, 10, 0, 10], 10, [["0", "1", "2"], ["3"]]),
        ([], 10, [[]]),
    ],
)
def test_files_are_filled_in_order_up_to_the_limit(sizes, limit, expected):
    tensors = [tensor(str(i), "U8", size) for i, size in enumerate(sizes)]
    assert groups(tensors, limit) == expected


def test_wider_types_come_first_so_that_all_are_aligned():
    codes = ["BOOL", "BF16", "F32", "I64", "U8", "F16", "F64"]
    tensors = [tensor(code, code, 3) for code in codes]
    slots, (file,) = lay_out(tensors, 1000)
    assert [slot.name for slot in slots] == ["I64", "F64", "F32", "BF16", "F16", "BOOL", "U8"]
    assert file.data_nbytes == sum(t.nbytes for t in tensors)
    assert len(file.header) % 4096 == 0
    for slot in slots:
        assert (len(file.header) + slot.offset) % slot.dtype.itemsize == 0


TENSORS = st.lists(
    st.tuples(
        st.sampled_from(sorted(code for code, dtype in BY_CODE.items() if dtype.itemsize)),
        st.lists(st.integers(0, 5), max_size=3),
    ),
    max_size=8,
)


@given(described=TENSORS, limit=st.integers(1, 200))
def test_layout_loses_nothing_and_leaves_no_holes(described, limit):
    tensors = [tensor(str(i), code, *shape) for i, (code, shape) in enumerate(described)]
    slots, files = lay_out(tensors, limit)
    key = lambda t: t.name  # noqa: E731
    assert [(s.name, s.dtype, s.shape, s.nbytes) for s in sorted(slots, key=key)] == [
        (t.name, t.dtype, t.shape, t.nbytes) for t in sorted(tensors, key=key)
    ]
    for i, file in enumerate(files):
        mine = [slot for slot in slots if slot.shard == i]
        ends = [0, *(slot.offset + slot.nbytes for slot in mine)]
        assert [slot.offset for slot in mine] == ends[:-1]
        assert ends[-1] == file.data_nbytes
        assert all(slot.offset % slot.dtype.itemsize == 0 for slot in mine)
        assert file.data_nbytes <= limit or len([slot for slot in mine if slot.nbytes]) == 1
    assert [slot.shard for slot in slots] == sorted(slot.shard for slot in slots)


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12), limit=st.integers(40, 100))
def test_same_files_as_the_hub_library_makes_of_the_same_order(sizes, limit):
    state_dict = {f"w{i}": torch.zeros(size, dtype=torch.uint8) for i, size in enumerate(sizes)}
    split = split_torch_state_dict_into_shards(
        state_dict, filename_pattern="model{suffix}.safetensors", max_shard_size=limit
    )
    slots, files = lay_out([tensor(name, "U8", t.numel()) for name, t in state_dict.items()], limit)
    assert {slot.name: files[slot.shard].file_name for slot in slots} == split.tensor_to_filename
    assert json.loads(index_json(slots, files))["metadata"] == split.metadata


# --- files ----------------------------------------------------------------------------------------------

MIXED = [
    tensor("a.scalar", "F32"),
    tensor("b.empty", "F16", 0, 3),
    tensor("c.half", "BF16", 3, 5),
    tensor('d."quoted"\n', "F64", 2),
    tensor("é.non-ascii", "BOOL", 7),
    tensor("f.long", "I64", 2),
]


@pytest.mark.parametrize("limit", [1000, 40, 1])
def test_the_library_reads_what_is_written(tmp_path, limit):
    data = write(tmp_path, MIXED, limit)
    read = {}
    for file in sorted(tmp_path.glob("*.safetensors")):
        with safetensors.safe_open(file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            read |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    assert read.keys() == data.keys()
    for described in MIXED:
        found = read[described.name]
        assert (str(found.dtype), tuple(found.shape)) == (f"torch.{described.dtype.name}", described.shape)
        assert (
            found.numel() == 0
            or found.reshape(-1).view(torch.uint8).numpy().tobytes() == data[described.name]
        )


@pytest.mark.parametrize("limit", [1000, 40, 1])
def test_we_read_what_is_written(tmp_path, limit):
    data = write(tmp_path, MIXED, limit)
    for file in tmp_path.glob("*.safetensors"):
        for entry in read_header(file):
            assert file.read_bytes()[entry.offset : entry.offset + entry.nbytes] == data[entry.name]


def test_file_names_and_index(tmp_path):
    tensors = [tensor(f"w{i}", "U8", 10) for i in (2, 0, 1)]
    write(tmp_path, tensors, 20)
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    assert names_in(tmp_path) == [first, second, "model.safetensors.index.json"]
    assert (tmp_path / "model.safetensors.index.json").read_text() == (
        '{\n  "metadata": {\n    "total_size": 30\n  },\n  "weight_map": {\n'
        f'    "w0": "{first}",\n    "w1": "{second}",\n    "w2": "{first}"\n  }}\n}}\n'
    )


def test_one_file_has_no_number_and_no_index(tmp_path):
    write(tmp_path, [tensor("w", "U8", 50)], 10)
    assert names_in(tmp_path) == ["model.safetensors"]


def test_index_is_that_of_save_pretrained(tmp_path):
    """The same model, saved in shards by transformers and by a merge with itself."""
    limit = 3_000
    a = save_transformers_model(tmp_path / "a", "llama", seed=1, max_shard_size=limit)
    merge(a, a, out=tmp_path / "child", max_shard_size=limit)
    theirs, ours = (
        json.loads((folder / "model.safetensors.index.json").read_text())
        for folder in (a, tmp_path / "child")
    )
    assert len(set(theirs["weight_map"].values())) > 2
    assert ours["metadata"]["total_size"] == theirs["metadata"]["total_size"]
    assert list(ours["weight_map"]) == list(theirs["weight_map"])
    names = names_in(tmp_path / "child")
    for name, file in ours["weight_map"].items():
        assert file in names
        with safetensors.safe_open(tmp_path / "child" / file, "pt") as opened:
            assert name in opened.keys()  # noqa: SIM118
    assert open_checkpoint(tmp_path / "child").warnings == ()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_modes_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write(tmp_path, MIXED, 40)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert len(modes) > 2
    assert set(modes.values()) == {mode}
