"""Whether two checkpoints belong together: their configs, tensor names, shapes and dtypes.

Tensors can have equal shapes and another meaning, so the configs are compared first. Nothing
here reads a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fusion_slerp.checkpoint.folder import CONFIG, Checkpoint
from fusion_slerp.checkpoint.header import TensorEntry
from fusion_slerp.dtypes import EXACT_COPY_CODES
from fusion_slerp.errors import CheckpointError, MismatchError, Problem, listed, nearest

MUST_AGREE = frozenset(
    "model_type hidden_size n_embd d_model num_hidden_layers n_layer num_layers intermediate_size "
    "n_inner num_attention_heads n_head num_heads num_key_value_heads head_dim num_experts "
    "num_local_experts n_routed_experts num_experts_per_tok position_embedding_type "
    "partial_rotary_factor tie_word_embeddings".split()
)
"""Config keys that change what a tensor of the same shape means."""

MAY_DIFFER = frozenset(
    "_name_or_path transformers_version torch_dtype dtype use_cache architectures auto_map "
    "bos_token_id eos_token_id pad_token_id unk_token_id max_length _attn_implementation "
    "attention_dropout hidden_dropout resid_pdrop embd_pdrop attn_pdrop initializer_range "
    "gradient_checkpointing pretraining_tp output_router_logits router_aux_loss_coef "
    "router_jitter_noise task_specific_params id2label label2id vocab_size is_decoder "
    "use_return_dict torchscript unsloth_version unsloth_fixed".split()
)
"""Config keys without effect on what a weight means (vocab_size shows in the shapes)."""

ABSENT_IS_OFF = frozenset({"rope_type", "factor", "sliding_window"})
"""Config keys whose absence is a value: no scaling, no window."""


def compare_configs(a: Checkpoint, b: Checkpoint) -> tuple[list[Problem], list[str]]:
    """Returns the problems that forbid a merge and the warnings for softer differences."""
    flat_a, flat_b = _flattened(a.config), _flattened(b.config)
    problems, warnings = [], []
    for key in sorted(flat_a.keys() | flat_b.keys()):
        name = key.rpartition(".")[2]
        in_a, in_b = flat_a.get(key), flat_b.get(key)
        if in_a == in_b or name in MAY_DIFFER:
            continue
        if None in (in_a, in_b) and name not in ABSENT_IS_OFF:
            continue  # written by another release, which spells out more defaults or fewer
        if name in MUST_AGREE:
            problems.append(_other_meaning(a, b, key, in_a, in_b))
        else:
            warnings.append(f"the configs differ in {key}: {in_a!r} (a), {in_b!r} (b)")
    return problems, warnings


def _flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots; the rope settings of older and newer transformers alike."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(_flattened(value, f"{prefix}{key}."))
        elif value is not None:
            flat[f"{prefix}{key}"] = value
    for scaling in ("rope_parameters.", "rope_scaling."):
        for key in [key for key in flat if key.startswith(prefix + scaling)]:
            plain = prefix + key.removeprefix(prefix + scaling)
            flat.setdefault("rope_type" if plain == "type" else plain, flat.pop(key))
    if flat.get(f"{prefix}rope_type") == "default":
        del flat[f"{prefix}rope_type"]
    return flat


def _other_meaning(a: Checkpoint, b: Checkpoint, key: str, in_a: Any, in_b: Any) -> Problem:
    fields = (
        ("key", key),
        ("a", f"{in_a!r} in {a.folder / CONFIG}"),
        ("b", f"{in_b!r} in {b.folder / CONFIG}"),
    )
    fix = "merge two models of one architecture and size, fine-tuned from the same ancestor"
    return Problem(MismatchError, f"the models differ in {key}", fields, fix)


def compare_tensors(a: Checkpoint, b: Checkpoint) -> list[Problem]:
    """Returns what is wrong with the pair's names, shapes and dtypes."""
    problems = [_unmergeable(p) for p in (a, b) if _unmergeable_names(p)]
    only_a = [name for name in a.tensors if name not in b.tensors]
    only_b = [name for name in b.tensors if name not in a.tensors]
    if only_a or only_b:
        problems.append(_names_differ(a, b, only_a, only_b))
    shared = [name for name in a.tensors if name in b.tensors]
    reshaped = [name for name in shared if a.tensors[name].shape != b.tensors[name].shape]
    if reshaped:
        problems.append(_shapes_differ(a, b, reshaped))
    retyped = [name for name in shared if not _dtypes_fit(a.tensors[name], b.tensors[name])]
    if retyped:
        problems.append(_dtypes_differ(a, b, retyped))
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


def _names_differ(a: Checkpoint, b: Checkpoint, only_a: list[str], only_b: list[str]) -> Problem:
    fields: list[tuple[str, object]] = []
    for label, parent, names, others in (("a", a, only_a, only_b), ("b", b, only_b, only_a)):
        if names:
            shown = [f"{name}{nearest(name, others[:1000])}" for name in names[:3]]
            fields.append((f"only in {label}", f"{len(names)}: {listed([*shown, *names[3:]], 3)}"))
            fields.append(("folder", parent.folder))
    fix = "merge two models of one architecture and depth, saved by the same library"
    if [*only_a, *only_b] == ["lm_head.weight"]:
        fix = (
            "one model ties its head to its embedding and the other does not: save both with the "
            "same tie_word_embeddings"
        )
    return Problem(MismatchError, "the tensor names differ", tuple(fields), fix)


def _shapes_differ(a: Checkpoint, b: Checkpoint, names: list[str]) -> Problem:
    fields = _both_sides(a, b, names, lambda entry: list(entry.shape))
    sizes = (a.config.get("vocab_size", 0), b.config.get("vocab_size", 0))
    if all(_rows_are(a, b, name, sizes) for name in names):
        fix = (
            "bring both to one vocabulary first: load the smaller with transformers, call "
            f"resize_token_embeddings({max(sizes)}) for the larger one's tokenizer, save it"
        )
        return Problem(MismatchError, f"the vocabularies differ: {sizes[0]}, {sizes[1]}", fields, fix)
    headline = f"the shapes of {len(names)} tensors differ"
    return Problem(MismatchError, headline, fields, "merge two models of one size")


def _rows_are(a: Checkpoint, b: Checkpoint, name: str, sizes: tuple[Any, Any]) -> bool:
    shape_a, shape_b = a.tensors[name].shape, b.tensors[name].shape
    return (shape_a[:1], shape_b[:1]) == ((sizes[0],), (sizes[1],)) and shape_a[1:] == shape_b[1:]


def _dtypes_differ(a: Checkpoint, b: Checkpoint, names: list[str]) -> Problem:
    fields = _both_sides(a, b, names, lambda entry: entry.dtype.code)
    fix = "save both models with the same types for tensors that are not floating-point"
    return Problem(MismatchError, f"the types of {len(names)} tensors cannot be merged", fields, fix)


def _both_sides(
    a: Checkpoint, b: Checkpoint, names: list[str], describe: Callable[[TensorEntry], object]
) -> tuple[tuple[str, object], ...]:
    """The first differing tensor with both files, then the names of the others."""
    entry, other = a.tensors[names[0]], b.tensors[names[0]]
    fields: list[tuple[str, object]] = [
        ("tensor", names[0]),
        ("a", f"{describe(entry)} in {entry.file}"),
        ("b", f"{describe(other)} in {other.file}"),
    ]
    if len(names) > 1:
        fields.append(("also", listed(names[1:], 5)))
    return tuple(fields)
