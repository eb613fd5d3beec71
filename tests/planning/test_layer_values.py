"""A key's value for some layers: here layers 0, 3, 4 and 5 of 6."""

import pytest

from fusion_slerp.planning.layer_values import Layers, UnfitError, shifted_period, value_for

LAYERS = Layers((0, 3, 4, 5), 6)
TYPES = ["sliding", "full", "sliding", "sliding", "sliding", "full"]


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("num_hidden_layers", 6, 4),
        ("n_layer", 6, 4),
        ("num_layers", 12, 12),  # of something else
        ("layer_types", TYPES, ["sliding", "sliding", "sliding", "full"]),
        ("no_rope_layers", [1, 1, 1, 0, 1, 1], [1, 0, 1, 1]),
        ("intermediate_size", [1, 2, 3, 4, 5, 6], [1, 4, 5, 6]),
        ("block_configs", [{"i": i} for i in range(6)], [{"i": 0}, {"i": 3}, {"i": 4}, {"i": 5}]),
        ("mlp_only_layers", [3], [1]),
        ("mlp_only_layers", [], []),
        ("attn_layer_indices", [1, 3, 5], [1, 3]),
        ("some_layer_idx", [2, 4], [2]),
        ("some_sizes", [2, 4], [2, 4]),
        ("kda_layers", [1, 2, 4], [1, 2]),
        ("moe_layers_enum", "3,4,5", "1,2,3"),
        ("kv_source_layers", [0, 1, 2, 3, 3, 5], [0, 1, 1, 3]),
        ("hybrid_override_pattern", "M-*M-*", "MM-*"),
        ("hybrid_override_pattern", "M-*", "M-*"),
        ("block_types", ["r", "r", "a"], ["r", "r", "r", "a"]),
        ("attention_types", [[["global", "local"], 3]], [[["global", "local", "global", "local"], 1]]),
        ("per_layer_config", {"00": {"x": 1}, "04": {"x": 2}}, {"0": {"x": 1}, "2": {"x": 2}}),
        ("first_k_dense_replace", 2, 1),
        ("first_k_dense_replace", 0, 0),
        ("max_window_layers", 28, 28),
        ("moe_layer_end_index", 4, 2),
        ("moe_layer_end_index", -1, -1),
        ("sliding_window_pattern", 6, 4),
        ("decoder_sparse_step", 2, 2),
        ("decoder_sparse_step", 1, 1),
        ("eos_token_id", [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]),
        ("architectures", ["a"] * 6, ["a"] * 6),
        ("vision_layer_indices", [1, 3], [1, 3]),
        ("mtp_layer_types", TYPES, TYPES),
        ("rope_theta", 10000.0, 10000.0),
    ],
    ids=str,
)
def test_value_for_the_layers(key, value, wanted):
    assert value_for(key, value, LAYERS) == wanted


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("first_k_dense_replace", 4),  # layer 3 is dense, 4 is not: 2 would do for other slices
        ("attn_layer_period", 3),
        ("global_attn_every_n_layers", 3),
        ("some_layer_interval", 3),
        ("no_rope_layer_interval", 2),
        ("num_kv_shared_layers", 2),
        ("kv_source_layers", [0, 0, 0, 0, 4, 2]),
        ("hidden_size_per_layer_input", 4),
    ],
)
def test_no_value_for_other_layers(key, value):
    layers = Layers((0, 4, 3, 5), 6)
    with pytest.raises(UnfitError):
        value_for(key, value, layers)


def test_layers_that_keep_a_period_keep_its_number():
    layers = Layers((0, 1, 2, 3, 0, 1, 2, 3), 8)
    for key in ("attn_layer_period", "global_attn_every_n_layers", "no_rope_layer_interval"):
        assert value_for(key, 4, layers) == 4
    assert value_for("num_kv_shared_layers", 2, Layers((0, 1, 6, 7), 8)) == 2
    assert value_for("num_kv_shared_layers", 2, Layers((0, 1), 8)) == 0


def test_lists_keep_what_comes_after_the_layers():
    layers = Layers((0, 2), 3, n_more=1)
    assert value_for("layer_types", ["a", "b", "c", "next"], layers) == ["a", "c", "next"]
    assert value_for("compress_ratios", [1, 2, 3, 4], layers) == [1, 3, 4]
    assert value_for("per_layer_config", {"3": {"x": 1}}, layers) == {"2": {"x": 1}}


@pytest.mark.parametrize(
    ("order", "wanted"),
    [((0, 1, 2, 3), (4, 3)), ((3, 0, 1, 2), (4, 0)), ((4, 5, 6, 7), (4, 3)), ((2, 3, 6, 7), (2, 1))],
)
def test_period_and_offset(order, wanted):
    assert shifted_period(4, 3, Layers(order, 8)) == wanted


def test_no_period_means_layers_that_are_not_evenly_spaced():
    with pytest.raises(UnfitError):
        shifted_period(2, 0, Layers((0, 2, 3), 4))
