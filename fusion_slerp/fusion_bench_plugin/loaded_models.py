"""Merges models in memory: those that the pool holds, and those that it builds itself."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy, deepcopy
from pathlib import Path
from secrets import token_hex
from typing import Any

from fusion_bench.modelpool.base_pool import BaseModelPool
from torch import Tensor, nn

from fusion_slerp.engine.report import TensorReport
from fusion_slerp.errors import OutputError, Problem, SettingsError, raise_all
from fusion_slerp.evaluation.building import name_origin, with_tokenizer_of
from fusion_slerp.fusion_bench_plugin.loaded_checks import (
    check_adapters,
    check_classes,
    check_configs,
    check_settings,
    check_tokens,
    config_of,
    origins,
)
from fusion_slerp.fusion_bench_plugin.pool_models import PoolModel, tokenizer_source
from fusion_slerp.fusion_bench_plugin.state_dicts import merge_state_dicts
from fusion_slerp.output.child_files import write_manifest, write_records
from fusion_slerp.output.model_card import CardParent
from fusion_slerp.output.side_files import remove_paths, write_side_files
from fusion_slerp.output.staging import staging
from fusion_slerp.output.target import check_apart, check_disk_space, check_target
from fusion_slerp.paths import real_path
from fusion_slerp.planning.model_names import with_names
from fusion_slerp.settings.bases import without_base
from fusion_slerp.settings.labels import BASE
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
            checkpoints or a base, or a model has adapters.
    """
    check_settings(settings)
    raise_all([] if BASE in models else without_base(settings))
    loaded = {label: _load(pool, model, settings.follow_links) for label, model in models.items()}
    names = {label: model.name for label, model in models.items()}
    settings = with_names(settings, {label: name for label, name in names.items() if label != BASE})
    folders = _check(loaded, names, pool, settings)
    label, first = next(iter(loaded.items()))
    tokenizer = _tokenizer(pool, folders.get(names[label]))
    apart = {folder: f"model {name}" for name, folder in folders.items()}
    target = _check_save_path(first, apart, tokenizer, save_path, settings)
    tensors = {label: each.state_dict() for label, each in loaded.items()}
    report, merged = merge_state_dicts(tensors, settings, config_of(first) or {})
    child = deepcopy(first) if any(each is first for each in pool._models.values()) else first
    _fill(child, merged)
    name_origin(child, "")
    if names[label] in folders:
        with_tokenizer_of(child, folders[names[label]])
    if target is not None:
        _save(child, target, pool, tokenizer, settings, (names, report))
    return child


def _fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Sets what a model stores, types included. Other buffers keep theirs: rope's would lose digits."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        tensor.data = tensor.data.to(tensors[name].dtype)
    model.load_state_dict(tensors)


def _tokenizer(pool: BaseModelPool, of_first: Path | None) -> str | None:
    """The folder or hub id of the merged model's tokenizer; None if the pool builds it, or none is known."""
    is_built = getattr(pool, "tokenizer", None) is not None
    return tokenizer_source(pool) or (str(of_first) if of_first and not is_built else None)


def _check(
    loaded: Mapping[str, nn.Module], names: Mapping[str, str], pool: BaseModelPool, settings: MergeSettings
) -> dict[str, Path]:
    """Checks models, by label, with their names; returns the folders that they come from, by name."""
    by_name = {names[label]: model for label, model in loaded.items()}
    check_adapters(by_name)
    check_classes(by_name)
    check_configs(loaded, names, settings)
    folders = origins(by_name)
    check_tokens(by_name, folders, tokenizer_source(pool))
    return folders


def _load(pool: BaseModelPool, model: PoolModel, follow_links: bool) -> nn.Module:
    if model.source is not None:
        folder, _ = resolve(model.source, follow_links=follow_links)
        return model.loader.from_pretrained(folder, **model.load_kwargs)
    eager = copy(pool)  # FusionBench's lazy loading cannot build a model
    eager.enable_lazy_loading = False  # type: ignore[attr-defined]
    return eager.load_model(model.name)


def _check_save_path(
    model: nn.Module,
    apart: Mapping[Path, str],
    tokenizer: str | None,
    save_path: str | None,
    settings: MergeSettings,
) -> Path | None:
    """The output folder, if it is apart from those that the models and the tokenizer come from."""
    if save_path is None:
        return None
    if not hasattr(model, "save_pretrained"):
        fields = (("model_save_path", save_path), ("found", f"a {type(model).__qualname__}"))
        fix = "set model_save_path: null and save the returned model yourself"
        raise Problem(SettingsError, "the model has no save_pretrained", fields, fix).error()
    target = real_path(save_path, OutputError)
    nbytes = sum(tensor.nbytes for tensor in model.state_dict().values())
    folders = {_folder(tokenizer, settings): "the tokenizer"} if tokenizer is not None else {}
    folders.update(apart)
    problems = check_apart(target, folders) + check_target(target, settings.overwrite, save_path)
    raise_all(problems + check_disk_space(target, nbytes))
    return target


def _folder(source: str, settings: MergeSettings) -> Path:
    """The folder of a tokenizer."""
    return resolve(source, weights=False, follow_links=settings.follow_links)[0]


def _save(
    child: Any,
    target: Path,
    pool: BaseModelPool,
    tokenizer: str | None,
    settings: MergeSettings,
    records: tuple[Mapping[str, str], list[TensorReport]],
) -> None:
    """Saves the merged model; the records are the models' names, by label, and what became of each tensor."""
    names, report = records
    identity = {"only once": token_hex()}  # nothing identifies a model in memory
    with staging(target, identity, settings.checksum) as staged:
        folder = staged.files
        child.save_pretrained(folder, max_shard_size=settings.max_shard_nbytes)
        if tokenizer is not None:
            write_side_files(dict(tokenizer_files(_folder(tokenizer, settings))), folder)
        elif getattr(pool, "tokenizer", None) is not None:
            pool.load_tokenizer().save_pretrained(folder)  # type: ignore[attr-defined]
        remove_paths(folder)
        cards = {label: CardParent(name) for label, name in names.items()}
        write_records(folder, cards, settings, report, target.name, FUSION_BENCH)
        sources = {label: {"model": name} for label, name in names.items()}
        staged.publish(write_manifest(folder, sources, settings), settings.overwrite)
