"""Sizes that the rules of `shrinking.py` do not give, by the model type of the configuration."""

from tests.architectures.shrinking import HEAD_WIDTH, HEADS, LAYERS, WIDTH, Changes

MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
"""Positions in three dimensions: the sections add up to half a head's width."""

ALTERNATING = ["mamba", "hybrid", "mamba", "hybrid"]

ALL_SHARED = {"num_kv_shared_layers": LAYERS}

IMAGE_WORDS = {"<image>": 4, **{f"IMGIMG{letter}Z": 5 + i for i, letter in enumerate("ABCDEFGH")}}
"""Tokens of the text vocabulary that stand for those of images."""

WITHOUT_DEFAULT: Changes = {
    "deepseek_ocr2_text": {
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "n_shared_experts": 1},
    "diffusion_gemma_text": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 24},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "granite4_vision": {"deepstack_layer_map": [[0, 1], [1, 2]], "downsample_rate": "2/4"},
    "hunyuan_v1_dense": {"head_dim": HEAD_WIDTH},
    "hunyuan_v1_moe": {"head_dim": HEAD_WIDTH},
    "ministral": {"head_dim": HEAD_WIDTH},
    "nemotron": {"head_dim": HEAD_WIDTH, "num_key_value_heads": 1},
    "qwen4_exp_text": {
        "indexer_n_heads": HEADS,
        "indexer_kv_heads": 1,
        "indexer_head_dim": HEAD_WIDTH,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
    },
    "reformer": {"is_decoder": True, "num_buckets": 2},
    "step3p5": {"sliding_window": 8},
    "xmod": {"default_language": "en_XX"},
}
"""Fields whose default is None, or that the class asks for."""

ONE_FOR_EACH_LAYER: Changes = {
    "bailing_hybrid": {"layer_group_size": 2},
    "bamba": {"attn_layer_indices": [1, 3]},
    "dots3_note_vision_encoder": {"mlp_layer_types": ["dense", "sparse"]},
    "florence_vision": {
        "depths": [1, 1],
        "patch_size": [3, 3],
        "patch_stride": [2, 2],
        "patch_padding": [1, 1],
        "patch_prenorm": [False, True],
        "embed_dim": [WIDTH, WIDTH],
        "num_heads": [HEADS, HEADS],
        "num_groups": [2, 2],
    },
    "gemma3n_text": {"num_kv_shared_layers": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"]},
    "molmo2_adapter": {"vision_feature_layer": [-1, -2]},
    "muse_spark_audio": {"patch_sizes": [2, 2], "hidden_sizes": [WIDTH, WIDTH], "depths": [1, 1]},
    "reformer": {"attn_layers": ["local", "lsh", "local", "lsh"]},
    "zamba": {"layers_block_type": ALTERNATING},
    "zamba2": {"layers_block_type": ALTERNATING},
}
"""Lists and patterns of layers; each kind of layer occurs."""

IN_AGREEMENT: Changes = {
    "axk2": {"num_key_value_heads": HEADS},
    "chameleon": {"vocabulary_map": IMAGE_WORDS},
    "codegen": {"n_head": 4, "n_embd": 32, "rotary_dim": 4},
    "cohere_compass_text": {"rope_parameters": {"full_attention": MROPE}},
    "cosmos3_edge_text": {"rope_parameters": MROPE},
    "dbrx": {
        "attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 24},
    },
    "deepseek_v32": {"num_key_value_heads": HEADS},
    "dots3_note_audio_encoder": {"adapter_input_size": WIDTH, "feature_size": 16},
    "dots3_note_text": {
        "num_key_value_heads": HEADS,
        "head_dim": HEAD_WIDTH,
        "swa_num_attention_heads": HEADS,
        "swa_num_key_value_heads": HEADS,
        "swa_q_lora_rank": 8,
        "swa_kv_lora_rank": 8,
        "swa_head_dim": HEAD_WIDTH,
        "swa_qk_nope_head_dim": 4,
        "swa_v_head_dim": HEAD_WIDTH,
    },
    "emu3": {"vocabulary_map": IMAGE_WORDS},
    "ernie4_5_vl_moe_text": {"rope_parameters": MROPE | {"mrope_section": [1, 1, 2]}},
    "gemma4_assistant": {
        "text_config": {**ALL_SHARED, "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
    },
    "gemma4_unified_assistant": {"text_config": ALL_SHARED},
    "glm4v_moe_text": {"rope_parameters": MROPE | {"partial_rotary_factor": 1.0}},
    "glm4v_text": {"rope_parameters": MROPE},
    "glm5_next_text": {"num_key_value_heads": HEADS, "qk_rope_head_dim": 0},
    "glm_moe_dsa": {"num_key_value_heads": HEADS},
    "glm_ocr_text": {"rope_parameters": MROPE},
    "gptj": {"rotary_dim": 4},
    "granite4_vision": {"vision_config": {"hidden_size": 64}},
    "hunyuan_vl_text": {"head_dim": HEAD_WIDTH, "rope_parameters": MROPE},
    "longcat_flash": {"head_dim": 4},
    "mamba2": {"num_heads": 4},
    "mistral_large4_text": {"num_key_value_heads": HEADS},
    "nemotron_h_omni": {"vision_config": {"video_temporal_patch_size": 2}, "audio_config": None},
    "paddleocr_vl_text": {"rope_parameters": MROPE},
    "qwen2_5_omni_text": {"rope_parameters": MROPE},
    "qwen2_5_vl_text": {"rope_parameters": MROPE},
    "qwen2_vl_text": {"rope_parameters": MROPE},
    "reformer": {"axial_pos_embds_dim": [4, 12], "axial_pos_shape": [8, 8]},
    "zaya": {"num_experts_per_tok": 1},
}
"""Sizes that have to agree with one another, or that the class limits."""

LARGE: Changes = {
    "deepseek_ocr2_sam_vision_model": {"downsample_channels": [WIDTH, WIDTH]},
    "emu3_vqgan": {"codebook_size": 16},
    "hunyuan_vl_vision": {"max_image_size": 64, "img_max_token_num": 64},
    "inkling_vision": {"patch_size": 8},
    "janus_vqgan": {"num_embeddings": 16},
    "reformer": {"feed_forward_size": 24},
    "unlimited_ocr_sam_vision_model": {"downsample_channels": [WIDTH, WIDTH]},
}
"""What makes a model large under a name without a rule."""

OTHER_VOCABULARIES: Changes = {
    "blip_2_qformer": {"vocab_size": 47},
    "cpmant": {"prompt_types": 4, "prompt_length": 2},
    "instructblip_qformer": {"vocab_size": 47},
    "instructblipvideo_qformer": {"vocab_size": 47},
    "molmo2_text": {"additional_vocab_size": 8},
    "ovis2_vision": {"vocab_size": 47},
}
"""Rows that belong to other tokens than those of the text: another prime, or a few after the text's."""


def exceptions() -> Changes:
    """Returns all of them together."""
    found: dict[str, dict[str, object]] = {}
    for changes in (WITHOUT_DEFAULT, ONE_FOR_EACH_LAYER, IN_AGREEMENT, LARGE, OTHER_VOCABULARIES):
        for model_type, values in changes.items():
            found.setdefault(model_type, {}).update(values)
    return found
