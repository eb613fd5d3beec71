"""From factors to coefficients; every scaled element is the nearest of its type to the float64 product."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fusion_slerp import CheckpointError, OutputError, SettingsError, make_settings, merge
from fusion_slerp.engine.in_memory import combine_tensors
from fusion_slerp.methods.method import Unit
from fusion_slerp.methods.passthrough import (
    PASSTHROUGH,
    PassthroughOptions,
    PassthroughParameters,
    passthrough,
)
from fusion_slerp.passes.protocols import Made, drive
from fusion_slerp.passes.weighted_sum import WeightedSum
from tests.models import contents, tiny_tensors, write_checkpoint
from tests.reference import F16, F32, round_to

UNIT = Unit("w", 600, 30)


@pytest.mark.parametrize(("scale", "copied"), [(1.0, 0), (1, 0), (0.0, None), (-1.0, None), (1.5, None)])
def test_only_a_factor_of_one_copies(scale, copied):
    p = PASSTHROUGH.parameters(PassthroughOptions(), {"scale": {"b": scale}}, ("b",))
    assert p == PassthroughParameters(scale)
    assert (PASSTHROUGH.used(p), PASSTHROUGH.copied(p)) == ([0], copied)


def test_nothing_is_measured():
    p = PassthroughParameters(0.5)
    assert PASSTHROUGH.passes(p) == (0, 0)
    assert drive(passthrough(p, UNIT), lambda: pytest.fail("read")) == Made(WeightedSum((0.5,)), "scaled")


def test_one_model():
    assert [PASSTHROUGH.takes(n) for n in (0, 1, 2)] == [False, True, False]


def scaled(scale: float, tensor: torch.Tensor):
    settings = make_settings(method="passthrough", scale=scale)
    return combine_tensors({"a": tensor}, settings, "w", {"scale": {"a": scale}})


@pytest.mark.parametrize("scale", [0.3, -0.7, 1 / 3, 0.0, 1e-3])
@pytest.mark.parametrize(("dtype", "format"), [("f4", F32), ("f2", F16)])
def test_each_product_is_rounded_once(scale, dtype, format):
    array = np.random.default_rng(1).normal(0, 0.02, (20, 30)).astype(dtype)
    result, report = scaled(scale, torch.from_numpy(array))
    assert np.array_equal(result.numpy(), round_to(scale * array.astype("f8"), format))
    assert report.rule == "scaled"


def test_a_factor_of_one_keeps_every_bit():
    tensor = torch.tensor([float("nan"), float("inf"), -0.0, 1.0])
    result, report = scaled(1.0, tensor)
    assert result.view(torch.int32).equal(tensor.view(torch.int32))
    assert report.rule == "copy a"


def test_what_cannot_be_scaled():
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        scaled(0.5, torch.tensor([1.0, float("nan")]))
    with pytest.raises(OutputError, match="overflow"):
        scaled(2.0, torch.tensor([6e4]).half())
    with pytest.raises(SettingsError, match="invalid scale"):
        make_settings(method="passthrough", scale=float("inf"))


# Whole models.


def test_one_model_with_another_type(tmp_path):
    tensors = tiny_tensors(1)
    a = write_checkpoint(tmp_path / "a", tensors=tensors)
    merge(a, out=tmp_path / "child", method="passthrough", dtype="float16")
    child = load_file(tmp_path / "child/model.safetensors")
    assert {name: each.dtype for name, each in child.items()} == dict.fromkeys(tensors, np.dtype("f2"))
    assert all(np.array_equal(child[name], each.astype("f2")) for name, each in tensors.items())


def test_one_model_in_files_of_another_size(tmp_path):
    a = write_checkpoint(tmp_path / "a", 1)
    result = merge(a, out=tmp_path / "child", method="passthrough", max_shard_size=130)
    files = [name for name in contents(tmp_path / "child") if name.endswith(".safetensors")]
    assert len(files) == len(result.plan.shards) == 4
    merged = {k: v for name in files for k, v in load_file(tmp_path / "child" / name).items()}
    assert all(np.array_equal(merged[name], each) for name, each in tiny_tensors(1).items())


@pytest.mark.parametrize("fill", ["owner", "mean", "gradient", "zeros"])
def test_one_model_with_more_rows(tmp_path, fill):
    """Only the new rows are filled."""
    tensors = tiny_tensors(1)
    a = write_checkpoint(tmp_path / "a", tensors=tensors)
    options = {"pad_vocab_to_multiple_of": 8, "vocab_fill": fill}
    merge(a, out=tmp_path / "child", method="passthrough", **options)
    child = load_file(tmp_path / "child/model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert child[name].shape == (8, 4)
        assert np.array_equal(child[name][:6], tensors[name])
        assert child[name][6:].any() == (fill != "zeros")
