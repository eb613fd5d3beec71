"""Experts are merged matrix by matrix, however the models store them; the child has model a's layout."""

import itertools
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fusion_slerp import FusionSlerpError, merge, plan_merge, verify
from fusion_slerp.api import merge_into_memory
from fusion_slerp.engine.executor import execute
from fusion_slerp.engine.memory_sink import MemorySink
from tests.expert_layouts import EXPERTS, HIDDEN, LAYOUTS, MODULE, experts, write_experts
from tests.models import write_torch_files

MIXES = [
    (model_type, one, other)
    for model_type, layouts in LAYOUTS.items()
    for one, other in itertools.product(layouts, layouts)
]


def named(value):
    return value if isinstance(value, str) else value.__name__


def child_of(folder):
    return load_file(folder / "model.safetensors")


def expected(model_type: str, layout, seeds, t: float, dtype: str = "float32"):
    """The child as the reference makes it: each matrix an angle of its own, in float64, rounded once."""
    tensors = {}
    for layer in range(2):
        a, b = (experts(seed + 10 * layer, dtype) for seed in seeds)
        made = {name: [slerp(t, x, y) for x, y in zip(a[name], b[name], strict=True)] for name in a}
        tensors |= layout(made, MODULE.format(layer))
    return tensors


def slerp(t, a, b):
    x, y = a.astype(np.float64), b.astype(np.float64)
    cosine = np.sum(x * y) / np.sqrt(np.sum(x * x) * np.sum(y * y))
    if abs(cosine) > 0.9995:
        return ((1 - t) * x + t * y).astype(a.dtype)
    angle = np.arccos(cosine)
    return ((np.sin((1 - t) * angle) * x + np.sin(t * angle) * y) / np.sin(angle)).astype(a.dtype)


