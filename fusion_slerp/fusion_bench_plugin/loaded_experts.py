"""Merges tensors of all experts in memory, matrix by matrix, as a merge of files does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fusion_slerp.engine.in_memory import combine_tensors
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.planning.experts import Box
from fusion_slerp.settings.merge_settings import MergeSettings


def combine_experts(
    tensors: Mapping[str, Tensor], settings: MergeSettings, boxes: Sequence[Box], values: Mapping[str, Any]
) -> tuple[Tensor, list[TensorReport]]:
    """Combines tensors of all experts; arguments and errors as of `combine_tensors`, and the matrices."""
    whole = {label: tensor.detach().contiguous() for label, tensor in tensors.items()}
    first = next(iter(whole.values()))
    dtype = getattr(torch, settings.dtype) if settings.dtype else first.dtype
    merged = torch.empty_like(first, dtype=dtype)
    reports = []
    for box in boxes:
        parts = {label: _part(tensor, box) for label, tensor in whole.items()}
        part, report = combine_tensors(parts, settings, box.name, values)
        _part(merged, box).copy_(part)
        reports.append(report)
    return merged, reports


def _part(tensor: Tensor, box: Box) -> Tensor:
    """A view of one matrix."""
    return tensor.as_strided(box.shape, box.strides, tensor.storage_offset() + box.first)
