"""Merges of folders by methods in the span of their sources: chunks, threads, the order of models, reads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

from fusion_slerp import CheckpointError, merge, verify
from fusion_slerp.chunks import CHUNK_ELEMENTS, chunks_of
from fusion_slerp.methods import METHODS
from fusion_slerp.methods.method import BASE, Unit
from fusion_slerp.passes.protocols import drive
from tests.models import write_checkpoint

named = pytest.mark.parametrize

LARGE, SMALL = "model.layers.0.mlp.up_proj.weight", "model.norm.weight"
SHAPES = {LARGE: (2 * CHUNK_ELEMENTS // 1024 + 300, 1024), SMALL: (700,)}
"""Two chunks and a part of one."""

WEIGHT = {"a": 0.4, "b": 0.6, "c": 0.1}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "linear": ("linear", "abc", {"weight": WEIGHT}),
    "linear, towards": ("linear", "abc base", {"weight": WEIGHT, "towards_base": 0.3}),
    "task_arithmetic": ("task_arithmetic", "abc base", {"weight": WEIGHT, "scaling_factor": 0.7}),
    "slerp, base": ("slerp", "ab base", {}),
    "multislerp": ("multislerp", "abc", {"weight": WEIGHT}),
    "multislerp, base": ("multislerp", "abc base", {"weight": WEIGHT}),
    "karcher": ("karcher", "abc", {"weight": WEIGHT}),
    "karcher, towards": ("karcher", "abc base", {"weight": WEIGHT, "towards_base": 0.2}),
    "model_stock": ("model_stock", "abc base", {}),
    "warp": ("warp", "abc base", {"towards_base": 0.7}),
}
"""A method, the models, and options."""

each_case = named("case", CASES.values(), ids=CASES)


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> dict[str, Path]:
    """Three models and their base in bfloat16; read-only."""
    folder, rng = tmp_path_factory.mktemp("family"), np.random.default_rng(4)
    base = {name: rng.standard_normal(shape, np.float32) * 0.02 for name, shape in SHAPES.items()}
    shared = {name: rng.standard_normal(shape, np.float32) * 0.002 for name, shape in SHAPES.items()}
    folders = {}
    for i, label in enumerate(("a", "b", "c", BASE)):
        tensors = {}
        for name, shape in SHAPES.items():
            own = shared[name] + (1 + i) * 0.002 * rng.standard_normal(shape, np.float32)
            tensors[name] = torch.from_numpy(base[name] + (label != BASE) * own).bfloat16()
        folders[label] = write_checkpoint(folder / label, tensors={})
        save_torch(tensors, folders[label] / "model.safetensors", {"format": "pt"})
    return folders


def merged(family: dict[str, Path], out: Path, case: Any, order: str | None = None, **more: Any) -> bytes:
    """The weights of a merge, whose models may come in another order, with their own weights."""
    method, models, options = case
    labels, _, base = models.partition(" ")
    order = order or labels
    given = {name: value for name, value in options.items() if name != "weight"}
    if "weight" in options:
        given["weight"] = {labels[i]: options["weight"][label] for i, label in enumerate(order)}
    if base:
        given["base"] = family[BASE]
    merge(*(family[label] for label in order), out=out, method=method, **given, **more)
    return (out / "model.safetensors").read_bytes()


@each_case
def test_threads_memory_and_the_order_of_the_models_change_no_byte(tmp_path, family, case):
    expected = merged(family, tmp_path / "expected", case, threads=1)
    assert merged(family, tmp_path / "three", case, threads=3, memory_budget="200MB") == expected
    if case[0] not in ("slerp", "warp"):
        order = case[1][2::-1] if len(case[1].split()[0]) == 3 else "ba"
        assert merged(family, tmp_path / "turned", case, order, threads=3) == expected


@each_case
def test_a_tensor_in_chunks_is_that_of_one_piece(tmp_path, family, case):
    """The coefficients are those of the tests with 50 digits."""
    method, models, options = case
    labels = (*models.split()[0], *models.split()[1:])
    merged(family, tmp_path / "child", case)
    child = load_torch(tmp_path / "child/model.safetensors")
    how = METHODS[method]
    values = {"t": 0.5, "weight": dict.fromkeys("abc", 1.0) | options.get("weight", {})}
    rest = {name: value for name, value in options.items() if name not in values}
    p = how.parameters(how.options(**rest), values, labels)
    for name in SHAPES:
        words = [
            load_torch(family[label] / "model.safetensors")[name].view(torch.int16).numpy().reshape(-1)
            for label in labels
        ]
        words = [each.view(np.uint16) for each in words]
        n, out = words[0].size, np.empty_like(words[0])
        chunks = [[each[start : start + m] for each in words] for start, m in chunks_of(n)]
        made = drive(how.start(p, Unit(name, n, n)), lambda chunks=chunks: chunks)
        assert made.combine.into(words, out) == 0
        np.testing.assert_array_equal(child[name].view(torch.int16).numpy().reshape(-1).view(np.uint16), out)


@each_case
def test_it_reads_what_the_plan_says_and_is_verified(tmp_path, family, case):
    method, models, options = case
    base = {"base": family[BASE]} if BASE in models else {}
    given = [family[label] for label in models.split()[0]]
    result = merge(*given, out=tmp_path / "child", method=method, **base, **options)
    assert result.nbytes_read == result.plan.nbytes_read
    how = METHODS[method]
    (passes,) = {how.n_passes(p)[0] for tensor in result.plan.tensors for p in tensor.work.units.values()}
    n_sources = len(given) + bool(base)
    size = sum(int(np.prod(shape)) for shape in SHAPES.values()) * 2 * n_sources
    assert size <= result.plan.nbytes_read <= (1 + passes) * size
    named = {label: family[label] for label in (*models.split()[0], *models.split()[1:])}
    assert verify(tmp_path / "child", models=named, inputs=True, recompute="all").ok
    for report in result.report:
        assert list(report.norms) == (list(models.split()[0]) if passes else [])


@named("name", [LARGE, SMALL])
@each_case
def test_what_is_not_finite_is_refused_with_file_and_tensor(tmp_path, family, case, name):
    for label in ("a", BASE):
        if label not in case[1]:
            continue
        tensors = load_torch(family[label] / "model.safetensors")
        tensors[name].reshape(-1)[-7] = float("nan")
        spoilt = write_checkpoint(tmp_path / f"spoilt {label}", tensors={})
        save_torch(tensors, spoilt / "model.safetensors", {"format": "pt"})
        with pytest.raises(CheckpointError, match="NaN or infinity in a weight") as caught:
            merged(family | {label: spoilt}, tmp_path / "child", case)
        text = str(caught.value)
        assert f"tensor: {name}" in text
        assert f"{label}: 1 of {tensors[name].numel()} elements, first at {tensors[name].numel() - 7}" in text
        assert not (tmp_path / "child").exists()
