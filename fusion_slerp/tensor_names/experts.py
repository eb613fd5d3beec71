"""How the tensors of experts are named and laid out, by family of models.

A checkpoint stores a tensor for each matrix of each expert, or one for the same matrix of all experts: often
with gate and up together, one after the other or alternating, and sometimes transposed.

Source: the modules of experts in transformers 5.23 (`modeling_*.py`), and its `conversion_mapping.py`, which
renames and converts the tensors of older files. The tests compare with the transformers that is installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from fusion_slerp.tensor_names.layouts import Fused, Sizes

Layout = tuple[Fused, ...]
"""The tensors of all experts that a module may have."""

Renames = tuple[tuple[str, str], ...]
"""Regular expressions and replacements that turn the names of older files into the present ones, in order."""

EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Names of the number of experts in configs."""


class Family(NamedTuple):
    """The layouts that models of some types are saved in, besides one tensor for each matrix.

    Attributes:
        layouts: The layouts.
        renames: Names of older files.
    """

    layouts: tuple[Layout, ...]
    renames: Renames = ()

    @property
    def ends(self) -> tuple[str, ...]:
        """The ends of the names of tensors of all experts."""
        return tuple(dict.fromkeys(fused.end for layout in self.layouts for fused in layout))

    def known(self, config: Mapping[str, Any]) -> Sizes:
        """Returns the lengths of axes that shapes alone do not tell."""
        if not any("(e" in fused.axes for layout in self.layouts for fused in layout):
            return {}
        counts = _values(config, EXPERT_COUNTS)
        return {"e": counts[0]} if counts else {}

    def layout_of(
        self, shapes: Mapping[str, tuple[int, ...]], known: Sizes
    ) -> dict[str, tuple[Fused, Sizes]]:
        """Returns the layout of one module's tensors, by the ends of their names; empty if none fits them.

        Args:
            shapes: Their shapes, by the ends of their names.
            known: Lengths of axes that are known.
        """
        for layout in self.layouts:
            fitting = _fitting({fused.end: fused for fused in layout}, shapes, known)
            if fitting:
                return fitting
        return {}


def _fitting(
    layout: Mapping[str, Fused], shapes: Mapping[str, tuple[int, ...]], known: Sizes
) -> dict[str, tuple[Fused, Sizes]]:
    """The layout of all tensors, if it fits them with the same inner and hidden elements in all."""
    fitting = {}
    common = dict(known)
    for end, shape in shapes.items():
        fused = layout.get(end)
        sizes = None if fused is None else fused.sizes(shape, common)
        if fused is None or sizes is None:
            return {}
        fitting[end] = fused, sizes
        common |= {axis: size for axis, size in sizes.items() if axis in "ih"}
    return fitting


def _values(config: Mapping[str, Any], keys: Iterable[str]) -> list[int]:
    """The counts under these keys at any level of a config."""
    found = [config[key] for key in keys if type(config.get(key)) is int and config[key] > 0]
    for value in config.values():
        if isinstance(value, Mapping):
            found += _values(value, keys)
    return found


GATE_UP, DOWN = ("gate_proj", "up_proj"), ("down_proj",)


def _layout(gate_up: str, down: str, gate_up_bias: str = "e (p i)", module: str = "experts") -> Layout:
    """The layout whose tensors have the names that transformers has given them since release 5."""
    return (
        Fused("experts", "gate_up_proj", GATE_UP, gate_up),
        Fused("experts", "down_proj", DOWN, down),
        Fused("experts", "gate_up_proj_bias", GATE_UP, gate_up_bias),
        Fused("experts", "down_proj_bias", DOWN, "e h"),
    )


ROWS = (
    *_layout("e (p i) h", "e h i"),
    Fused("experts", "gate_proj", ("gate_proj",), "e i h"),
    Fused("experts", "up_proj", ("up_proj",), "e i h"),
)
"""Each expert's matrices as tensors of one expert have them, one below the other: what most families have."""

TRANSPOSED = _layout("e h (p i)", "e i h")
INTERLEAVED = _layout("e h (i p)", "e i h", "e (i p)")
W13 = (
    Fused("experts", "w13_weight", GATE_UP, "e (i p) h"),
    Fused("experts", "w2_weight", DOWN, "e h i"),
)
FLAT = tuple(
    Fused("experts", f"mlp.{rest}", (part,), "(e i) h")
    for rest, part in (("w1", "gate_proj"), ("v1", "up_proj"), ("w2", "down_proj"))
)
"""Of DBRX: all experts in one matrix."""

