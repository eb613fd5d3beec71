"""Empty tensors: weights that DeepSpeed's ZeRO-3 did not gather are refused, legitimate ones are merged."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from fusion_slerp import merge
from fusion_slerp.errors import CheckpointError
from fusion_slerp.sources.folder import open_checkpoint
from tests.models import SHAPES, as_torch_files, tiny_tensors, write_checkpoint

EMPTY = np.empty(0, "float32")


def without_data(folder, *names: str, **more: np.ndarray):
    """Writes a checkpoint in which the named tensors have the shape [0]."""
    tensors = {**tiny_tensors(0), **dict.fromkeys(names, EMPTY), **more}
    return write_checkpoint(folder, tensors=tensors)


@pytest.mark.parametrize("names", [[*SHAPES], ["model.layers.0.mlp.up_proj.weight"], ["lm_head.weight"]])
@pytest.mark.parametrize("is_torch", [False, True])
def test_weights_that_were_not_gathered(tmp_path, names, is_torch):
    folder = without_data(tmp_path / "a", *names)
    if is_torch:
        as_torch_files(folder)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    lines = str(caught.value).splitlines()
    file = folder / ("pytorch_model.bin" if is_torch else "model.safetensors")
    assert lines[:2] == ["weights without data", f"  file: {file}"]
    assert lines[2].startswith(f"  found: {len(names)} of shape [0]: ")
    assert names[0] in lines[2]
    assert lines[3] == "  cause: saved under DeepSpeed ZeRO-3 without gathering the weights"
    assert "python zero_to_fp32.py CHECKPOINT OUTPUT" in lines[-1]
    assert "stage3_gather_16bit_weights_on_model_save: true" in lines[-1]


def test_a_matrix_of_one_layer(tmp_path):
    """Whatever left it without data: the same matrix of other layers has some."""
    more = {"model.blocks.0.gate.weight": EMPTY, "model.blocks.1.gate.weight": np.ones((3, 4), "float32")}
    with pytest.raises(CheckpointError, match=r"1 of shape \[0\]: model\.blocks\.0\.gate\.weight"):
        open_checkpoint(without_data(tmp_path / "a", **more))


def test_parameters_under_other_names_are_named_with_them(tmp_path):
    more = {"model.layers.0.mlp.experts.gate_up_proj": EMPTY}
    folder = without_data(tmp_path / "a", "lm_head.weight", **more)
    (folder / "zero_to_fp32.py").write_text("")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    assert "2 of shape [0]: lm_head.weight, model.layers.0.mlp.experts.gate_up_proj" in str(caught.value)
    command = f"python {folder / 'zero_to_fp32.py'} {folder} {folder}-gathered --safe_serialization"
    assert str(caught.value).endswith(command)


LEGITIMATE = {
    "a buffer": {"model.cache": EMPTY},
    "an empty matrix": {"model.none": np.empty((0, 16), "float32")},
    "a layer without outputs": {"model.none.weight": np.empty((0, 4), "float32"), "model.none.bias": EMPTY},
    "a layer that was pruned": {"model.blocks.0.gate.bias": EMPTY, "model.blocks.1.gate.bias": np.ones(3)},
    "a list of integers": {"model.pruned.bias": np.empty(0, "int64")},
}


@pytest.mark.parametrize("kind", LEGITIMATE)
def test_tensors_that_may_be_empty(tmp_path, kind):
    a, b = (without_data(tmp_path / name, **LEGITIMATE[kind]) for name in "ab")
    merge(a, b, out=tmp_path / "child")
    merged = load_file(tmp_path / "child/model.safetensors")
    assert {name: merged[name].shape for name in LEGITIMATE[kind]} == {
        name: tensor.shape for name, tensor in LEGITIMATE[kind].items()
    }
