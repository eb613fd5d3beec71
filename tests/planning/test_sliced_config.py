"""A config for some of the model's layers, as transformers reads it."""

import pytest

from fusion_slerp.planning.layer_values import Layers
from fusion_slerp.planning.sliced_config import sliced_config

FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"


def config_for(order, n, **config):
    changed, unfit = sliced_config({"num_hidden_layers": n, **config}, Layers(tuple(order), n))
    return changed, [".".join(each.path) for each in unfit]


def test_all_layers_in_their_order_change_nothing():
    config = {"num_hidden_layers": 4, "global_attn_every_n_layers": 3}
    assert sliced_config(config, Layers((0, 1, 2, 3), 4)) == (config, [])


@pytest.mark.parametrize(
    ("model_type", "order", "types"),
    [
        ("gemma2", (0, 1, 3), [SLIDING, FULL, FULL]),
        ("gemma3_text", (0, 1, 5), [SLIDING, SLIDING, FULL]),
        ("qwen3_next", (3, 0), [FULL, LINEAR]),
        ("cwm", (1, 0), [SLIDING, FULL]),
    ],
)
def test_a_list_that_the_class_would_fill_otherwise_is_written(model_type, order, types):
    config, unfit = config_for(order, 6, model_type=model_type)
    assert unfit == []
    assert config["layer_types"] == types


@pytest.mark.parametrize("model_type", ["gemma2", "gemma3_text", "qwen2", "llama"])
def test_nothing_is_written_where_the_class_fills_the_same(model_type):
    assert config_for(range(4), 6, model_type=model_type)[0] == {
        "num_hidden_layers": 4,
        "model_type": model_type,
    }


def test_a_number_that_cannot_follow_makes_way_for_the_list_that_it_fills():
    config, unfit = config_for(
        (2, 0, 5), 6, model_type="afmoe", global_attn_every_n_layers=3, num_dense_layers=0
    )
    assert unfit == []
    assert config["layer_types"] == [FULL, SLIDING, FULL]
    assert "global_attn_every_n_layers" not in config


def test_the_window_of_qwen2_matters_only_if_it_is_on():
    order, keys = (0, 5, 1), {"model_type": "qwen2", "max_window_layers": 2}
    config, unfit = config_for(order, 6, use_sliding_window=False, **keys)
    assert (unfit, "layer_types" in config) == ([], False)
    config, unfit = config_for(order, 6, use_sliding_window=True, **keys)
    assert config["layer_types"] == [FULL, SLIDING, FULL]


def test_defaults_of_the_class_count():
    config, unfit = config_for((0, 3, 4, 5), 6, model_type="deepseek_v3")
    assert (config["first_k_dense_replace"], unfit) == (1, [])
    _, unfit = config_for((3, 0), 6, model_type="deepseek_v3")
    assert unfit == ["first_k_dense_replace"]
    config, unfit = config_for(range(4, 12), 16, model_type="jamba")
    assert (config["attn_layer_offset"], "attn_layer_period" in config, unfit) == (0, False, [])


def test_lists_of_indices_that_the_class_fills():
    config, _ = config_for((0, 3), 4, model_type="llama4_text", interleave_moe_layer_step=2)
    assert config["interleave_moe_layer_step"] == 2
    config, _ = config_for((1, 0, 3), 4, model_type="llama4_text", interleave_moe_layer_step=2)
    assert config["moe_layers"] == [0, 2]
    assert config["no_rope_layer_interval"] == 3


def test_a_last_layer_that_transformers_replaces():
    _, unfit = config_for((0, 1), 6, model_type="gemma4_text", hidden_size_per_layer_input=0)
    assert unfit == ["layer_types"]
    _, unfit = config_for((0, 5), 6, model_type="gemma4_text", hidden_size_per_layer_input=0)
    assert unfit == []


def test_a_language_model_within_another():
    inner = {"model_type": "gemma3_text", "num_hidden_layers": 6, "layer_types": [SLIDING] * 5 + [FULL]}
    vision = {"num_hidden_layers": 6, "layer_types": ["x"] * 6}
    config = {"model_type": "gemma3", "text_config": inner, "vision_config": vision, "num_hidden_layers": 6}
    changed, unfit = sliced_config(config, Layers((0, 5), 6))
    assert changed["text_config"]["layer_types"] == [SLIDING, FULL]
    assert changed["text_config"]["num_hidden_layers"] == changed["num_hidden_layers"] == 2
    assert changed["vision_config"] == vision
    assert unfit == []


def test_a_part_without_a_type_has_that_of_its_model():
    changed, _ = sliced_config({"model_type": "gemma3", "text_config": {}}, Layers((0, 5), 6))
    assert changed["text_config"] == {"num_hidden_layers": 2, "layer_types": [SLIDING, FULL]}


def test_keys_of_inner_objects_are_named_with_their_path():
    config = {
        "attn_config": {"layer_ids": [1, 3], "attn_layer_period": 3},
        "rope_scaling": {"short_factor": [1] * 4},
    }
    changed, unfit = config_for((1, 3), 4, **config)
    assert changed["attn_config"]["layer_ids"] == [0, 1]
    assert changed["rope_scaling"] == config["rope_scaling"]
    assert unfit == ["attn_config.attn_layer_period"]


def test_what_the_user_states_need_not_follow():
    config = {"num_hidden_layers": 4, "attn_layer_period": 3}
    assert sliced_config(config, Layers((1, 3), 4), {("attn_layer_period",)})[1] == []