GRANITE = (
    *ROWS,
    Fused("block_sparse_moe", "input_linear.weight", GATE_UP, "e (p i) h"),
    Fused("block_sparse_moe", "output_linear.weight", DOWN, "e h i"),
)
ARIA = (
    *TRANSPOSED,
    Fused("experts", "fc1.weight", GATE_UP, "e h (p i)"),
    Fused("experts", "fc2.weight", DOWN, "e i h"),
)
STEP = (
    *ROWS,
    Fused("moe", "gate_proj.weight", ("gate_proj",), "e i h"),
    Fused("moe", "up_proj.weight", ("up_proj",), "e i h"),
    Fused("moe", "down_proj.weight", DOWN, "e h i"),
)
"""The last three: the present names, then those of older files."""

LINEARS = (
    Fused("mlp", "input_linear.weight", GATE_UP, "e (p i) h"),
    Fused("mlp", "output_linear.weight", DOWN, "e h i"),
    Fused("experts", "input_linear.weight", ("input_linear",), "e i h"),
    Fused("experts", "output_linear.weight", ("output_linear",), "e h i"),
)
"""Of JetMoE, whose attention has experts as well."""

_BLOCKS = (r"\.block_sparse_moe\.", ".mlp.")
_FORGET_GATE = (r"self_attn\.(f_\w*proj\.|dt_bias|A_log)", r"self_attn.forget_gate.\1")
_CORRECTION = "mlp.gate.e_score_correction_bias"

_RENAMES: Mapping[str, Renames] = {
    "mixtral minimax minimax_m2": (_BLOCKS,),
    "phimoe": (_BLOCKS, (r"\.gate\.weight$", ".router.weight")),
    "kimi_linear": (_BLOCKS, _FORGET_GATE),
    "granitemoe granitemoeshared granitemoehybrid": (
        (r"block_sparse_moe\.input_linear\.weight$", "block_sparse_moe.experts.gate_up_proj"),
        (r"block_sparse_moe\.output_linear\.weight$", "block_sparse_moe.experts.down_proj"),
        (r"block_sparse_moe\.router\.layer\.weight$", "block_sparse_moe.router.weight"),
    ),
    "nemotron_h": ((r"^backbone\.", "model."),),
    "exaone_moe": ((r"mlp\.e_score_correction_bias", _CORRECTION),),
    "ernie4_5_moe": ((r"mlp\.moe_statics\.", "mlp.gate.moe_statics."),),
    "axk1": ((r"(?<!mlp\.)post_mlp_layernorm", "mlp.post_mlp_layernorm"),),
    "axk2": (
        (r"W_down", "mlp.fc1"),
        (r"W_up", "mlp.fc2"),
        (r"self_attn\.q_b_proj\.", "self_attn.q_gate_proj."),
    ),
    "mimo_v2_flash": ((r"self_attn\.attention_sink_bias", "self_attn.sinks"),),
    "flint": ((r"self_attn\.softmax_offset", "self_attn.sinks"),),
    "hy_v3": (
        (r"mlp\.router\.gate\.weight", "mlp.gate.weight"),
        (r"mlp\.expert_bias", "mlp.e_score_correction_bias"),
        (r"mlp\.shared_mlp\.", "mlp.shared_experts."),
    ),
    "hy_v4": (
        (r"\.hc_pre\.hc_", ".hc_"),
        (r"\.learnable_sink_param", ".sinks"),
        (r"\.linear_gate", ".gate_proj"),
        (r"\.hc_attn_layer\.hc_", ".attn_hc."),
        (r"\.hc_mlp_layer\.hc_", ".ffn_hc."),
        (r"\.hc_head_(fn|base|scale)", r".hc_\1"),
    ),
    "laguna": (
        (r"mlp\.experts\.e_score_correction_bias", _CORRECTION),
        (r"mlp\.shared_expert\.", "mlp.shared_experts."),
    ),
    "kolibri1": (
        (r"moe\.router\.expert_bias", _CORRECTION),
        (r"post_attn_norm", "post_self_attn_layernorm"),
        (r"post_ffn_norm", "post_mlp_layernorm"),
    ),
    "aria aria_text": (
        (r"mlp\.experts\.fc1\.weight$", "mlp.experts.gate_up_proj"),
        (r"mlp\.experts\.fc2\.weight$", "mlp.experts.down_proj"),
    ),
    "step3p5 step3p7": (
        (r"\.moe\.gate\.weight$", ".mlp.gate.weight"),
        (r"\.moe\.router_bias$", ".mlp.gate.e_score_correction_bias"),
        (r"\.moe\.(gate|up|down)_proj\.weight$", r".mlp.experts.\1_proj"),
        (r"\.share_expert\.", ".mlp.shared_experts."),
    ),
    "minimax_m3_vl minimax_m3_vl_text": (
        (r"\.block_sparse_moe\.e_score_correction_bias", ".mlp.gate.e_score_correction_bias"),
        _BLOCKS,
        (r"self_attn\.index_(\w+)\.", r"self_attn.indexer.\1."),
    ),
}
"""By model types."""

