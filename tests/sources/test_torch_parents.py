"""Merges of parents that torch.save wrote: the same child as from safetensors, whatever is mixed."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fusion_slerp import CheckpointError, merge
from tests.models import CONFIG, as_torch_files, contents, write_checkpoint, write_json, write_torch_files


def child_of(a, b, out, **options) -> dict[str, torch.Tensor]:
    """The child's tensors."""
    merge(a, b, out=out, t=0.3, **options)
    tensors = {}
    for file in sorted(out.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def expected(tmp_path, parents) -> dict[str, torch.Tensor]:
    """The child of the parents as safetensors."""
    return child_of(*parents, tmp_path / "expected")


@pytest.mark.parametrize("n_shards", [1, 2])
@pytest.mark.parametrize("of_torch", ["a", "b", "ab"])
def test_the_child_is_the_same_from_either_format(tmp_path, parents, expected, of_torch, n_shards):
    for name, folder in zip("ab", parents, strict=True):
        if name in of_torch:
            as_torch_files(folder, n_shards)
    assert_same(child_of(*parents, tmp_path / "child"), expected)
    assert not list((tmp_path / "child").glob("*.bin*"))


def test_even_its_file_is_the_same_where_a_is_safetensors(tmp_path, parents, expected):
    as_torch_files(parents[1])
    child_of(*parents, tmp_path / "child")
    name = "model.safetensors"
    assert (tmp_path / "child" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()


@pytest.mark.parametrize("max_shard_size", ["5GB", 3000])
def test_real_models(tmp_path, transformers_parents, max_shard_size):
    expected = child_of(*transformers_parents, tmp_path / "expected")
    folders = []
    for folder in transformers_parents:
        folders.append(tmp_path / folder.name)
        folders[-1].mkdir()
        for name, data in contents(folder).items():
            (folders[-1] / name).write_bytes(data)
        as_torch_files(folders[-1], 2)
    assert_same(child_of(*folders, tmp_path / "child", max_shard_size=max_shard_size), expected)


def test_both_formats_in_one_folder(tmp_path, parents, expected, caplog):
    write_torch_files(parents[0], {"lm_head.weight": torch.zeros(2)})
    assert_same(child_of(*parents, tmp_path / "child"), expected)
    said = [r.getMessage() for r in caplog.records if "pytorch_model.bin" in r.getMessage()]
    assert said == [f"{parents[0]}: not read: pytorch_model.bin"]


def test_a_stale_index(tmp_path, parents, expected, caplog):
    as_torch_files(parents[0])
    index = parents[0] / "model.safetensors.index.json"
    write_json(index, {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}})
    assert_same(child_of(*parents, tmp_path / "child"), expected)
    assert len([r for r in caplog.records if index.name in r.getMessage()]) == 1


def views(seed: int) -> dict[str, torch.Tensor]:
    """Tensors that share storages, or do not lie in the order of their elements, small and large."""
    torch.manual_seed(seed)
    base, large = torch.randn(8, 6), torch.randn(1100, 1000).to(torch.bfloat16)
    return {
        "plain": base,
        "rows": base[2:5],
        "transposed": base.t(),
        "expanded": base[:1].expand(7, 6),
        "large": large.t(),
        "columns": large[:, 17:],
        "repeated": large[0].expand(1100, 1000),
        "count": torch.arange(6).reshape(2, 3).t(),
    }


@pytest.mark.parametrize("t", [0, 0.3, 1])
@pytest.mark.parametrize("memory_budget", [None, "135MB"])
def test_views_and_shared_storages(tmp_path, t, memory_budget):
    folders = []
    for seed, name in enumerate(["a", "b", "a plain", "b plain"]):
        tensors = views(seed % 2)
        folders.append(write_checkpoint(tmp_path / name, tensors={}, tokens=None))
        (folders[-1] / "model.safetensors").unlink()
        if "plain" in name:
            copies = {key: x.clone(memory_format=torch.contiguous_format) for key, x in tensors.items()}
            save_file(copies, folders[-1] / "model.safetensors")
        else:
            write_torch_files(folders[-1], tensors)
    options = {"memory_budget": memory_budget, "threads": 1}
    for pair, out in ((folders[:2], "child"), (folders[2:], "expected")):
        merge(*pair, out=tmp_path / out, t=t, **options)
    assert_same(*(load_file(tmp_path / out / "model.safetensors") for out in ("child", "expected")))


def test_a_head_that_shares_the_embedding_is_tied(tmp_path):
    folders = []
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        embedding = torch.randn(6, 4)
        folder = write_checkpoint(tmp_path / name, tensors={}, config={"tie_word_embeddings": True})
        (folder / "model.safetensors").unlink()
        write_torch_files(folder, {"lm_head.weight": embedding, "model.embed_tokens.weight": embedding})
        folders.append(folder)
    assert child_of(*folders, tmp_path / "child").keys() == {"model.embed_tokens.weight"}
    assert json.loads((tmp_path / "child/config.json").read_text())["tie_word_embeddings"] is True


def test_infinity_names_the_torch_file(tmp_path, parents):
    tensors = {name: tensor.clone() for name, tensor in load_file(parents[1] / "model.safetensors").items()}
    tensors["model.norm.weight"][2] = np.inf
    (parents[1] / "model.safetensors").unlink()
    write_torch_files(parents[1], tensors)
    with pytest.raises(
        CheckpointError, match=r"model\.norm\.weight\n  b: 1 of 4 elements, first at 2\n"
    ) as caught:
        merge(*parents, out=tmp_path / "child")
    assert str(parents[1] / "pytorch_model.bin") in str(caught.value)


def test_torch_is_imported_for_torch_files_alone(tmp_path, parents):
    code = "import sys, fusion_slerp; fusion_slerp.plan_merge(*sys.argv[1:]); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, *map(str, parents)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
    as_torch_files(parents[0])
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"


def test_the_config_is_that_of_a(tmp_path, parents):
    as_torch_files(parents[0])
    child_of(*parents, tmp_path / "child")
    assert json.loads((tmp_path / "child/config.json").read_text()) == CONFIG
