"""Bytes read of several models, and values and models that cannot be merged."""

from pathlib import Path

import numpy as np
import pytest

from fusion_slerp import CheckpointError, OutputError, merge, plan_merge
from fusion_slerp.api import merge_into_memory
from fusion_slerp.chunks import CHUNK_ELEMENTS
from tests.models import names_in, tiny_tensors, write_checkpoint
from tests.three_models.models import weights_of


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> list[Path]:
    """Three models with a tensor of three chunks; read-only."""
    folder = tmp_path_factory.mktemp("long")
    n = 2 * CHUNK_ELEMENTS + 77
    return [
        write_checkpoint(
            folder / name,
            tensors=tiny_tensors(seed, "float16")
            | {"model.long": np.random.default_rng(seed).standard_normal(n, "float32").astype("float16")},
        )
        for seed, name in enumerate("abc", 1)
    ]


@pytest.mark.parametrize(
    ("n", "options"),
    [
        (2, {"t": 0.3}),
        (2, {"t": 0}),
        (2, {"t": 0.3, "granularity": "row"}),
        (2, {"t": 0.3, "granularity": "column"}),
        (2, {"t": 0.3, "threads": 1, "memory_budget": "1GB"}),
        (1, {"method": "linear"}),
        (3, {"method": "linear"}),
        (3, {"method": "linear", "weight": {"b": 0}}),
        (3, {"method": "linear", "weight": {"b": 0, "c": 0}}),
    ],
    ids=str,
)
def test_as_many_bytes_are_read_as_planned(tmp_path, long, n, options):
    result = merge(*long[:n], out=tmp_path / "child", **options)
    assert result.nbytes_read == result.plan.nbytes_read
    assert result.plan.nbytes_in <= result.plan.nbytes_read <= result.plan.nbytes_read_most


def test_linear_reads_every_byte_once(tmp_path, long):
    plan = plan_merge(*long, method="linear")
    assert plan.nbytes_read == plan.nbytes_in == plan.nbytes_read_most
    assert plan.nbytes_in == sum(x.nbytes for folder in long for x in weights_of(folder).values())


# --- what cannot be merged ---


@pytest.mark.parametrize("call", ["merge", "plan_merge", "merge_into_memory"])
def test_all_models_that_cannot_be_opened_are_named_at_once(tmp_path, three, call):
    gone = [tmp_path / "nowhere", three[1], tmp_path / "neither"]
    calls = {"merge": merge, "plan_merge": plan_merge, "merge_into_memory": merge_into_memory}
    out = {"out": tmp_path / "child"} if call == "merge" else {}
    with pytest.raises(CheckpointError) as caught:
        calls[call](*gone, **out, method="linear")
    message = str(caught.value)
    assert message.startswith("2 problems")
    assert f"{gone[0]}: model not found" in message
    assert f"{gone[2]}: model not found" in message
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")], ids=str)
@pytest.mark.parametrize("n", [50, CHUNK_ELEMENTS + 50], ids=["one chunk", "two chunks"])
def test_an_element_that_is_not_finite_is_refused(tmp_path, n, bad):
    """Although linear measures nothing."""
    tensors = [{"w": np.ones(n, "float32")} for _ in range(3)]
    tensors[1]["w"][[n - 30, n - 7]] = bad
    folders = [
        write_checkpoint(tmp_path / "models" / x, tensors=w) for x, w in zip("abc", tensors, strict=True)
    ]
    with pytest.raises(CheckpointError) as caught:
        merge(*folders, out=tmp_path / "child", method="linear")
    assert str(caught.value).splitlines()[:-1] == [
        "NaN or infinity in a weight",
        "  tensor: w",
        f"  b: 2 of {n} elements, first at {n - 30}",
        f"  file: {folders[1] / 'model.safetensors'}",
    ]
    assert names_in(tmp_path) == ["models"]


def test_a_sum_that_float16_cannot_hold_is_refused(tmp_path):
    tensors = {"w": np.full(5, 6e4, "float16")}
    folders = [write_checkpoint(tmp_path / "models" / x, tensors=tensors) for x in "abc"]
    with pytest.raises(OutputError, match=r"(?s)^overflow to infinity in float16.*Fix: use dtype='bfloat16'"):
        merge(*folders, out=tmp_path / "child", method="linear", normalize=False)
    merge(*folders, out=tmp_path / "child", method="linear")
    assert weights_of(tmp_path / "child")["w"].tolist() == tensors["w"].tolist()
