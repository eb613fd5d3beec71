"""Whether two checkpoints belong together: their configs, tensor names, shapes and dtypes.

Tensors can have equal shapes and another meaning, so the configs are compared first. Nothing
here reads a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fusion_slerp.dtypes import EXACT_COPY_CODES
from fusion_slerp.errors import SHOWN_NAME, CheckpointError, MismatchError, Problem, listed, printable
from fusion_slerp.planning.matching import TensorPair
from fusion_slerp.sources.folder import CONFIG, Checkpoint
from fusion_slerp.sources.header import TensorEntry

Entries = Sequence[tuple[TensorEntry, TensorEntry]]
"""Tensors of a with their counterparts in b."""

MUST_AGREE = frozenset(
    "model_type hidden_size n_embd d_model num_hidden_layers n_layer num_layers intermediate_size "
    "n_inner num_attention_heads n_head num_heads num_key_value_heads head_dim num_experts "
    "num_local_experts n_routed_experts num_experts_per_tok position_embedding_type "
    "partial_rotary_factor".split()
)
"""Config keys that change what a tensor of the same shape means."""

MAY_DIFFER = frozenset(
    "_name_or_path transformers_version torch_dtype dtype use_cache architectures auto_map "
    "bos_token_id eos_token_id pad_token_id unk_token_id max_length _attn_implementation "
    "attention_dropout hidden_dropout resid_pdrop embd_pdrop attn_pdrop initializer_range "
    "gradient_checkpointing pretraining_tp output_router_logits router_aux_loss_coef "
    "router_jitter_noise task_specific_params id2label label2id vocab_size is_decoder "
    "use_return_dict torchscript unsloth_version unsloth_fixed tie_word_embeddings".split()
)
"""Config keys without effect on what a weight means (vocab_size shows in the shapes, tying in the names)."""

ABSENT_IS_OFF = frozenset({"rope_type", "factor", "sliding_window"})
"""Config keys whose absence is a value: no scaling, no window."""

MAX_PREFIX = 200
"""Characters of nested keys; deeper ones are compared as a whole, as each key would repeat those above it."""

SHOWN_KEYS = 100
"""Of each kind of difference; two models of one family have a handful."""


def compare_configs(a: Checkpoint, b: Checkpoint) -> tuple[list[Problem], list[str]]:
    """Returns the problems that forbid a merge and the warnings for softer differences."""
    flat_a, flat_b = _flattened(a.config), _flattened(b.config)
    grave, soft = [], []
    for key in sorted(flat_a.keys() | flat_b.keys()):
        name = key.rpartition(".")[2]
        in_a, in_b = flat_a.get(key), flat_b.get(key)
        if in_a == in_b or name in MAY_DIFFER:
            continue
        if None in (in_a, in_b) and name not in ABSENT_IS_OFF:
            continue  # written by another release, which spells out more defaults or fewer
        (grave if name in MUST_AGREE else soft).append(key)
    problems = [_other_meaning(a, b, key, flat_a.get(key), flat_b.get(key)) for key in grave[:SHOWN_KEYS]]
    warnings = [_differ(key, flat_a.get(key), flat_b.get(key)) for key in soft[:SHOWN_KEYS]]
    if len(soft) > SHOWN_KEYS:
        warnings.append(f"the configs differ in {len(soft) - SHOWN_KEYS} more keys")
    return problems, warnings


def _flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots; the rope settings of older and newer transformers alike."""
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


def _differ(key: str, in_a: Any, in_b: Any) -> str:
    return f"the configs differ in {printable(key, SHOWN_NAME)}: {_shown(in_a)} (a), {_shown(in_b)} (b)"


def _shown(value: object) -> str:
    return printable(repr(value), SHOWN_NAME)


def _other_meaning(a: Checkpoint, b: Checkpoint, key: str, in_a: Any, in_b: Any) -> Problem:
    fields = (
        ("key", printable(key, SHOWN_NAME)),
        ("a", f"{_shown(in_a)} in {a.folder / CONFIG}"),
        ("b", f"{_shown(in_b)} in {b.folder / CONFIG}"),
    )
    fix = "merge two models of one architecture and size, fine-tuned from the same ancestor"
    return Problem(MismatchError, f"the models differ in {printable(key, SHOWN_NAME)}", fields, fix)


def compare_tensors(a: Checkpoint, b: Checkpoint, pairs: Iterable[TensorPair]) -> list[Problem]:
    """Returns what is wrong with the pairs' shapes and dtypes."""
    problems = [_unmergeable(p) for p in (a, b) if _unmergeable_names(p)]
    matched = [pair for pair in pairs if pair.a and pair.b]
    both = [(pair.a, pair.b) for pair in matched if pair.a and pair.b]
    reshaped = [
        (pair.a, pair.b)
        for pair in matched
        if pair.a and pair.b and not _shapes_fit(pair.a, pair.b, pair.follows_vocabulary)
    ]
    if reshaped:
        problems.append(_shapes_differ(reshaped))
    retyped = [(x, y) for x, y in both if not _dtypes_fit(x, y)]
    if retyped:
        problems.append(_dtypes_differ(retyped))
    return problems


def _dtypes_fit(a: TensorEntry, b: TensorEntry) -> bool:
    return a.dtype == b.dtype or (a.dtype.is_mergeable and b.dtype.is_mergeable)


def _unmergeable_names(parent: Checkpoint) -> list[str]:
    return [
        f"{name} ({entry.dtype.code})"
        for name, entry in parent.tensors.items()
        if not entry.dtype.is_mergeable and entry.dtype.code not in EXACT_COPY_CODES
    ]


def _unmergeable(parent: Checkpoint) -> Problem:
    fields = (("folder", parent.folder), ("found", listed(_unmergeable_names(parent), 3)))
    fix = "merge the unquantised bfloat16, float16 or float32 model"
    return Problem(CheckpointError, "tensors of a type that cannot be interpolated", fields, fix)


def _shapes_fit(a: TensorEntry, b: TensorEntry, may_have_other_rows: bool) -> bool:
    return a.shape == b.shape or (
        may_have_other_rows and a.shape[1:] == b.shape[1:] and bool(a.shape and b.shape)
    )


def _shapes_differ(pairs: Entries) -> Problem:
    fields = _both_sides(pairs, lambda entry: list(entry.shape))
    headline = f"the shapes of {len(pairs)} tensors differ"
    return Problem(MismatchError, headline, fields, "merge two models of one size")


def _dtypes_differ(pairs: Entries) -> Problem:
    fields = _both_sides(pairs, lambda entry: entry.dtype.code)
    fix = "save both models with the same types for tensors that are not floating-point"
    return Problem(MismatchError, f"the types of {len(pairs)} tensors cannot be merged", fields, fix)


def _both_sides(pairs: Entries, describe: Callable[[TensorEntry], object]) -> tuple[tuple[str, object], ...]:
    """The first differing tensor with both files, then the names of the others."""
    (entry, other), *more = pairs
    fields: list[tuple[str, object]] = [
        ("tensor", printable(entry.name, SHOWN_NAME)),
        ("a", f"{describe(entry)} in {entry.file}"),
        ("b", f"{describe(other)} in {other.file}"),
    ]
    if more:
        fields.append(("also", listed([pair[0].name for pair in more], 5)))
    return tuple(fields)
