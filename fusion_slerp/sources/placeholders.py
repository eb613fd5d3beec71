"""Weights whose data was never written: DeepSpeed's ZeRO stage 3 leaves empty tensors in their place.

Each process then holds a part of every weight. A model that is saved from there without gathering the parts
has the right names, and tensors of the shape [0]; small ones, such as norms, may be whole.

Source: https://www.deepspeed.ai/docs/config-json/ (stage3_gather_16bit_weights_on_model_save,
stage3_param_persistence_threshold), and zero_to_fp32.py, which DeepSpeed puts next to its checkpoints.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path

from fusion_slerp.errors import CheckpointError, Problem, listed
from fusion_slerp.sources.header import TensorEntry
from fusion_slerp.tensor_names import renamed

SCRIPT = "zero_to_fp32.py"

OF_PARAMETERS = ("weight", "bias")
"""Names of parameters, without their modules': buffers have others."""


def placeholders(folder: Path, tensors: Collection[TensorEntry]) -> list[Problem]:
    """Returns the problem with weights that hold no data; none if all have theirs.

    A tensor of the shape [0] is a placeholder if it has the name of a weight or bias; then others of that
    shape are as well. Three kinds of empty tensors are none: those of another shape, such as [0, 16], with
    the biases next to them (a layer without outputs); vectors whose length differs from layer to layer,
    because ZeRO-3 treats all layers alike; and buffers.

    Args:
        folder: The checkpoint's.
        tensors: All tensors of the model.
    """
    empty = [entry for entry in tensors if not entry.nbytes]
    if not empty:
        return []
    without_outputs = {entry.name for entry in empty if len(entry.shape) > 1}
    lengths = {renamed(entry.name, 0) for entry in tensors if entry.nbytes and len(entry.shape) == 1}
    vectors = [
        entry
        for entry in empty
        if entry.shape == (0,) and entry.dtype.is_mergeable and renamed(entry.name, 0) not in lengths
    ]

    def is_certain(entry: TensorEntry) -> bool:
        module, _, own = entry.name.rpartition(".")
        return own in OF_PARAMETERS and f"{module}.weight" not in without_outputs

    found = sorted(vectors, key=lambda entry: (not is_certain(entry), entry.name))
    return [_never_written(folder, found)] if any(map(is_certain, found)) else []


def _never_written(folder: Path, empty: list[TensorEntry]) -> Problem:
    found = f"{len(empty)} of shape [0]: {listed([entry.name for entry in empty], 3)}"
    cause = "saved under DeepSpeed ZeRO-3 without gathering the weights"
    script, places = SCRIPT, "CHECKPOINT OUTPUT"
    if (folder / SCRIPT).is_file():  # the folder of a training checkpoint
        script = shlex.quote(str(folder / SCRIPT))
        places = shlex.join([str(folder), f"{folder}-gathered"])
    fix = (
        "save again with stage3_gather_16bit_weights_on_model_save: true in DeepSpeed's config; or gather "
        "the weights of the training checkpoint with the script that DeepSpeed puts into its folder (needs "
        f"`pip install deepspeed`): python {script} {places} --safe_serialization"
    )
    fields = (("file", empty[0].file), ("found", found), ("cause", cause))
    return Problem(CheckpointError, "weights without data", fields, fix)
