"""Whether models can be merged: their configs, and the shapes and types of their tensors."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from fusion_slerp.dtypes import EXACT_COPY_CODES
from fusion_slerp.errors import SHOWN_NAME, CheckpointError, MismatchError, Problem, listed, printable
from fusion_slerp.planning.matching import Match
from fusion_slerp.planning.view import View
from fusion_slerp.sources.folder import CONFIG
from fusion_slerp.sources.source import Source
from fusion_slerp.vocabulary.special_tokens import is_id_key, mean_the_same
from fusion_slerp.vocabulary.tokens import Vocabulary

Labelled = tuple[str, Source]
Pairs = Sequence[tuple[Labelled, Labelled]]
"""Matching tensors of two models, each with its model's label."""

MUST_AGREE = frozenset(
    "model_type hidden_size n_embd d_model num_hidden_layers n_layer num_layers intermediate_size "
    "n_inner num_attention_heads n_head num_heads num_key_value_heads head_dim num_experts "
    "num_local_experts n_routed_experts num_experts_per_tok position_embedding_type "
    "partial_rotary_factor".split()
)
"""Config keys that change the meaning of a tensor of the same shape."""

MAY_DIFFER = frozenset(
    "_name_or_path transformers_version torch_dtype dtype use_cache architectures auto_map "
    "bos_token_id eos_token_id pad_token_id unk_token_id max_length _attn_implementation "
    "attention_dropout hidden_dropout resid_pdrop embd_pdrop attn_pdrop initializer_range "
    "gradient_checkpointing pretraining_tp output_router_logits router_aux_loss_coef "
    "router_jitter_noise task_specific_params id2label label2id vocab_size is_decoder "
    "use_return_dict torchscript unsloth_version unsloth_fixed tie_word_embeddings "
    "transformers_weights".split()
)
"""Config keys that do not affect a weight's meaning (vocab_size shows in the shapes, tying in the names)."""

ABSENT_IS_OFF = frozenset({"rope_type", "factor", "sliding_window"})
"""Config keys whose absence is a value: no scaling, no window."""

MAX_PREFIX = 200
"""Characters of a nested key; deeper values are compared as a whole: each key repeats those above it."""

SHOWN_KEYS = 100
"""Differing keys shown of each kind; two models of one family have a handful."""


def compare_configs(views: Mapping[str, View]) -> tuple[list[Problem], list[str]]:
    """Compares each model with the first; returns the problems that rule out a merge, and the warnings.

    Ids of tokens are left to `compare_ids`.
    """
    first, *others = views.values()
    flat = _flattened(first.config)
    problems, warnings = [], []
    for other in others:
        grave, soft = _compared(flat, flattened := _flattened(other.config))
        problems += [_other_meaning((first, flat), (other, flattened), key) for key in grave[:SHOWN_KEYS]]
        warnings += [_differ((first, flat), (other, flattened), key) for key in soft[:SHOWN_KEYS]]
        if len(soft) > SHOWN_KEYS:
            warnings.append(f"the configs differ in {len(soft) - SHOWN_KEYS} more keys")
    return problems, warnings


def compare_ids(views: Mapping[str, View], vocabularies: Mapping[str, Vocabulary]) -> list[str]:
    """Returns warnings about ids in the configs that stand for other tokens than in the first model's.

    Args:
        views: The models by label.
        vocabularies: Their tokens, by label; empty if no model's are known.
    """
    (label, first), *others = views.items()
    flat, known = _flattened(first.config), vocabularies.get(label, {})
    warnings = []
    for other_label, other in others:
        flattened, tokens = _flattened(other.config), vocabularies.get(other_label, {})
        for key in sorted(flat.keys() & flattened.keys()):
            name = key.rpartition(".")[2]
            one, two = flat[key], flattened[key]
            if (one == two and known is tokens) or name in MAY_DIFFER or not is_id_key(name):
                continue
            if not mean_the_same(name, (one, known), (two, tokens)):
                warnings.append(_differ((first, flat), (other, flattened), key))
    return warnings[:SHOWN_KEYS]


