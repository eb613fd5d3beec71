"""Makes the smallest configuration of an architecture: every size by the name of its field, at every level.

A field without a rule keeps its default. What the rules get wrong for an architecture is in `exceptions.py`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import count
from typing import Any

LAYERS = 4
"""Of the language model: enough for patterns of layers. Other parts have two."""

WIDTH, HEADS, HEAD_WIDTH = 16, 2, 8
UNK, BOS, EOS, PAD = range(4)
FIXED_TOKENS = {"unk_token_id": UNK, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
TOKEN = re.compile(
    r".*token_(id|index)|(image|im|video|audio|frame|slice)_(\w+_)?(id|index)|\w+_image_start_token_id"
)

VOCABULARY = 61
"""Rows of embedding and head: a prime, so that no other size of a model is the same by accident."""

LAYER_COUNT = re.compile(
    r"(num_)?(hidden_|decoder_|encoder_|text_)?layers|n_layers?|depth|num_blocks|num_global_layers"
)
VOCABULARY_SIZE = re.compile(r"(decoder_)?vocab_size(_per_layer_input)?")

SIZES: tuple[tuple[str, int], ...] = (
    (r"in_channels|num_channels|out_channels", 3),
    (r"audio_channels", 1),
    (r"base_channels", 32),  # normalised in 32 groups
    (r"encoder_hash_byte_group_vocab", 47),
    (r"conf_num_hidden_layers|resampler_depth|aligner_num_add_layers", 2),
    (r"(swa_|linear_|index_|indexer_|mamba_)?(num|n)_(attention_|query_|mamba_)?heads?", HEADS),
    (r"(num_)?(encoder|decoder|conf_num)_attention_heads|attention_heads|resampler_(n_)?heads", HEADS),
    (r"linear_num_(key|value)_heads", HEADS),
    (r"(num_|swa_num_)(key_value|kv)_heads|indexer_kv_heads", 1),
    (
        r".*intermediate_size(_mlp)?|.*ffn_dim|d_ff|dff|dim_ff|mlp_dim|n_inner|d_inner|(expert_)?ffn_hidden_size",
        24,
    ),
    (
        r"((attention|mamba|swa|linear|linear_key|linear_value|index|indexer|resampler)_)?head_(dim|size)",
        HEAD_WIDTH,
    ),
    (r"d_kv|d_head|dim_head|resampler_dim_head|v_head_dim|kv_channels", HEAD_WIDTH),
    (r"qk_(nope|rope)_head_dim", 4),
    (r"(moe_num|num|num_local|n_routed)_experts|zero_expert_num", 4),
    (r"num_experts_per_tok|moe_topk?|moe_k|top_k_experts", 2),
    (r"n_groups?|topk_group|mamba_n_?groups", 1),
    (r"(num|n|moe_num)_shared_experts", 1),
    (r"first_k_dense_replace|num_dense_layers", 1),
    (r".*_rank|hc_lowrank", 8),
    (
        r".*hidden_sizes?(_global)?|(hidden|embedding|input_embedding|output_embedding)_size|[dn]_(model|embd)",
        WIDTH,
    ),
    (r"(emb|embed|embedding|projection|adapter_in|adapter_out|output|lru|router_hidden)_?(dim|width)", WIDTH),
    (r".*(_dim|_hidden_dim|_embed_dim|_channels|_channel|output_proj_dims)", WIDTH),
    (r"image_size|img_size|crop_size|resolution", 16),
    (r"patch_size", 4),
    (r"max_(\w+_)?position_embeddings|n_positions|max_(source|target)_positions", 64),
    (r"n_ctx|max_seq_len|context_length", 64),
    (r"(mamba_)?(d_)?state(_size)?|ssm_state_size", 4),
    (r"(mamba_)?chunk_size|block_size|.*chunk_length", 8),
)
"""The size of a field whose whole name matches; the first match counts. Fields without a number stay."""

_SIZES = tuple((re.compile(pattern), size) for pattern, size in SIZES)
_OTHER_PARTS = re.compile(r".*(vision|audio|vq|vit|sam|image|speech|dit|protein).*|encoder|backbone_config")

Changes = Mapping[str, Mapping[str, Any]]
"""Values of single fields, by the model type of their configuration."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the smallest configuration has.

    Attributes:
        changes: Values that the rules do not give.
        vocabulary: Number of tokens.
        tokens: Ids for the special tokens of its kind: images, videos, their starts and ends.
    """

    changes: Changes
    vocabulary: int = VOCABULARY
    tokens: Iterator[int] = field(default_factory=lambda: count(4))


def shrunk(config_class: Any, shape: Shape, layers: int = LAYERS) -> dict[str, Any]:
    """Returns the keyword arguments that make a configuration as small as it goes."""
    nested = nested_classes(config_class)
    content: dict[str, Any] = {}
    for name, kind in nested.items():
        inside = shrunk(kind, shape, 2 if _OTHER_PARTS.fullmatch(name) else layers)
        content[name] = {"model_type": kind.model_type, **inside}
    for each in fields(config_class):
        if each.name not in nested:
            content |= _value(each.name, each.default, shape, layers)
    for name, value in shape.changes.get(config_class.model_type, {}).items():
        content[name] = content[name] | value if name in nested and isinstance(value, Mapping) else value
    return content


def nested_classes(config_class: Any) -> dict[str, Any]:
    """Returns the classes of the configurations inside one, by field."""
    from transformers import PreTrainedConfig

    found = {}
    for name, spec in getattr(config_class, "sub_configs_defaults", {}).items():
        if isinstance(spec, type):
            found[name] = spec
        elif issubclass(spec.config_class, PreTrainedConfig):
            found[name] = spec.config_class
        else:
            found[name] = spec.get_config_class(spec.model_type)
    return found


def _value(name: str, default: object, shape: Shape, layers: int) -> dict[str, Any]:
    if name in FIXED_TOKENS:
        return {name: FIXED_TOKENS[name]}
    if isinstance(default, bool) or not isinstance(default, int):
        return {}
    if TOKEN.fullmatch(name):
        return {name: next(shape.tokens)}
    if VOCABULARY_SIZE.fullmatch(name):
        return {name: shape.vocabulary}
    if LAYER_COUNT.fullmatch(name):
        return {name: layers}
    return next(({name: size} for pattern, size in _SIZES if pattern.fullmatch(name)), {})
