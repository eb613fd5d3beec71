"""Quantised weights: known by the config at every level, and by the tensors; no other model is refused."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

from fusion_slerp import merge
from fusion_slerp.errors import CheckpointError
from fusion_slerp.sources.folder import open_checkpoint
from tests.models import CONFIG, SHAPES, tiny_tensors, write_checkpoint, write_json

PROJ = "model.layers.0.mlp.up_proj"
GPTQ = {"quant_method": "gptq", "bits": 4}


def lines_of(folder) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    lines = str(caught.value).splitlines()
    assert lines[0] == "quantised weights cannot be merged"
    assert lines[-1].startswith("Fix: merge the model that it was quantised from")
    return lines


def with_tensors(folder, **more: np.ndarray):
    """Writes a checkpoint with more tensors, in the module `PROJ` (or below, with double underlines)."""
    named = {f"{PROJ}.{name.replace('__', '.')}": tensor for name, tensor in more.items()}
    return write_checkpoint(folder, tensors={**tiny_tensors(0), **named})


# --- the config -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"text_config": {"quantization_config": GPTQ}}, "text_config.quantization_config"),
        ({"language_config": {"compression_config": GPTQ}}, "language_config.compression_config"),
        ({"a": [{}, {"b": {"quantization_config": GPTQ}}]}, "a.1.b.quantization_config"),
        ({"quantization_config": GPTQ, "text_config": {"quantization_config": {}}}, "quantization_config"),
    ],
)
def test_a_config_at_any_level(tmp_path, config, key):
    folder = write_checkpoint(tmp_path / "a", config=config)
    assert lines_of(folder)[1:3] == [f"  file: {folder / 'config.json'}", f"  found: {key}, method gptq"]


def test_a_config_that_is_null_is_none(tmp_path):
    folder = write_checkpoint(tmp_path / "a")
    null = {"quantization_config": None}
    write_json(folder / "config.json", CONFIG | null | {"text_config": null})
    assert open_checkpoint(folder).tensors.keys() == SHAPES.keys()


# --- the tensors ----------------------------------------------------------------------------------------

CODES, BYTES, SCALES = np.ones((8, 4), "int32"), np.ones((8, 4), "uint8"), np.ones((8, 1), "float16")

FORMATS = {
    "GPTQ": ("qweight", {"qweight": CODES, "scales": SCALES, "qzeros": CODES, "g_idx": CODES[0]}),
    "compressed-tensors": ("weight_packed", {"weight_packed": CODES, "weight_scale": SCALES}),
    "compressed-tensors, 8 bits": ("weight", {"weight": BYTES.view("int8"), "weight_scale": SCALES}),
    "bitsandbytes, 8 bits": ("weight", {"weight": BYTES.view("int8"), "SCB": SCALES}),
    "bitsandbytes, 4 bits": (
        "weight",
        {"weight": BYTES, "weight__absmax": BYTES[0], "weight__quant_map": SCALES[0]},
    ),
    "MXFP4": ("gate_up_proj_blocks", {"gate_up_proj_blocks": BYTES, "gate_up_proj_scales": BYTES}),
    "experts in one tensor": ("gate_up_proj", {"gate_up_proj": BYTES, "gate_up_proj_scale": SCALES}),
    "HQQ": ("W_q", {"W_q": BYTES, "scale": SCALES, "zero": SCALES}),
    "AQLM": ("codes", {"codes": BYTES.view("int8"), "codebooks": SCALES, "scales": SCALES}),
    "ExLlama 2": ("q_weight", {"q_weight": CODES, "q_scale": CODES, "q_groups": CODES[0]}),
    "ExLlama 3": ("trellis", {"trellis": CODES.astype("int16"), "suh": SCALES[:, 0], "svh": SCALES[:, 0]}),
    "MLX": ("weight", {"weight": CODES.astype("uint32"), "scales": SCALES, "biases": SCALES}),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_codes_with_scales_next_to_them(tmp_path, kind):
    name, tensors = FORMATS[kind]
    folder = with_tensors(tmp_path / "a", **tensors)
    lines = lines_of(folder)
    assert lines[1] == f"  file: {folder / 'model.safetensors'}"
    assert lines[2].startswith(f"  found: {PROJ}.{name} (")


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu, torch.float4_e2m1fn_x2]
)
def test_types_of_eight_and_fewer_bits(tmp_path, dtype):
    folder = write_checkpoint(tmp_path / "a")
    save_file(
        {f"{PROJ}.weight": torch.zeros(8, 4, dtype=torch.uint8).view(dtype)}, folder / "model.safetensors"
    )
    assert f"{PROJ}.weight (F" in lines_of(folder)[2]


def test_a_config_and_tensors_are_one_problem(tmp_path):
    config = {"quantization_config": GPTQ}
    tensors = {f"{PROJ}.qweight": CODES, f"{PROJ}.scales": SCALES}
    lines = lines_of(write_checkpoint(tmp_path / "a", tensors=tensors, config=config))
    assert lines[2:4] == ["  found: quantization_config, method gptq", f"  tensors: {PROJ}.qweight (I32)"]


PLAIN = {
    "a scale and positions": {"scale": SCALES, "position_ids": np.arange(8).reshape(1, 8)},
    "an index and a scale": {"relative_position_index": np.arange(16).reshape(4, 4), "logit_scale": SCALES},
    "a mask and a scale": {"bias": np.tri(4, dtype="uint8")[None, None], "scale": SCALES},
    "a count and a scale": {"num_batches_tracked": np.array(3), "weight_scale": SCALES},
    "a zero point of plain weights": {"weight_scale": SCALES, "weight_zero_point": BYTES.view("int8")},
    "integers without a scale": {"weight_ids": CODES},
}


@pytest.mark.parametrize("kind", PLAIN)
def test_integers_that_are_no_codes(tmp_path, kind):
    a, b = (with_tensors(tmp_path / name, **PLAIN[kind]) for name in "ab")
    merge(a, b, out=tmp_path / "child")
    merged = load_file(tmp_path / "child/model.safetensors")
    for name, tensor in PLAIN[kind].items():
        if tensor.dtype.kind in "iu":
            assert np.array_equal(merged[f"{PROJ}.{name}"], tensor)
