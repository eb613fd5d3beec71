"""Lists with a value a layer, as transformers fills them if a config lacks them.

Made by `python -m tests.tables.layer_lists` from transformers 5.23.0.
"""

from __future__ import annotations

from fusion_slerp.planning.layer_patterns import Pattern

FULL = "full_attention"
SLIDING = "sliding_attention"
LINEAR = "linear_attention"
INDEXED = "indexed_attention"
CHUNKED = "chunked_attention"
HYBRID_SLIDING = "hybrid_sliding"

LISTS: tuple[tuple[str, Pattern, str], ...] = (
    ("activation_sparsity_pattern", Pattern(), "gemma3n_text"),
    (
        "indexer_types",
        Pattern(
            cycle=("full",),
            others={"index_topk_pattern": None, "index_topk_freq": 1, "linear_attn_config": None},
        ),
        "glm5_next_text",
    ),
    (
        "indexer_types",
        Pattern(cycle=("full",), others={"index_topk_pattern": None, "index_topk_freq": 1}),
        "glm_moe_dsa",
    ),
    (
        "indexer_types",
        Pattern(
            cycle=("full",),
            others={"no_rope_layer_interval": 4, "index_topk_pattern": None, "index_topk_freq": 1},
        ),
        "mistral_large4_text",
    ),
    ("indexer_types", Pattern(start=("full",), cycle=("full",) + 3 * ("shared",)), "hy_v4"),
    (
        "kv_source_layers",
        Pattern(
            cycle=(True,), others={"no_rope_layer_interval": 4, "index_topk_pattern": None}, indices=True
        ),
        "mistral_large4_text",
    ),
    ("layer_rope_theta", Pattern(), "muse_glimmer_text muse_spark_text"),
    ("layer_types", Pattern(cycle=(FULL, LINEAR)), "minimax"),
    (
        "layer_types",
        Pattern(
            cycle=(FULL, SLIDING, SLIDING),
            key="global_attn_every_n_layers",
            form="every from 0",
            kinds=(FULL, SLIDING),
        ),
        "modernbert modernbert-decoder",
    ),
    ("layer_types", Pattern(cycle=(FULL,) + 3 * (SLIDING,)), "cwm granite_swa granitemoe_swa"),
    (
        "layer_types",
        Pattern(cycle=(FULL,) + 3 * (SLIDING,), from_end=True),
        "muse_glimmer_text muse_spark_text",
    ),
    (
        "layer_types",
        Pattern(cycle=(FULL,), key="max_window_layers", form="window", kinds=(SLIDING, FULL), default=28),
        "qwen2 qwen2_5_omni_text qwen3",
    ),
    (
        "layer_types",
        Pattern(cycle=(FULL,), key="max_window_layers", form="window", kinds=(SLIDING, FULL), default=80),
        "qwen2_5_vl_text qwen2_vl_text",
    ),
    ("layer_types", Pattern(cycle=(FULL,), of_list="full_attn_idxs"), "lfm2"),
    (
        "layer_types",
        Pattern(
            cycle=(FULL,),
            others={
                "moe_layers_enum": None,
                "attention_other_setting": None,
                "sparse_attention_config": None,
            },
        ),
        "step3p5",
    ),
    (
        "layer_types",
        Pattern(cycle=(FULL,), others={"sparse_attention_config": None, "moe_layer_freq": None}),
        "minimax_m3_vl_text",
    ),
    ("layer_types", Pattern(cycle=(FULL,), others={"use_sliding_window": False}), "qwen2_moe"),
    ("layer_types", Pattern(cycle=(INDEXED,), others={"index_topk_pattern": None}), "glm_moe_dsa"),
    ("layer_types", Pattern(cycle=(INDEXED,), others={"moe_layer_freq": 1}), "axk2"),
    (
        "layer_types",
        Pattern(cycle=(INDEXED,), others={"no_rope_layer_interval": 4, "index_topk_pattern": None}),
        "mistral_large4_text",
    ),
    ("layer_types", Pattern(cycle=(SLIDING, FULL)), "gemma2 gpt_oss t5_gemma_module vaultgemma"),
    ("layer_types", Pattern(cycle=(SLIDING, SLIDING, FULL), others={"attention_windows": None}), "ultrabert"),
    (
        "layer_types",
        Pattern(
            cycle=3 * (CHUNKED,) + (FULL,),
            key="no_rope_layer_interval",
            form="every",
            kinds=(FULL, CHUNKED),
            of_list="no_rope_layers",
        ),
        "llama4_text",
    ),
    (
        "layer_types",
        Pattern(
            cycle=3 * (LINEAR,) + (FULL,), key="full_attention_interval", form="every", kinds=(FULL, LINEAR)
        ),
        "qwen3_5_moe_text qwen3_5_text qwen3_next",
    ),
    ("layer_types", Pattern(cycle=3 * (LINEAR,) + (FULL,), needs_all=True), "olmo_hybrid"),
    (
        "layer_types",
        Pattern(
            cycle=3 * (LINEAR,) + (INDEXED,),
            key="full_attention_interval",
            form="every",
            kinds=(INDEXED, LINEAR),
        ),
        "qwen4_exp_text",
    ),
    (
        "layer_types",
        Pattern(
            cycle=3 * (LINEAR,) + (INDEXED,), others={"index_topk_pattern": None, "linear_attn_config": None}
        ),
        "glm5_next_text",
    ),
    ("layer_types", Pattern(cycle=3 * (SLIDING,) + (FULL,)), "olmo3"),
    (
        "layer_types",
        Pattern(
            cycle=3 * (SLIDING,) + (FULL,),
            key="global_attn_every_n_layers",
            form="every",
            kinds=(FULL, SLIDING),
        ),
        "afmoe",
    ),
    (
        "layer_types",
        Pattern(
            cycle=3 * (SLIDING,) + (FULL,), key="sliding_window_pattern", form="every", kinds=(FULL, SLIDING)
        ),
        "cohere2 exaone4 exaone_moe",
    ),
    (
        "layer_types",
        Pattern(
            cycle=3 * (SLIDING,) + (FULL,),
            key="sliding_window_pattern",
            form="every",
            kinds=(FULL, SLIDING),
            others={"first_k_dense_replace": 0},
        ),
        "cohere2_moe",
    ),
    ("layer_types", Pattern(cycle=4 * (SLIDING,) + (FULL,)), "gemma3n_text kolibri1"),
    ("layer_types", Pattern(cycle=5 * (HYBRID_SLIDING,) + ("hybrid",)), "inkling2_text inkling_text"),
    (
        "layer_types",
        Pattern(cycle=5 * (LINEAR,) + (FULL,), key="layer_group_size", form="every", kinds=(FULL, LINEAR)),
        "bailing_hybrid",
    ),
    (
        "layer_types",
        Pattern(
            cycle=5 * (SLIDING,) + (FULL,), key="sliding_window_pattern", form="every", kinds=(FULL, SLIDING)
        ),
        "gemma3_text t5gemma2_decoder",
    ),
    ("layer_types", Pattern(cycle=5 * (SLIDING,) + (FULL,), last=FULL), "beam"),
    (
        "layer_types",
        Pattern(cycle=5 * (SLIDING,) + (FULL,), last=FULL, last_stays=True),
        "diffusion_gemma_text gemma4_text gemma4_unified_text",
    ),
    ("layer_types", Pattern(cycle=5 * (SLIDING,) + (FULL,), last=FULL, needs_all=True), "neomme"),
    (
        "layer_types",
        Pattern(
            key="max_window_layers",
            form="leading",
            kinds=(FULL, SLIDING),
            default=62,
            others={"sliding_window": 4096},
        ),
        "dots1",
    ),
    ("layer_types", Pattern(start=("conv",), cycle=("conv", FULL, "conv", SLIDING)), "lfm3"),
    (
        "layer_types",
        Pattern(
            start=("heavily_compressed_attention", "heavily_compressed_attention"),
            cycle=("heavily_compressed_attention", "compressed_sparse_attention"),
            others={"compress_ratios": None},
        ),
        "deepseek_v4",
    ),
    ("layer_types", Pattern(start=(FULL,), cycle=(FULL,) + 3 * (SLIDING,), last=FULL), "flint"),
    ("layer_types", Pattern(start=(FULL,), cycle=4 * (SLIDING,) + (FULL,) + (SLIDING,)), "mimo_v2_flash"),
    (
        "layer_types",
        Pattern(start=(INDEXED,), cycle=(INDEXED,) + 3 * (SLIDING,), others={"moe_layer_freq": 1}),
        "dots3_note_text",
    ),
    (
        "layer_types",
        Pattern(start=(LINEAR,), cycle=3 * (LINEAR,) + (FULL,), others={"linear_attn_config": None}),
        "kimi_linear",
    ),
    (
        "layers_block_type",
        Pattern(
            start=(LINEAR, LINEAR, "hybrid"),
            cycle=4 * (LINEAR,) + ("hybrid",) + (LINEAR,),
            others={"attn_layer_period": 6, "attn_layer_offset": 4},
        ),
        "zamba",
    ),
    (
        "mlp_layer_types",
        Pattern(cycle=("sparse",), key="dense_mlp_idx", form="leading", kinds=("dense", "sparse")),
        "inkling_text",
    ),
    (
        "mlp_layer_types",
        Pattern(cycle=("sparse",), key="first_k_dense_replace", form="leading", kinds=("dense", "sparse")),
        "cohere2_moe",
    ),
    (
        "mlp_layer_types",
        Pattern(cycle=("sparse",), others={"sparse_attention_config": None, "moe_layer_freq": None}),
        "minimax_m3_vl_text",
    ),
    (
        "mlp_layer_types",
        Pattern(
            start=("dense", "dense"),
            cycle=("sparse",),
            key="first_k_dense_replace",
            form="leading",
            kinds=("dense", "sparse"),
        ),
        "bailing_hybrid",
    ),
    (
        "mlp_layer_types",
        Pattern(start=("dense",), cycle=("sparse",)),
        "ernie4_5_vl_moe_text glm4_moe_lite hy_v3 hy_v4 laguna mimo_v2_flash",
    ),
    (
        "mlp_layer_types",
        Pattern(
            start=("dense",),
            cycle=("sparse",),
            key="first_k_dense_replace",
            form="leading",
            kinds=("dense", "sparse"),
        ),
        "exaone_moe unlimited_ocr_text",
    ),
    (
        "mlp_layer_types",
        Pattern(
            start=("dense",),
            cycle=("sparse",),
            key="first_k_dense_replace",
            form="leading",
            kinds=("dense", "sparse"),
            others={"linear_attn_config": None},
        ),
        "kimi_linear",
    ),
    (
        "mlp_layer_types",
        Pattern(
            start=("dense",),
            cycle=("sparse",),
            key="first_k_dense_replace",
            form="leading",
            kinds=("dense", "sparse"),
            others={"moe_layer_freq": 1},
        ),
        "axk1 axk2 dots3_note_text",
    ),
    (
        "mlp_layer_types",
        Pattern(
            start=("dense",),
            cycle=("sparse",),
            key="first_k_dense_replace",
            form="leading",
            kinds=("dense", "sparse"),
            others={"no_rope_layer_interval": 4, "index_topk_pattern": None},
        ),
        "mistral_large4_text",
    ),
    ("mlp_layer_types", Pattern(start=3 * ("dense",), cycle=("sparse",)), "beam"),
    (
        "mlp_layer_types",
        Pattern(
            start=3 * ("dense",),
            cycle=("sparse",),
            key="first_k_dense_replace",
            form="leading",
            kinds=("dense", "sparse"),
        ),
        "deepseek_v32",
    ),
    (
        "mlp_layer_types",
        Pattern(
            start=3 * ("dense",),
            cycle=("sparse",),
            key="first_k_dense_replace",
            form="leading",
            kinds=("dense", "sparse"),
            others={"index_topk_pattern": None},
        ),
        "glm_moe_dsa",
    ),
    (
        "mlp_layer_types",
        Pattern(
            start=3 * ("dense",),
            cycle=("sparse",),
            others={"index_topk_pattern": None, "linear_attn_config": None},
        ),
        "glm5_next_text",
    ),
    (
        "mlp_layer_types",
        Pattern(
            start=3 * ("dense",),
            cycle=("sparse",),
            others={
                "moe_layers_enum": None,
                "attention_other_setting": None,
                "sparse_attention_config": None,
            },
        ),
        "step3p5",
    ),
    (
        "mlp_layer_types",
        Pattern(
            start=3 * ("hash_moe",),
            cycle=("moe",),
            key="num_hash_layers",
            form="leading",
            kinds=("hash_moe", "moe"),
            others={"compress_ratios": None},
        ),
        "deepseek_v4",
    ),
    (
        "moe_layers",
        Pattern(cycle=(True,), key="interleave_moe_layer_step", form="every", indices=True),
        "llama4_text",
    ),
    (
        "no_rope_layers",
        Pattern(cycle=3 * (1,) + (0,), key="no_rope_layer_interval", form="every", kinds=(0, 1)),
        "llama4_text smollm3",
    ),
    (
        "no_rope_layers",
        Pattern(
            cycle=3 * (1,) + (0,),
            key="no_rope_layer_interval",
            form="every",
            kinds=(0, 1),
            others={"index_topk_pattern": None},
        ),
        "mistral_large4_text",
    ),
)
"""Keys, how the list is filled, and the types of language models that fill it like this."""