def _compared(first: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The differing keys that change a tensor's meaning, and those that may change a weight's."""
    grave, soft = [], []
    for key in sorted(first.keys() | other.keys()):
        name = key.rpartition(".")[2]
        values = first.get(key), other.get(key)
        if values[0] == values[1] or name in MAY_DIFFER or is_id_key(name):
            continue
        if None in values and name not in ABSENT_IS_OFF:
            continue  # written by another release, which states more or fewer defaults
        (grave if name in MUST_AGREE else soft).append(key)
    return grave, soft


def _flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The config with nested keys joined by dots, and the rope settings of all transformers in one form."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and len(prefix) + len(key) <= MAX_PREFIX:
            flat.update(_flattened(value, f"{prefix}{key}."))
        elif value is not None:
            flat[f"{prefix}{key}"] = value
    for scaling in ("rope_parameters", "rope_scaling"):
        if not isinstance(config.get(scaling), Mapping):
            continue
        for key in [key for key in flat if key.startswith(f"{prefix}{scaling}.")]:
            plain = prefix + key.removeprefix(f"{prefix}{scaling}.")
            flat.setdefault("rope_type" if plain == "type" else plain, flat.pop(key))
    if flat.get(f"{prefix}rope_type") == "default":
        del flat[f"{prefix}rope_type"]
    return flat


Configured = tuple[View, Mapping[str, Any]]
"""A model and its config, flattened."""


def _differ(first: Configured, other: Configured, key: str) -> str:
    values = ", ".join(f"{_shown(flat.get(key))} ({view.label})" for view, flat in (first, other))
    return f"the configs differ in {printable(key, SHOWN_NAME)}: {values}"


def _shown(value: object) -> str:
    return printable(repr(value), SHOWN_NAME)


def _other_meaning(first: Configured, other: Configured, key: str) -> Problem:
    fields = (
        ("key", printable(key, SHOWN_NAME)),
        *((v.label, f"{_shown(flat.get(key))} in {v.folder / CONFIG}") for v, flat in (first, other)),
    )
    fix = "merge models of one architecture and size, fine-tuned from the same base model"
    return Problem(MismatchError, f"the models differ in {printable(key, SHOWN_NAME)}", fields, fix)


def compare_tensors(
    views: Mapping[str, View], matches: Sequence[Match], following: Container[str]
) -> list[Problem]:
    """Returns the problems with shapes and types of matching tensors.

    Args:
        views: The models by label.
        matches: Their tensors.
        following: The names of those with a row for each token, whose numbers of rows may differ.
    """
    unmergeable = [(view, names) for view in views.values() if (names := _unmergeable_names(view))]
    problems = [_unmergeable(view, names) for view, names in unmergeable]
    reshaped, retyped = [], []
    for match in matches:
        (label, first), *others = match.of.items()
        for other_label, other in others:
            both = (label, first), (other_label, other)
            if first.shape != other.shape and not (
                match.name in following and _only_rows_differ(first, other)
            ):
                reshaped.append(both)
            if first.dtype != other.dtype and not (first.dtype.is_mergeable and other.dtype.is_mergeable):
                retyped.append(both)
    if reshaped:
        problems.append(_shapes_differ(reshaped))
    if retyped:
        problems.append(_dtypes_differ(retyped))
    return problems


def _unmergeable_names(view: View) -> list[str]:
    return [
        f"{name} ({source.dtype.code})"
        for name, source in view.tensors.items()
        if not source.dtype.is_mergeable and source.dtype.code not in EXACT_COPY_CODES
    ]


def _unmergeable(view: View, names: Sequence[str]) -> Problem:
    fields = (("folder", view.folder), ("found", listed(names, 3)))
    fix = "merge the unquantised bfloat16, float16 or float32 model"
    return Problem(CheckpointError, "tensors of a type that cannot be interpolated", fields, fix)


def _only_rows_differ(one: Source, other: Source) -> bool:
    return bool(one.shape and other.shape) and one.shape[1:] == other.shape[1:]


def _shapes_differ(pairs: Pairs) -> Problem:
    fields = _both_sides(pairs, lambda source: list(source.shape))
    headline = f"the shapes of {len(pairs)} tensors differ"
    return Problem(MismatchError, headline, fields, "merge models of one size")


def _dtypes_differ(pairs: Pairs) -> Problem:
    fields = _both_sides(pairs, lambda source: source.dtype.code)
    fix = "save the models with the same type for each tensor that is not floating-point"
    return Problem(MismatchError, f"the types of {len(pairs)} tensors cannot be merged", fields, fix)


def _both_sides(pairs: Pairs, describe: Callable[[Source], object]) -> tuple[tuple[str, object], ...]:
    """The first differing tensor with both files, then the names of the others."""
    both, *more = pairs
    fields: list[tuple[str, object]] = [("tensor", printable(both[0][1].name, SHOWN_NAME))]
    fields += [(label, f"{describe(source)} in {source.entries[0].file}") for label, source in both]
    if more:
        fields.append(("also", listed([pair[0][1].name for pair in more], 5)))
    return tuple(fields)
