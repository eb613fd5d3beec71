"""The keys of a config that speak of layers by number, and what the number means.

Source: the configuration classes of transformers, and of models that come with their own code. Lists with a
value a layer need no entry: they are known by their length.
"""

from __future__ import annotations

import re

from fusion_slerp.planning.layer_patterns import EVERY, EVERY_FROM_0, LEADING, TRAILING

COUNTS = (
    "num_hidden_layers",
    "n_layer",
    "num_layers",
    "n_layers",
    "num_blocks",
    "layers",
    "decoder_layers",
    "decoder_num_hidden_layers",
    "num_decoder_layers",
    "encoder_layers",
)
"""Names of the number of layers."""

MTP_COUNTS = ("num_nextn_predict_layers", "num_mtp_layers")
"""Names of the number of layers for multi-token prediction, which are numbered after the others."""

NUMBERS = {
    "first_k_dense_replace": LEADING,
    "num_dense_layers": LEADING,
    "max_window_layers": LEADING,
    "num_hash_layers": LEADING,
    "dense_mlp_idx": LEADING,
    "moe_layer_start_index": LEADING,
    "num_kv_shared_layers": TRAILING,
    "sliding_window_pattern": EVERY,
    "_sliding_window_pattern": EVERY,
    "full_attention_interval": EVERY,
    "interleave_moe_layer_step": EVERY,
    "no_rope_layer_interval": EVERY,
    "decoder_sparse_step": EVERY,
    "moe_layer_interval": EVERY,
    "layer_group_size": EVERY,
    "moe_layer_freq": EVERY_FROM_0,
}
"""Keys with a number, and its form; see `layer_patterns`."""

LAST_INDEX = ("moe_layer_end_index",)
"""Keys with the index of the last layer of a kind."""

PERIODS = {
    "attn_layer_period": "attn_layer_offset",
    "expert_layer_period": "expert_layer_offset",
    "index_topk_freq": "index_skip_topk_offset",
    "global_attn_every_n_layers": "",
}
"""Keys with a period whose first layer is stated by another key, or differs between model types."""

INDICES = (
    "mlp_only_layers",
    "attn_layer_indices",
    "full_attn_idxs",
    "cross_attention_layers",
    "hybrid_layer_ids",
    "local_layer_ids",
    "moe_layers",
    "moe_layers_enum",
    "rope_scaling_layers",
)
"""Keys with a list of layers, or with a string of their numbers."""

INDICES_FROM_1 = ("kda_layers", "full_attn_layers", "ple_layer_ids")
"""Keys with a list of layers that are counted from 1."""

CYCLES = ("block_types", "_block_types")
"""Keys with a list that repeats over the layers."""

SOURCES = ("kv_source_layers",)
"""Keys with a list of the layer from which each layer takes something."""

RUNS = ("attention_types",)
"""Keys with pairs of a list and how often it repeats."""

BOUND = (
    "hidden_size_per_layer_input",
    "n_layers_per_attn_res_block",
    "cross_layer_interval",
    "aligner_num_add_layers",
    "scale_attn_by_inverse_layer_idx",
)
"""Keys that, if not 0 or false, bind each layer to its index: a tensor outside has a part for each layer,
other layers stand between them, or the index is a factor.
"""

BY_ROOT_OF_COUNT = ("scale_depth",)
"""Keys with a number that is divided by the square root of the number of layers."""

WINDOWS = ("max_window_layers",)
"""Keys without effect unless the config has `use_sliding_window`."""

ALIKE = re.compile(r"layers?(_|$)|block|idx|indices|index")
"""Names of lists that may be of layers' indices."""

PERIOD_ALIKE = re.compile(r"(?=.*layer)(?=.*(every|interval|period|freq|step|offset))")
"""Names of numbers that may be a period over layers."""

OF_OTHERS = re.compile(r"^(mtp_|visi|visual|image|audio|video|speech|encoder_)|token|out_indices|feature|aux")
"""Names of keys about something else than the layers of the language model."""

NOT_LISTS = frozenset(
    "architectures time_step_limit mrope_section bad_words_ids keys_to_ignore_at_inference languages".split()
)
"""Lists without a value a layer, whatever their length."""
