"""The table of expert layouts, against the transformers that is installed."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from fusion_slerp.tensor_names.experts import (
    FAMILIES,
    INTERLEAVED,
    PROJECTIONS,
    ROWS,
    TRANSPOSED,
    family_of,
    of_one_expert,
    renamed,
)
from fusion_slerp.tensor_names.layouts import Fused

NOT_LANGUAGE_MODELS = {"dots3_note_vision_encoder"}
"""Model types of other parts, whose experts are copied or merged as they are stored."""

_GATE_UP = re.compile(r"self\.gate_up_proj = nn\.Parameter\(\s*torch\.\w+\(\(?(.*?)\)", re.DOTALL)


def expert_modules() -> dict[str, str]:
    """The shapes of `gate_up_proj` in the source of each architecture of transformers, as written there."""
    import transformers

    texts = {
        file.parent.name: file.read_text()
        for file in sorted((Path(transformers.__file__).parent / "models").glob("*/modeling_*.py"))
    }
    return {name: match[1] for name, text in texts.items() if (match := _GATE_UP.search(text))}


def model_types(folder: str) -> set[str]:
    """The model types of an architecture's configurations."""
    module = import_module(f"transformers.models.{folder}.configuration_{folder}")
    return {
        each.model_type
        for each in vars(module).values()
        if isinstance(getattr(each, "model_type", None), str)
    }


@pytest.mark.long
def test_every_architecture_with_experts_of_transformers_is_in_the_table():
    found = expert_modules()
    assert len(found) > 50
    for folder, written in found.items():
        layouts = {FAMILIES[name].layouts[0][:4] for name in model_types(folder) if name in FAMILIES}
        is_transposed = written.rstrip().endswith(("intermediate_dim", "intermediate_size", "expert_dim"))
        right = {TRANSPOSED, INTERLEAVED} if is_transposed else {ROWS[:4]}
        assert layouts, folder
        assert layouts <= right, folder


def test_gate_and_up_alternate_only_in_gpt_oss():
    import transformers

    models = Path(transformers.__file__).parent / "models"
    for name, family in FAMILIES.items():
        files = list(models.glob(f"{name.removesuffix('_text')}/modeling_*.py"))
        alternate = any("gate_up[..., ::2]" in file.read_text() for file in files)
        assert alternate == (INTERLEAVED in family.layouts), name


def test_every_conversion_of_experts_is_understood():
    from transformers.conversion_mapping import _build_checkpoint_conversion_mapping

    for model_type, steps in _build_checkpoint_conversion_mapping().items():
        for step in steps:
            names = [type(each).__name__ for each in getattr(step, "operations", ())]
            if names[:1] != ["MergeModulelist"] or model_type in NOT_LANGUAGE_MODELS:
                continue
            if model_type == model_type.lower() and model_type not in {"kimi_k25"}:
                assert model_type in FAMILIES, model_type
            stored = [pattern.split(".")[-2] for pattern in step.source_patterns]
            is_gate_up = "gate_up_proj" in step.target_patterns[0]
            wanted = ["gate_proj", "up_proj"] if is_gate_up else [step.target_patterns[0].split(".")[-1]]
            assert [PROJECTIONS[name] for name in stored] == wanted, model_type


@pytest.mark.parametrize(
    ("name", "usual"),
    [
        ("model.layers.3.mlp.experts.17.gate_proj.weight", "model.layers.3.mlp.experts.17.gate_proj.weight"),
        (
            "layers.3.block_sparse_moe.experts.7.w1.weight",
            "layers.3.block_sparse_moe.experts.7.gate_proj.weight",
        ),
        ("layers.3.experts.7.w2.weight", "layers.3.experts.7.down_proj.weight"),
        ("layers.3.experts.7.w3.bias", "layers.3.experts.7.up_proj.bias"),
        ("model.layers.3.mlp.shared_experts.up_proj.weight", None),
        ("model.layers.3.mlp.gate.weight", None),
        ("model.layers.3.mlp.experts.gate_up_proj", None),
        ("model.layers.3.mlp.experts.7.w1.weight_scale_inv", None),
        (f"experts.{'9' * 5000}.w1.weight", None),
    ],
)
def test_tensors_of_one_expert(name, usual):
    assert of_one_expert(name) == usual


