"""Merges models in memory: those that the pool holds, and those that it builds itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy, deepcopy
from pathlib import Path
from secrets import token_hex
from typing import Any

import torch
from fusion_bench.modelpool.base_pool import BaseModelPool
from torch import Tensor, nn

from fusion_slerp.dtypes import BY_NAME
from fusion_slerp.engine.in_memory import combine_tensors
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.errors import MismatchError, OutputError, Problem, SettingsError, listed, raise_all
from fusion_slerp.fusion_bench_plugin.loaded_checks import (
    check_adapters,
    check_classes,
    check_configs,
    check_settings,
    check_tokens,
)
from fusion_slerp.fusion_bench_plugin.loaded_experts import boxes_of, combine_experts
from fusion_slerp.fusion_bench_plugin.merged_models import name_origin, with_tokenizer_of
from fusion_slerp.fusion_bench_plugin.pool_models import PoolModel, tokenizer_source
from fusion_slerp.output.child_files import write_manifest, write_records
from fusion_slerp.output.model_card import CardParent
from fusion_slerp.output.side_files import remove_paths, write_side_files
from fusion_slerp.output.staging import staging
from fusion_slerp.output.target import check_apart, check_disk_space, check_target
from fusion_slerp.paths import real_path
from fusion_slerp.planning.experts import Box
from fusion_slerp.planning.stacking import values_by_name
from fusion_slerp.planning.work import Works
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.sources.opening import resolve
from fusion_slerp.vocabulary.child_tokenizer import tokenizer_files

FUSION_BENCH = "[FusionBench](https://github.com/tanganke/fusion_bench)"
"""How cards credit it."""


def merge_loaded(
    pool: BaseModelPool,
    models: Mapping[str, PoolModel],
    settings: MergeSettings,
    save_path: str | None,
) -> nn.Module:
    """Merges models, by label, through their state dicts; needs memory for all of them and for the result.

    A model that the pool holds as an instance is left unchanged.

    Raises:
        MismatchError: The models are of different classes, names, shapes or types; or their configs or
            tokens differ.
        SettingsError: `save_path` is given and the model has no `save_pretrained`, a setting needs
            checkpoints, or a model has adapters.
    """
    check_settings(settings)
    loaded = {label: _load(pool, model, settings.follow_links) for label, model in models.items()}
    tokens = _check(loaded, {label: model.name for label, model in models.items()}, pool, settings)
    inputs = {model.source: f"model {model.name}" for model in models.values() if model.source}
    if tokenizer := tokenizer_source(pool):
        inputs.setdefault(tokenizer, "the tokenizer")
    label, first = next(iter(loaded.items()))
    target = _check_save_path(first, inputs, save_path, settings)
    tensors = {label: each.state_dict() for label, each in loaded.items()}
    report, merged = merge_state_dicts(tensors, settings, boxes_of(first, tensors[label]))
    child = deepcopy(first) if isinstance(pool._models[models[label].name], nn.Module) else first
    if settings.dtype is not None:
        child.to(getattr(torch, settings.dtype))
    child.load_state_dict(merged)
    name_origin(child, "")
    if tokens is not None:
        with_tokenizer_of(child, tokens)
    if target is not None:
        _save(child, target, pool, models, settings, report)
    return child


def _check(
    loaded: Mapping[str, nn.Module], names: Mapping[str, str], pool: BaseModelPool, settings: MergeSettings
) -> Path | None:
    """Checks models, by label, with their names; returns the folder of the first one's tokens, if known."""
    by_name = {names[label]: model for label, model in loaded.items()}
    check_adapters(by_name)
    check_classes(by_name)
    check_configs(loaded, names, settings)
    return check_tokens(by_name, tokenizer_source(pool))


def _load(pool: BaseModelPool, model: PoolModel, follow_links: bool) -> nn.Module:
    if model.source is not None:
        folder, _ = resolve(model.source, follow_links=follow_links)
        return model.loader.from_pretrained(folder, **model.load_kwargs)
    eager = copy(pool)  # FusionBench's lazy loading cannot build a model
    eager.enable_lazy_loading = False  # type: ignore[attr-defined]
    return eager.load_model(model.name)


