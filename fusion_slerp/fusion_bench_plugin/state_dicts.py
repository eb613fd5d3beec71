"""Merges state dicts: tensor by tensor, on threads, each in the type that the merged model has for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fusion_slerp.dtypes import BY_NAME
from fusion_slerp.engine.in_memory import combine_tensors
from fusion_slerp.engine.progress import following
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.errors import MismatchError, Problem, listed, raise_all
from fusion_slerp.fusion_bench_plugin.loaded_experts import combine_experts
from fusion_slerp.planning.amounts import MERGING
from fusion_slerp.planning.experts import Box, boxes_in
from fusion_slerp.planning.matching import Match
from fusion_slerp.planning.output_types import OutputTypes
from fusion_slerp.planning.stacking import values_by_name
from fusion_slerp.planning.work import Works
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.waiting import pool, results

StateDict = Mapping[str, Tensor]


def merge_state_dicts(
    models: Mapping[str, StateDict], settings: MergeSettings, config: Mapping[str, Any]
) -> tuple[list[TensorReport], dict[str, Tensor]]:
    """Merges state dicts, by label, in the order of the first one's names; also reports.

    Args:
        models: The state dicts.
        settings: The options.
        config: The first model's config; empty if it has none.

    Raises:
        FusionSlerpError: Names, shapes or types differ; integers do; or as `combine_tensors`.
    """
    raise_all(_differences(models))
    first = next(iter(models.values()))
    boxes = boxes_in({name: tuple(tensor.shape) for name, tensor in first.items()}, config)
    values = values_by_name(first, settings, list(models))
    in_type = _settings_by_name(models, settings, config)

    def made(name: str) -> tuple[Tensor, Sequence[TensorReport]]:
        tensors = {label: each[name] for label, each in models.items()}
        return _made(name, tensors, in_type[name], boxes.get(name, ()), values[name])

    merged, report = {}, list[TensorReport]()
    total = sum(tensor.nbytes for tensor in first.values())
    shown = following("merge", {MERGING: total}, settings.show_pbar)
    with pool(settings.n_threads, "fusion_slerp worker") as threads, shown as advance:
        for name, (tensor, rows) in zip(first, results(threads, made, first), strict=True):
            merged[name] = tensor
            report += rows
            advance(first[name].nbytes, MERGING, name)
    return report, merged


def _settings_by_name(
    models: Mapping[str, StateDict], settings: MergeSettings, config: Mapping[str, Any]
) -> dict[str, MergeSettings]:
    """The settings for each tensor, with the type that it gets."""
    types, in_type, by_name = OutputTypes(settings.dtype, config), {settings.dtype: settings}, {}
    for name in next(iter(models.values())):
        dtypes = {label: BY_NAME[_dtype_name(each[name])] for label, each in models.items()}
        of: Any = {label: SimpleNamespace(dtype=dtype) for label, dtype in dtypes.items()}
        dtype = types.of(Match(name, of), next(iter(dtypes.values())))
        wanted = dtype.name if dtype.is_mergeable else settings.dtype
        if wanted not in in_type:
            in_type[wanted] = replace(settings, dtype=wanted)
        by_name[name] = in_type[wanted]
    return by_name


def _made(
    name: str,
    tensors: StateDict,
    settings: MergeSettings,
    boxes: Sequence[Box],
    values: Mapping[str, Any],
) -> tuple[Tensor, Sequence[TensorReport]]:
    is_mergeable = all(BY_NAME[_dtype_name(each)].is_mergeable for each in tensors.values())
    if is_mergeable and boxes:
        return combine_experts(tensors, settings, boxes, values)
    combine = combine_tensors if is_mergeable else _copied
    tensor, row = combine(tensors, settings, name, values)
    return tensor, [row]


def _differences(models: Mapping[str, Mapping[str, Tensor]]) -> list[Problem]:
    first, *others = models.values()
    names = sorted(set().union(*(first.keys() ^ other.keys() for other in others)))
    if names:
        fix = "merge models of one architecture and depth"
        fields = (("not in all", listed(names, 5)),)
        return [Problem(MismatchError, "the tensor names differ", fields, fix)]
    found = ({label: each[name] for label, each in models.items()} for name in first)
    return [_differs(name, each) for name, each in zip(first, found, strict=True) if not _fit(each)]


def _differs(name: str, tensors: Mapping[str, Tensor]) -> Problem:
    fields = tuple((label, f"{_dtype_name(each)} {list(each.shape)}") for label, each in tensors.items())
    fix = "merge models of one size and of types that can be interpolated"
    return Problem(MismatchError, f"{name} differs", fields, fix)


def _fit(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors have one shape, and types that can be merged or are the same."""
    dtypes = {BY_NAME.get(_dtype_name(each)) for each in tensors.values()}
    known = [dtype for dtype in dtypes if dtype is not None]
    types_fit = len(known) == len(dtypes) and (len(dtypes) == 1 or all(dtype.is_mergeable for dtype in known))
    return types_fit and len({each.shape for each in tensors.values()}) == 1


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _copied(
    tensors: Mapping[str, Tensor], settings: MergeSettings, name: str, values: Mapping[str, Any]
) -> tuple[Tensor, TensorReport]:
    """What is never interpolated: of the one model that the values ask for, or equal in all."""
    first = next(iter(tensors.values()))
    decision = Works(settings, tensors.keys()).decided(values, tuple(tensors))
    if decision.copied is not None:
        copied = tensors[decision.copied].clone()
        return copied, TensorReport(name, f"copy {decision.copied}", first.numel(), values, decision.why)
    if not all(torch.equal(first, each.to(first.device)) for each in tensors.values()):
        fields = (("tensor", f"{name} ({_dtype_name(first)})"), ("found", "different values"))
        fix = "merge models in which it is equal: integers and booleans are copied, never interpolated"
        raise Problem(MismatchError, "a tensor must be equal in all models", fields, fix).error()
    return first.clone(), TensorReport(name, "copy if equal", first.numel(), values, "integer")
