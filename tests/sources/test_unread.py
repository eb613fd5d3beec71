"""Files next to the weights: adapters, and a single file that holds less than the shards after it."""

import pytest
from safetensors.numpy import save_file

from fusion_slerp import merge
from fusion_slerp.errors import CheckpointError
from fusion_slerp.sources.folder import open_checkpoint
from tests.models import SHAPES, as_torch_files, contents, tiny_tensors, write_checkpoint, write_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


# --- adapters -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["owner/base", None])
def test_an_adapter_next_to_weights_is_named_and_left_behind(tmp_path, parents, base):
    a, b = parents
    write_json(a / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": base})
    save_file({"lora_A.weight": tiny_tensors(0)["lm_head.weight"]}, a / "adapter_model.safetensors")
    made_for = " (made for owner/base)" if base else ""
    assert open_checkpoint(a).warnings == (
        f"{a}: adapter_config.json next to the weights: with peft, transformers applies it{made_for} when it "
        "loads this folder; the merge takes the weights alone, and the merged model has no adapter",
    )
    merge(a, b, out=tmp_path / "child")
    assert not [name for name in contents(tmp_path / "child") if name.startswith("adapter")]


def test_an_adapters_config_that_is_no_json_is_named_all_the_same(tmp_path):
    folder = write_checkpoint(tmp_path / "a")
    (folder / "adapter_config.json").write_text("{")
    (warning,) = open_checkpoint(folder).warnings
    assert warning.startswith(f"{folder}: adapter_config.json next to the weights: ")


# --- a single file and shards ---------------------------------------------------------------------------


def add_shards(folder, tmp_path, n_shards: int = 2, is_torch: bool = False):
    """Adds the shards of a whole model and their index."""
    whole = write_checkpoint(tmp_path / "whole", seed=5, n_shards=n_shards)
    if is_torch:
        as_torch_files(whole, n_shards)
    for file in whole.iterdir():
        if not (folder / file.name).exists():
            file.rename(folder / file.name)
    return folder


@pytest.mark.parametrize("is_torch", [False, True])
def test_a_single_file_with_less_than_the_shards(tmp_path, is_torch):
    part = {name: tensor for name, tensor in tiny_tensors(0).items() if "layers" not in name}
    folder = add_shards(write_checkpoint(tmp_path / "a", tensors=part), tmp_path, is_torch=is_torch)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    lines = str(caught.value).splitlines()
    index = "pytorch_model.bin.index.json" if is_torch else INDEX
    assert lines == [
        "a single file with a part of the weights",
        f"  file: {folder / SINGLE}",
        f"  found: it takes precedence over {index}, and lacks 1 of its weights: "
        "model.layers.0.mlp.up_proj.weight",
        f"Fix: if the shards are the model, remove or rename {SINGLE}; else remove {index} and its shards",
    ]


def without(*names: str, **more):
    return {name: tensor for name, tensor in {**tiny_tensors(0), **more}.items() if name not in names}


@pytest.mark.parametrize(
    "tensors",
    [
        without(),
        without("lm_head.weight"),
        without(*SHAPES, **{"h.0.w.weight": tiny_tensors(0)["lm_head.weight"]}),
    ],
    ids=["whole", "tied head", "other names"],
)
def test_a_single_file_that_is_another_save_of_the_model(tmp_path, tensors):
    folder = add_shards(write_checkpoint(tmp_path / "a", tensors=tensors), tmp_path)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.tensors.keys() == tensors.keys()
    shards = ", ".join(f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    assert checkpoint.warnings == (f"{folder}: not read: {shards}, {INDEX}",)


def test_a_single_file_next_to_incomplete_shards_is_the_model(tmp_path):
    part = without("model.layers.0.mlp.up_proj.weight")
    folder = add_shards(write_checkpoint(tmp_path / "a", tensors=part), tmp_path)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert open_checkpoint(folder).tensors.keys() == part.keys()
