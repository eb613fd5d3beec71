"""Tensors that stay float32 in a model of 16 bits, as transformers says."""

from fusion_slerp.planning.float32_tensors import float32_pattern

BIAS = "model.layers.3.mlp.gate.e_score_correction_bias"


def stays_float32(config, name, dtype):
    pattern = float32_pattern(config, dtype)
    return pattern is not None and pattern.search(name) is not None


def test_a_routing_bias_stays_float32():
    assert stays_float32({"model_type": "glm4_moe"}, BIAS, "bfloat16")
    assert stays_float32({"model_type": "glm4_moe"}, BIAS, "float16")
    assert not stays_float32({"model_type": "glm4_moe"}, "model.layers.3.mlp.up_proj.weight", "bfloat16")


def test_no_pattern_where_the_model_keeps_nothing_in_float32():
    assert float32_pattern({"model_type": "llama"}, "bfloat16") is None
    assert float32_pattern({"model_type": ["glm4_moe"]}, "bfloat16") is None
    assert float32_pattern({"model_type": "glm4_moe"}, "float32") is None


def test_some_stay_float32_in_float16_only():
    norm = "model.layers.0.input_layernorm.weight"
    assert stays_float32({"model_type": "gpt_oss"}, norm, "float16")
    assert not stays_float32({"model_type": "gpt_oss"}, norm, "bfloat16")


def test_a_nested_language_model_counts():
    config = {"model_type": "llava", "text_config": {"model_type": "deepseek_v3"}}
    assert stays_float32(config, f"language_model.{BIAS}", "bfloat16")