@pytest.mark.parametrize(
    ("model_type", "old", "new"),
    [
        ("mixtral", "model.layers.0.block_sparse_moe.gate.weight", "model.layers.0.mlp.gate.weight"),
        ("phimoe", "model.layers.0.block_sparse_moe.gate.weight", "model.layers.0.mlp.router.weight"),
        (
            "granitemoe",
            "model.layers.0.block_sparse_moe.input_linear.weight",
            "model.layers.0.block_sparse_moe.experts.gate_up_proj",
        ),
        (
            "granitemoeshared",
            "layers.0.shared_mlp.input_linear.weight",
            "layers.0.shared_mlp.input_linear.weight",
        ),
        ("step3p5", "layers.4.moe.up_proj.weight", "layers.4.mlp.experts.up_proj"),
        ("axk1", "layers.4.mlp.post_mlp_layernorm.weight", "layers.4.mlp.post_mlp_layernorm.weight"),
    ],
)
def test_names_of_older_files(model_type, old, new):
    renames = FAMILIES[model_type].renames
    assert renamed(old, renames) == new
    assert renamed(new, renames) == new


def test_the_family_is_that_of_any_level_of_the_config():
    family = family_of({"model_type": "nobody's", "text_config": {"model_type": "gpt_oss"}})
    assert family is not None
    assert family.layouts == (INTERLEAVED,)
    assert family_of({"model_type": "llama"}) is family_of({"text_config": 3}) is family_of({}) is None


GATE_UP = ("gate_proj", "up_proj")


@pytest.mark.parametrize(
    ("axes", "shape", "known", "sizes"),
    [
        ("e (p i) h", (3, 8, 5), {}, {"e": 3, "i": 4, "h": 5, "p": 2}),
        ("e h (i p)", (3, 5, 8), {"h": 5}, {"e": 3, "i": 4, "h": 5, "p": 2}),
        ("e (p i)", (3, 8), {"i": 4}, {"e": 3, "i": 4, "p": 2}),
        ("(e i) h", (12, 5), {"e": 3}, {"e": 3, "i": 4, "h": 5, "p": 2}),
        ("(e i) h", (12, 5), {}, None),
        ("(e i) h", (13, 5), {"e": 3}, None),
        ("e (p i) h", (3, 7, 5), {}, None),
        ("e (p i) h", (3, 8, 5), {"h": 4}, None),
        ("e (p i) h", (3, 8, 5), {"i": 8}, None),
        ("e (p i) h", (3, 8, 0), {}, None),
        ("e (p i) h", (3, 8), {}, None),
    ],
)
def test_sizes_of_axes(axes, shape, known, sizes):
    assert Fused("experts", "gate_up_proj", GATE_UP, axes).sizes(shape, known) == sizes


def test_of_two_layouts_of_the_same_names_the_shapes_decide():
    family = FAMILIES["qwen3_vl_moe_text"]
    ends = ".experts.gate_up_proj", ".experts.down_proj"
    for shapes, axes in (
        (((4, 12, 6), (4, 6, 6)), "e (p i) h"),
        (((4, 6, 6), (4, 6, 3)), "e (p i) h"),
        (((4, 6, 6), (4, 3, 6)), "e h (p i)"),
        (((4, 6, 12), (4, 6, 6)), "e h (p i)"),
    ):
        layout = family.layout_of(dict(zip(ends, shapes, strict=True)), {})
        assert layout[ends[0]][0].axes == axes
    assert family.layout_of(dict(zip(ends, ((4, 6, 7), (4, 6, 6)), strict=True)), {}) == {}
