"""The generated tables are those that the installed transformers gives, and say what it does."""

from __future__ import annotations

import json
import random
import re
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.tables.written import FOLDER

RELEASE = "5.23.0"
"""That of transformers from which the tables are made."""

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(version("transformers") != RELEASE, reason=f"the tables are those of {RELEASE}"),
    pytest.mark.filterwarnings("ignore"),
]


def committed(name: str) -> str:
    return "".join((FOLDER / f"{name}.py").read_text(encoding="utf-8").split())


def made(text: str) -> str:
    """A module's text without white space: the formatter breaks lines, and adds commas before brackets."""
    return "".join(text.split())


def without_commas(text: str) -> str:
    return text.replace(",)", ")").replace(",}", "}").replace(",]", "]")


def test_tensors_in_float32():
    from tests.tables.float32_tensors import text

    assert without_commas(committed("float32_tensors")) == without_commas(made(text()))


def test_heads_that_are_tied_by_default():
    from tests.tables.tied_embeddings import text

    assert without_commas(committed("tied_in_transformers_5")) == without_commas(made(text()))


def test_lists_with_a_value_a_layer():
    from tests.tables.layer_lists import defaults_text, text

    assert without_commas(committed("layer_lists")) == without_commas(made(text()))
    assert without_commas(committed("layer_defaults")) == without_commas(made(defaults_text()))


NUMBERS = (
    "first_k_dense_replace num_dense_layers sliding_window_pattern full_attention_interval layer_group_size "
    "interleave_moe_layer_step no_rope_layer_interval decoder_sparse_step global_attn_every_n_layers "
    "attn_layer_period expert_layer_period moe_layer_interval num_kv_shared_layers max_window_layers"
).split()
INDICES = ("moe_layers", "full_attn_idxs", "rope_scaling_layers")


def test_each_layer_of_a_sliced_config_keeps_its_kind():
    """For every type of language model: transformers reads the kinds of the layers that were chosen."""
    from fusion_slerp.planning.layer_values import Layers
    from fusion_slerp.planning.sliced_config import sliced_config
    from tests.tables.layer_lists import COUNT, language_configs, layer_lists, made_config

    rng, n_read, wrong = random.Random(0), 0, []
    for model_type, cls in language_configs().items():
        for _ in range(12):
            given = {COUNT: rng.choice([6, 8, 13])} | {
                key: rng.randint(1, 3) for key in NUMBERS if hasattr(cls, key) and rng.random() < 0.4
            }
            config = made_config(cls, given)
            lists = {key: [*getattr(config, key)] for key in layer_lists(cls) if config}
            given |= {key: lists[key] for key in lists if rng.random() < 0.2}
            order = chosen(rng, given[COUNT])
            config, unfit = sliced_config({"model_type": model_type, **given}, Layers(order, given[COUNT]))
            if unfit or not lists:
                continue
            child = made_config(
                cls, {k: v for k, v in json.loads(json.dumps(config)).items() if k != "model_type"}
            )
            n_read += 1
            for key, values in lists.items():
                got = getattr(child, key, None)
                if got is not None and list(got) != wanted(key, values, order):
                    wrong.append((model_type, key, given, order, list(got)))
    assert n_read > 300
    assert wrong == []


def chosen(rng: random.Random, n: int) -> tuple[int, ...]:
    """Some layers, some of them perhaps twice."""
    end = rng.randint(2, n)
    return (*range(end), *range(rng.randint(0, end), n)) if rng.random() < 0.5 else (*range(n - end, n),)


def wanted(key: str, values: list, order: tuple[int, ...]) -> list:
    if key in INDICES:
        return [new for new, old in enumerate(order) if old in values]
    if key == "kv_source_layers":
        return list(range(len(order)))
    return [values[i] for i in order]


NOT_OF_LAYERS = frozenset(
    """
    _remove_final_layer_norm adapter_layer_norm adapter_reuse_layer_norm altup_active_idx
    block_auto_adjust_ff_dim block_ff_dim block_ffn_dim_multiplier block_multiple_of block_per_row
    block_repeats
    block_size block_sizes do_layer_norm_before emb_layer_norm_before enable_moe_block freeze_text_layers
    freeze_vision_layers global_block_size index_block_size index_local_blocks index_topk_blocks
    initial_prior_diagonal_n_blocks initial_prior_first_n_blocks layer_norm_elementwise_affine layer_norm_eps
    layer_norm_epsilon num_adapter_layers num_encoder_layers num_layers_per_stack num_mem_blocks
    num_random_blocks num_self_attends_per_block num_sparse_decoder_layers num_sparse_encoder_layers
    prefix_dense_sliding_window_pattern prompt_types qk_layer_norms resblock_dilation_sizes
    resblock_kernel_sizes rescale_every rope_local_base_freq segment_types stagger_local_blocks
    t2u_decoder_layers t2u_encoder_layers time_step_floor time_step_init_scheme time_step_limit time_step_max
    time_step_min time_step_rank time_step_scale use_weighted_layer_sum vocab_size_per_layer_input
    vocoder_offset
    """.split()
)
"""Keys of language models whose names look as if they spoke of layers by number, or of models that slices do
not take.
"""

OF_LISTS = frozenset(
    "attn_layers hybrid_override_pattern index_topk_pattern layer_types layers_block_type mlp_layer_types "
    "per_layer_config".split()
)
"""Keys of lists, patterns and mappings that are known by their length."""


def test_every_key_that_may_speak_of_layers_is_known():
    """A new one belongs into `planning.layer_keys`, or into the list above."""
    from fusion_slerp.planning import layer_keys as keys
    from tests.tables.layer_lists import SPEAKING, candidates, language_configs, layer_lists

    named = re.compile(
        r"layers?(_|$)|idx|indices|interval|period|pattern|every|_step|replace|_freq|nextn|block|hybrid|offset|types"
    )
    known = {*keys.COUNTS, *keys.MTP_COUNTS, *SPEAKING, *keys.INDICES, *keys.INDICES_FROM_1, *keys.CYCLES}
    known |= {*keys.SOURCES, *keys.RUNS, *OF_LISTS, *NOT_OF_LAYERS}
    unknown = {
        name
        for cls in language_configs().values()
        for name in candidates(cls)
        if named.search(name) and not keys.OF_OTHERS.search(name) and name not in layer_lists(cls)
    }
    assert unknown - known == set()


def test_tables_are_named_by_their_release():
    assert {file.name for file in Path(FOLDER).glob("[a-z]*.py")} == {
        "float32_tensors.py",
        "layer_defaults.py",
        "layer_lists.py",
        "tied_in_transformers_4.py",
        "tied_in_transformers_5.py",
    }
    texts = [file.read_text(encoding="utf-8") for file in FOLDER.glob("[a-z]*.py")]
    assert all(f"transformers {RELEASE}" in text or "transformers 4.57.6" in text for text in texts)