_LAYOUTS: Mapping[str, tuple[Layout, ...]] = {
    "afmoe axk1 axk2 bailing_hybrid beam cohere2_moe deepseek_ocr2 deepseek_ocr2_text deepseek_v2 "
    "deepseek_v3 deepseek_v32 deepseek_v4 diffusion_gemma diffusion_gemma_text dots1 dots3_note "
    "dots3_note_text ernie4_5_moe ernie4_5_vl_moe ernie4_5_vl_moe_text exaone_moe flex_olmo flint "
    "gemma4 gemma4_text glm4_moe glm4_moe_lite glm4v_moe glm4v_moe_text glm5_next glm5_next_text "
    "glm_moe_dsa granitemoe_swa hunyuan_v1_moe hy_v3 hy_v4 jamba kimi_linear kolibri1 laguna lfm2_moe "
    "longcat_flash mellum mimo_v2_flash minimax minimax_m2 minimax_m3_vl minimax_m3_vl_text mistral4 "
    "mistral_large4 mistral_large4_text mixtral muse_spark muse_spark_text nemotron_h olmoe phimoe "
    "qwen2_moe qwen3_5_moe qwen3_5_moe_text qwen3_moe qwen3_next qwen3_omni_moe qwen3_omni_moe_talker "
    "qwen3_omni_moe_talker_text qwen3_omni_moe_text qwen3_omni_moe_thinker qwen4_exp qwen4_exp_text "
    "solar_open unlimited_ocr unlimited_ocr_text zaya": (ROWS,),
    "granitemoe granitemoehybrid granitemoeshared": (GRANITE,),
    "step3p5 step3p7": (STEP,),
    "llama4 llama4_text openai_privacy_filter": (TRANSPOSED,),
    "aria aria_text": (ARIA,),
    "gpt_oss": (INTERLEAVED,),
    "qwen3_vl_moe qwen3_vl_moe_text": (ROWS, TRANSPOSED),
    "inkling_mm_model inkling_text inkling2 inkling2_text": (ROWS, W13),
    "dbrx": (FLAT,),
    "jetmoe": (LINEARS,),
}
"""By model types."""


def _by_type() -> Mapping[str, Family]:
    renames = {name: each for names, each in _RENAMES.items() for name in names.split()}
    return {
        name: Family(layouts, renames.get(name, ()))
        for names, layouts in _LAYOUTS.items()
        for name in names.split()
    }


FAMILIES: Mapping[str, Family] = _by_type()
"""By model type: of a model, or of its language part."""


def family_of(config: Mapping[str, Any]) -> Family | None:
    """Returns the family of a model, by the model types at all levels of its config; None if it has none."""
    families = [FAMILIES[name] for name in _model_types(config) if name in FAMILIES]
    if not families:
        return None
    layouts = dict.fromkeys(layout for family in families for layout in family.layouts)
    renames = dict.fromkeys(rename for family in families for rename in family.renames)
    return Family(tuple(layouts), tuple(renames))


def _model_types(config: Mapping[str, Any]) -> Iterable[str]:
    if isinstance(config.get("model_type"), str):
        yield config["model_type"]
    for value in config.values():
        if isinstance(value, Mapping):
            yield from _model_types(value)


PROJECTIONS: Mapping[str, str] = {
    "gate_proj": "gate_proj",
    "up_proj": "up_proj",
    "down_proj": "down_proj",
    "w1": "gate_proj",
    "w3": "up_proj",
    "w2": "down_proj",
}
"""The matrices of an expert, as the modules of one expert name them."""

_OF_ONE = re.compile(r"(?:^|\.)experts\.(\d{1,9})\.(\w+)\.(weight|bias)$")


def of_one_expert(name: str) -> str | None:
    """Returns the name of a tensor of one expert with the usual name of its matrix; None if it is none."""
    match = _OF_ONE.search(name)
    if match is None or match[2] not in PROJECTIONS:
        return None
    return f"{name[: match.start(2)]}{PROJECTIONS[match[2]]}.{match[3]}"


def renamed(name: str, renames: Renames) -> str:
    """Returns the present name of an older file's tensor."""
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name, count=1)
    return name