@pytest.mark.parametrize(("model_type", "one", "other"), MIXES, ids=named)
def test_every_matrix_of_every_expert_has_an_angle_of_its_own_in_any_mix(tmp_path, model_type, one, other):
    a = write_experts(tmp_path / "a", 1, model_type, one)
    b = write_experts(tmp_path / "b", 2, model_type, other)
    child = child_of(merge(a, b, out=tmp_path / "child", t=0.3).out)
    assert list(child) == sorted(load_file(a / "model.safetensors"))
    for name, tensor in expected(model_type, one, (1, 2), 0.3).items():
        np.testing.assert_allclose(child[name], tensor, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("model_type", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_bytes_do_not_depend_on_how_the_models_were_saved(tmp_path, model_type, dtype):
    layouts = LAYOUTS[model_type]
    models = {
        (seed, layout): write_experts(tmp_path / f"{seed}-{i}", seed, model_type, layout, dtype)
        for seed in (1, 2)
        for i, layout in enumerate(layouts)
    }
    merged = {}
    for one, other in itertools.product(layouts, layouts):
        out = tmp_path / f"child-{len(merged)}"
        merged[one, other] = child_of(merge(models[1, one], models[2, other], out=out, t=0.5).out)
    for one, other in merged:
        for name, tensor in merged[one, other].items():
            assert tensor.tobytes() == merged[one, layouts[0]][name].tobytes(), (one, other, name)
    alone = merged[layouts[0], layouts[0]]
    for layer in range(2):
        matrices = matrices_of(alone, MODULE.format(layer))
        for one in layouts:
            for name, tensor in one(matrices, MODULE.format(layer)).items():
                assert tensor.tobytes() == merged[one, one][name].tobytes(), (one, name)


def matrices_of(tensors, module):
    """The matrices in a checkpoint with a tensor for each."""
    projections = {"gate": ("gate_proj", "w1"), "up": ("up_proj", "w3"), "down": ("down_proj", "w2")}
    matrices = {}
    for name, others in projections.items():
        for kind, key in (("weight", name), ("bias", f"{name}_bias")):
            names = [[f"{module}.{e}.{other}.{kind}" for other in others] for e in range(EXPERTS)]
            matrices[key] = [next((tensors[n] for n in each if n in tensors), np.zeros(0)) for each in names]
    return matrices


# --- all parts of a merge ---------------------------------------------------------------------------------


def pair(tmp_path, model_type, one=-1, other=0, dtype="float32", **sizes):
    """Models whose experts have two of a type's layouts: as a rule the last (all experts) and the first."""
    layouts = LAYOUTS[model_type]
    a = write_experts(tmp_path / "a", 1, model_type, layouts[one], dtype, **sizes)
    return a, write_experts(tmp_path / "b", 2, model_type, layouts[other], dtype, **sizes)


TYPES = ["qwen3_moe", "llama4_text", "gpt_oss", "dbrx"]


@pytest.mark.parametrize("model_type", TYPES)
def test_records_and_verification_know_every_matrix(tmp_path, model_type):
    a, b = pair(tmp_path, model_type)
    result = merge(a, b, out=tmp_path / "child", t=0.3)
    child = result.out
    again = verify(child, inputs=True, recompute="all")
    assert again.ok
    assert again.measured
    listed = json.loads((child / "merge_manifest.json").read_text())["tensors"]
    report = json.loads((child / "merge_report.json").read_text())["tensors"]
    assert sorted(listed) == sorted(row["name"] for row in report) == sorted(r.name for r in result.report)
    assert sum(row["nbytes"] for row in listed.values()) == sum(t.nbytes for t in child_of(child).values())
    file = child / "model.safetensors"
    raw = bytearray(file.read_bytes())
    name = next(name for name in listed if "[2]" in name)
    raw[listed[name]["offset"]] ^= 1
    file.write_bytes(raw)
    (damaged,) = verify(child).deviations
    assert damaged.tensor == name


def test_the_report_names_the_matrix(tmp_path):
    a, b = pair(tmp_path, "qwen3_moe")
    report = {row.name: row for row in merge(a, b, out=tmp_path / "child", t=0.3).report}
    module = MODULE.format(0)
    assert report[f"{module}.gate_up_proj[1].gate"].rule == "lerp: nearly parallel"
    assert report[f"{module}.gate_up_proj[2].up"].rule == report[f"{module}.down_proj[0]"].rule == "slerp"


def test_the_matrices_that_take_turns_have_one_line_in_the_report(tmp_path):
    a, b = pair(tmp_path, "llama4_text")
    report = {row.name: row for row in merge(a, b, out=tmp_path / "child", t=0.3).report}
    row = report[f"{MODULE.format(0)}.gate_up_proj[2]"]
    of_a, of_b = experts(1), experts(2)
    norms = [np.sqrt(sum(np.sum(m[n][2].astype(float) ** 2) for n in ("gate", "up"))) for m in (of_a, of_b)]
    assert row.rule == "slerp, by box"
    assert list(row.norms.values()) == pytest.approx(norms)


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("budget", [None, "80MB"])
def test_as_much_is_read_as_the_plan_predicts(tmp_path, model_type, budget):
    a, b = pair(tmp_path, model_type)
    plan = plan_merge(a, b, threads=1, memory_budget=budget)
    assert execute(plan, MemorySink(plan)) == plan.nbytes_read


@pytest.mark.parametrize("model_type", LAYOUTS)
def test_matrices_of_several_chunks(tmp_path, model_type, monkeypatch):
    for module in ("chunks", "planning.plan", "planning.amounts", "planning.memory", "engine.executor"):
        monkeypatch.setattr(f"fusion_slerp.{module}.CHUNK_ELEMENTS", 40)
    a, b = pair(tmp_path, model_type, inner=11, hidden=HIDDEN)
    plan = plan_merge(a, b, t=0.3, threads=2)
    assert any(len(tensor.chunks) > 1 for tensor in plan.tensors)
    sink = MemorySink(plan)
    assert execute(plan, sink) == plan.nbytes_read
    made = {name: tensor.numpy() for name, tensor in sink.state_dict().items()}
    layout = LAYOUTS[model_type][-1]
    for layer in range(2):
        one, other = (experts(seed + 10 * layer, inner=11) for seed in (1, 2))
        middle = {
            name: [slerp(0.3, x, y) for x, y in zip(one[name], other[name], strict=True)] for name in one
        }
        for name, tensor in layout(middle, MODULE.format(layer)).items():
            np.testing.assert_allclose(made[name], tensor, rtol=1e-6, err_msg=name)


def test_into_memory_in_whole_tensors(tmp_path):
    a, b = pair(tmp_path, "gpt_oss")
    merged, report = merge_into_memory(a, b, t=0.3)
    stored = load_file(a / "model.safetensors")
    assert {name: tuple(t.shape) for name, t in merged.items()} == {n: t.shape for n, t in stored.items()}
    assert len(report) > len(merged)


def test_files_hold_whole_tensors(tmp_path):
    a, b = pair(tmp_path, "qwen3_moe")
    child = merge(a, b, out=tmp_path / "child", max_shard_size="1KB").out
    index = json.loads((child / "model.safetensors.index.json").read_text())["weight_map"]
    assert sorted(index) == sorted(load_file(a / "model.safetensors"))
    for name, file in index.items():
        assert name in load_file(child / file)
    assert verify(child, recompute="all").ok


@pytest.mark.parametrize("model_type", TYPES)
def test_an_end_is_a_copy_in_the_layout_of_a(tmp_path, model_type):
    layouts = LAYOUTS[model_type]
    a, b = pair(tmp_path, model_type)
    child = child_of(merge(a, b, out=tmp_path / "child", t=1).out)
    for name, tensor in layouts[-1](experts(2), MODULE.format(0)).items():
        np.testing.assert_array_equal(child[name], tensor)


@pytest.mark.parametrize("model_type", TYPES)
def test_t_by_name_and_depth_asks_for_the_stored_tensor(tmp_path, model_type):
    a, b = pair(tmp_path, model_type)
    name = "w1" if model_type == "dbrx" else "gate_up_proj"
    t = [{"filter": name, "value": [0.2, 0.6]}, {"value": 0}]
    plan = plan_merge(a, b, t=t)
    values = {tensor.out.name: tensor.values["t"] for tensor in plan.tensors}
    for tensor, value in values.items():
        is_named = any(part.startswith(name) for part in tensor.split("."))
        assert value == ((0.6 if "layers.1." in tensor else 0.2) if is_named else 0), tensor


@pytest.mark.parametrize("model_type", TYPES)
def test_another_type(tmp_path, model_type):
    a, b = pair(tmp_path, model_type)
    wide = child_of(merge(a, b, out=tmp_path / "wide", t=0.3).out)
    narrow = child_of(merge(a, b, out=tmp_path / "narrow", t=0.3, dtype="float16").out)
    for name, tensor in wide.items():
        assert narrow[name].dtype == np.float16
        np.testing.assert_allclose(narrow[name], tensor, rtol=2**-10, atol=2**-24)


@pytest.mark.parametrize("model_type", TYPES)
def test_three_models_of_different_layouts(tmp_path, model_type):
    one, other = LAYOUTS[model_type][-1], LAYOUTS[model_type][0]
    models = [
        write_experts(tmp_path / str(i), i, model_type, layout) for i, layout in enumerate((one, other, one))
    ]
    child = child_of(merge(*models, out=tmp_path / "child", method="linear").out)
    matrices = [experts(i) for i in range(3)]
    mean = {
        name: [np.mean([m[name][e].astype(float) for m in matrices], axis=0) for e in range(EXPERTS)]
        for name in matrices[0]
    }
    for name, tensor in one(mean, MODULE.format(0)).items():
        np.testing.assert_allclose(child[name], tensor, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("granularity", ["row", "column"])
def test_rows_and_columns_are_those_of_the_tensors_of_one_expert(tmp_path, granularity):
    (separate_a, together_b), (together_a, separate_b) = (
        pair(tmp_path / str(one), "qwen3_moe", one, other) for one, other in ((0, 1), (1, 0))
    )
    options = {"granularity": granularity, "t": 0.3}
    one = child_of(merge(separate_a, together_b, out=tmp_path / "one", **options).out)
    other = child_of(merge(together_a, separate_b, out=tmp_path / "other", **options).out)
    for layer in range(2):
        module = MODULE.format(layer)
        for name, tensor in LAYOUTS["qwen3_moe"][1](matrices_of(one, module), module).items():
            assert tensor.tobytes() == other[name].tobytes()


@pytest.mark.parametrize("model_type", ["llama4_text", "gpt_oss", "dbrx"])
def test_rows_of_transposed_experts_are_refused(tmp_path, model_type):
    a, b = pair(tmp_path, model_type)
    with pytest.raises(FusionSlerpError, match="granularity row where experts are transposed") as caught:
        plan_merge(a, b, granularity="row")
    assert "Fix: use granularity='tensor', or give a model first" in str(caught.value)
    assert plan_merge(b, a, granularity="row")


def test_layers_that_slices_repeat_keep_their_experts(tmp_path):
    a, b = pair(tmp_path, "qwen3_moe")
    slices = [{"a": [0, 2], "b": [0, 2]}, {"a": [1, 2], "b": [1, 2]}]
    child = child_of(merge(a, b, out=tmp_path / "child", slices=slices).out)
    for name in ("gate_up_proj", "down_proj"):
        one, other = (child[f"{MODULE.format(layer)}.{name}"] for layer in (1, 2))
        np.testing.assert_array_equal(one, other)


def test_torch_files_whose_elements_are_stored_in_another_order(tmp_path):
    import torch

    a, b = pair(tmp_path, "qwen3_vl_moe_text", 0, 1)
    plain = child_of(merge(a, b, out=tmp_path / "plain", t=0.3).out)
    tensors = {name: torch.from_numpy(t) for name, t in load_file(b / "model.safetensors").items()}
    turned = {name: t.mT.contiguous().mT if t.ndim == 3 else t for name, t in tensors.items()}
    assert not all(tensor.is_contiguous() for tensor in turned.values())
    (b / "model.safetensors").unlink()
    write_torch_files(b, turned)
    child = child_of(merge(a, b, out=tmp_path / "child", t=0.3).out)
    for name, tensor in plain.items():
        assert tensor.tobytes() == child[name].tobytes()


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["error", "copy"])
def test_layouts_that_are_not_understood(tmp_path, missing):
    """Of a type that nobody knows, the order of gate and up is not known either."""
    a, b = (
        write_experts(tmp_path / name, 1, "surprise", layout)
        for name, layout in zip("ab", LAYOUTS["qwen3_moe"], strict=True)
    )
    for models, original in (((a, b), True), ((b, a), False)):
        with pytest.raises(FusionSlerpError, match="the expert layouts differ") as caught:
            plan_merge(*models, missing=missing)
        text = str(caught.value)
        assert "did you mean" not in text
        assert "a tensor for each expert (model.layers.0.mlp.experts.0.down_proj.weight)" in text
        assert f"save_original_format={original})" in text


def test_models_of_one_unknown_layout_are_merged_tensor_by_tensor(tmp_path):
    a, b = (
        write_experts(tmp_path / name, i, "surprise", LAYOUTS["qwen3_moe"][1]) for i, name in enumerate("ab")
    )
    names = {tensor.out.name for tensor in plan_merge(a, b).tensors}
    assert names == load_file(a / "model.safetensors").keys()


@pytest.mark.parametrize("missing", ["error", "copy"])
def test_an_expert_that_only_one_model_has(tmp_path, missing):
    a, b = pair(tmp_path, "qwen3_moe")
    tensors = load_file(b / "model.safetensors")
    tensors[f"{MODULE.format(1)}.{EXPERTS}.up_proj.weight"] = np.ones((4, 4), np.float32)
    save_file(tensors, b / "model.safetensors")
    with pytest.raises(FusionSlerpError) as caught:
        plan_merge(a, b, missing=missing)
    assert ("the numbers of experts differ" if missing == "copy" else "tensor names differ") in str(
        caught.value
    )


def test_experts_of_one_layer_that_only_one_model_has_are_copied_whole(tmp_path):
    for one, other in (("a", "b"), ("b", "a")):
        models = dict(zip("ab", pair(tmp_path / one, "llama4_text"), strict=True))
        tensors = load_file(models[other] / "model.safetensors")
        kept = {name: tensor for name, tensor in tensors.items() if "layers.1.mlp.experts" not in name}
        save_file(kept, models[other] / "model.safetensors")
        child = child_of(merge(models["a"], models["b"], out=tmp_path / one / "c", missing="copy").out)
        own = load_file(models[one] / "model.safetensors")
        for name in own:
            if "layers.1.mlp.experts" in name:
                np.testing.assert_array_equal(child[name], own[name])


def test_nan_in_an_expert_is_found_where_it_is(tmp_path):
    for model_type in TYPES:
        a, b = pair(tmp_path / model_type, model_type)
        tensors = load_file(a / "model.safetensors")
        name = next(name for name in tensors if "layers.1.mlp.experts" in name and tensors[name].ndim > 1)
        tensors[name].reshape(-1)[-1] = np.nan
        save_file(tensors, a / "model.safetensors")
        with pytest.raises(FusionSlerpError, match="NaN") as caught:
            merge(a, b, out=tmp_path / "child")
        assert f"{name}[{EXPERTS - 1}]" in str(caught.value)