def _check_save_path(
    model: nn.Module, inputs: Mapping[str, str], save_path: str | None, settings: MergeSettings
) -> Path | None:
    if save_path is None:
        return None
    if not hasattr(model, "save_pretrained"):
        fields = (("model_save_path", save_path), ("found", f"a {type(model).__qualname__}"))
        fix = "set model_save_path: null and save the returned model yourself"
        raise Problem(SettingsError, "the model has no save_pretrained", fields, fix).error()
    target = real_path(save_path, OutputError)
    nbytes = sum(tensor.nbytes for tensor in model.state_dict().values())
    folders = {_folder(source, settings): what for source, what in inputs.items()}
    problems = check_apart(target, folders) + check_target(target, settings.overwrite, save_path)
    raise_all(problems + check_disk_space(target, nbytes))
    return target


def _folder(source: str, settings: MergeSettings) -> Path:
    """The folder of a model, for its files next to the weights."""
    return resolve(source, weights=False, follow_links=settings.follow_links)[0]


def merge_state_dicts(
    models: Mapping[str, Mapping[str, Tensor]],
    settings: MergeSettings,
    boxes: Mapping[str, Sequence[Box]],
) -> tuple[list[TensorReport], dict[str, Tensor]]:
    """Merges state dicts, by label, in the order of the first one's names; also reports.

    Args:
        models: The state dicts.
        settings: The options.
        boxes: The matrices in the tensors of all experts.

    Raises:
        FusionSlerpError: Names, shapes or types differ; integers do; or as `combine_tensors`.
    """
    raise_all(_differences(models))
    first = next(iter(models.values()))
    values = values_by_name(first, settings, list(models))

    def made(name: str) -> tuple[Tensor, list[TensorReport]]:
        tensors = {label: each[name] for label, each in models.items()}
        is_mergeable = BY_NAME[_dtype_name(first[name])].is_mergeable
        if is_mergeable and name in boxes:
            return combine_experts(tensors, settings, boxes[name], values[name])
        combine = combine_tensors if is_mergeable else _copied
        tensor, row = combine(tensors, settings, name, values[name])
        return tensor, [row]

    merged, report = {}, list[TensorReport]()
    total = sum(tensor.nbytes for tensor in first.values())
    with ThreadPoolExecutor(settings.n_threads) as threads, _progress(total, settings) as advance:
        for name, (tensor, rows) in zip(first, threads.map(made, first), strict=True):
            merged[name] = tensor
            report += rows
            advance(first[name].nbytes)
    return report, merged


@contextmanager
def _progress(nbytes: int, settings: MergeSettings) -> Iterator[Callable[[int], object]]:
    """Shows the bytes of the first model that are done on standard error, if `show_pbar` is set."""
    if not settings.show_pbar:
        yield lambda nbytes: None
        return
    from tqdm import tqdm

    with tqdm(total=nbytes, unit="B", unit_scale=True, desc="merging", mininterval=0.2) as bar:
        yield bar.update


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
    decision = Works(settings, len(tensors)).decided(values, tuple(tensors))
    if decision.copied is not None:
        copied = tensors[decision.copied].clone()
        return copied, TensorReport(name, f"copy {decision.copied}", first.numel(), values, decision.why)
    if not all(torch.equal(first, each.to(first.device)) for each in tensors.values()):
        fields = (("tensor", f"{name} ({_dtype_name(first)})"), ("found", "different values"))
        fix = "merge models in which it is equal: integers and booleans are copied, never interpolated"
        raise Problem(MismatchError, "a tensor must be equal in all models", fields, fix).error()
    return first.clone(), TensorReport(name, "copy if equal", first.numel(), values, "integer")


def _save(
    child: Any,
    target: Path,
    pool: BaseModelPool,
    models: Mapping[str, PoolModel],
    settings: MergeSettings,
    report: list[TensorReport],
) -> None:
    identity = {"only once": token_hex()}  # nothing identifies a model in memory
    with staging(target, identity, settings.checksum) as staged:
        folder = staged.files
        child.save_pretrained(folder, max_shard_size=settings.max_shard_nbytes)
        source = tokenizer_source(pool)
        if source is not None:
            write_side_files(dict(tokenizer_files(_folder(source, settings))), folder)
        elif getattr(pool, "tokenizer", None) is not None:
            pool.load_tokenizer().save_pretrained(folder)  # type: ignore[attr-defined]
        remove_paths(folder)
        cards = {label: CardParent(model.name) for label, model in models.items()}
        write_records(folder, cards, settings, report, target.name, FUSION_BENCH)
        names = {label: {"model": model.name} for label, model in models.items()}
        staged.publish(write_manifest(folder, names, settings), settings.overwrite)
