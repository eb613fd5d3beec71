"""What a FusionBench model pool holds: checkpoints that can be streamed, or models to be loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fusion_bench.modelpool.base_pool import BaseModelPool
from fusion_bench.modelpool.causal_lm.causal_lm import CausalLMPool
from omegaconf import DictConfig, OmegaConf
from torch import nn
from transformers import AutoModelForCausalLM

from fusion_slerp.errors import Problem, SettingsError, raise_all, setting, unknown_names_error
from fusion_slerp.fusion_bench_plugin.compact_errors import compact_errors
from fusion_slerp.fusion_bench_plugin.loaders import (
    HOW_IT_DOWNLOADS,
    INSTANTIATION,
    PATH,
    Loading,
    loading_of,
)
from fusion_slerp.methods import METHODS, Method
from fusion_slerp.settings.labels import BASE, labels

HOST_ARGUMENTS = frozenset({"_recursive_", "_usage_", "_version_"})
"""Metadata that FusionBench's own configurations carry for every class."""

PRETRAINED = "_pretrained_"
"""The name of the models' common ancestor in a pool. Names of this form are special in FusionBench."""

SHOWN_METHODS = 3
"""How many other methods a message suggests."""


def refuse_unknown(owner: Any, given: Iterable[str]) -> None:
    """Refuses arguments that an object of FusionBench's kind does not take.

    Args:
        owner: The object; its class is registered by `auto_register_config`.
        given: The names of the arguments that its constructor does not list.

    Raises:
        SettingsError: One is not FusionBench's metadata; it names those that the class takes.
    """
    if unknown := sorted(set(given) - HOST_ARGUMENTS):
        known = set(owner._config_mapping.values()) - HOST_ARGUMENTS
        with compact_errors():
            raise unknown_names_error(unknown, known, type(owner).__name__)


@dataclass(frozen=True, slots=True)
class PoolModel:
    """One entry of the pool.

    Attributes:
        name: Its name in the pool.
        source: The folder or hub id (with `@revision`) to stream from; None if the entry builds a
            model, so that it must be loaded.
        load_kwargs: Arguments for loading it, or the merged model in its place.
        loader: The class that loads it, or the merged model in its place.
        remark: A word on what of the entry a merge does differently from the pool; empty if nothing.
    """

    name: str
    source: str | None
    load_kwargs: dict[str, Any] = field(default_factory=dict)
    loader: Any = AutoModelForCausalLM
    remark: str = ""


def pool_models(
    pool: BaseModelPool, method: Method, is_sliced: bool = False, towards_base: Any = 0.0
) -> dict[str, PoolModel]:
    """Returns the pool's models in its order, by label; last the base, if the method takes one.

    Args:
        pool: The pool.
        method: The method.
        is_sliced: Whether `slices` are given, each of which names as many models as the method merges.
        towards_base: The method's option of this name, if it has one.

    Raises:
        SettingsError: The pool holds another number of models than the method merges, one that cannot be
            merged, or no base for a method that needs one.
    """
    names = list(pool.model_names)
    has_base = PRETRAINED in pool._models and _uses_base(method, towards_base)
    wrong_number = [] if is_sliced and names else _wrong_number(pool, method)
    raise_all([*wrong_number, *_lacking_base(pool, method)])
    common = _plain(pool.get_model_kwargs()) if isinstance(pool, CausalLMPool) else {}
    by_label = dict(zip(labels(len(names)), names, strict=True)) | ({BASE: PRETRAINED} if has_base else {})
    return {label: _pool_model(name, pool._models[name], common) for label, name in by_label.items()}


def special_entries(pool: BaseModelPool, method: Method, towards_base: Any = 0.0) -> list[str]:
    """Returns a line for each of the pool's special entries: what becomes of it."""
    special = [name for name in pool.all_model_names if pool.is_special_model(name)]
    return [line for name in special if (line := _special(name, method, towards_base))]


def _uses_base(method: Method, towards_base: Any) -> bool:
    return method.base != "none" and bool(towards_base or not method.base_is_target)


def _special(name: str, method: Method, towards_base: Any) -> str:
    if name != PRETRAINED:
        return f"{name} of the pool is not merged: a name between underscores is special in FusionBench"
    if method.base == "none":
        return f"{name} of the pool is ignored: {method.name} takes no base"
    if not _uses_base(method, towards_base):
        return f"{name} of the pool is ignored: {method.name} uses a base only with towards_base"
    without = f"; '~modelpool.models.{name}' merges without one" * (method.base == "optional")
    return f"{name} of the pool is the base of {method.name}{without}"


def _wrong_number(pool: BaseModelPool, method: Method) -> list[Problem]:
    names = list(pool.model_names)
    if method.takes(len(names)):
        return []
    special = [name for name in pool.all_model_names if name not in names]
    apart = f" (and {', '.join(special)}, which does not count)" if special else ""
    fields = (("modelpool.models", (", ".join(names) or "none") + apart), ("needed", method.models_text))
    others = [
        setting("method", other.name)
        for other in METHODS.values()
        if other.takes(len(names)) and (other.base != "needed" or PRETRAINED in special)
    ]
    noun = "model" if method.n_models[1] == 1 else "models"
    advice = f"name {method.models_text} {noun} (~modelpool.models.NAME removes one)"
    fix = ", or use ".join([advice, *others[:SHOWN_METHODS]])
    headline = f"{method.name} merges {method.models_text} {noun}, not {len(names)}"
    return [Problem(SettingsError, headline, fields, fix)]


def _lacking_base(pool: BaseModelPool, method: Method) -> list[Problem]:
    if method.base != "needed" or PRETRAINED in pool._models:
        return []
    fields = (
        ("modelpool.models", ", ".join(pool.all_model_names) or "none"),
        ("needed", f"{PRETRAINED}, the model that the others were fine-tuned from"),
    )
    fix = f"use ++modelpool.models.{PRETRAINED}=MODEL, a folder or Hub id"
    return [Problem(SettingsError, f"{method.name} needs a base", fields, fix)]


def tokenizer_source(pool: BaseModelPool) -> str | None:
    """The folder or hub id (with `@revision`) of the pool's tokenizer; None if it has none of that kind."""
    tokenizer = getattr(pool, "tokenizer", None)
    if tokenizer is None or isinstance(tokenizer, str):
        return tokenizer
    if not isinstance(tokenizer, (DictConfig, Mapping)):
        return None
    entry = _plain(tokenizer)
    path, revision, subfolder = entry.get(PATH), entry.get("revision"), entry.get("subfolder")
    if path is None or not (revision or subfolder):
        return path
    is_local = os.path.isdir(os.path.expanduser(path))
    if subfolder:
        return os.path.join(path, subfolder) if is_local else None
    return path if is_local or "@" in path else f"{path}@{revision}"


def _pool_model(name: str, entry: Any, common: Mapping[str, Any]) -> PoolModel:
    """Reads one entry; `common` are the arguments the pool gives every model."""
    if isinstance(entry, nn.Module):
        return PoolModel(name, None)
    target = None
    arguments: dict[str, Any] = {**common}
    if isinstance(entry, (DictConfig, Mapping)):
        entry = _plain(entry)
        target = entry.get("_target_")
        if _leaves_adapters(entry):
            raise _with_adapters(name).error()
        arguments |= {key: value for key, value in entry.items() if key not in INSTANTIATION}
        path = arguments.pop(PATH, None)
    else:
        path = os.fspath(entry) if isinstance(entry, os.PathLike) else entry
    if not isinstance(path, str):
        return PoolModel(
            name, None, remark=f"the pool builds {name} ({target}), so it is loaded, not streamed"
        )
    loading = loading_of(name, path, arguments, target)
    return PoolModel(name, loading.source, dict(loading.kwargs or {}), loading.loader, _remark(name, loading))


def _remark(name: str, loading: Loading) -> str:
    if loading.source is None:
        return f"{name} is loaded, not streamed, because of {loading.why_loaded}"
    if not loading.not_heeded:
        return ""
    variables = " ".join(dict.fromkeys(HOW_IT_DOWNLOADS[key] for key in loading.not_heeded))
    return (
        f"{name}: a merge that streams does not heed {', '.join(loading.not_heeded)}; "
        f"set in the environment: {variables}"
    )


def _leaves_adapters(entry: Mapping[str, Any]) -> bool:
    """Whether an entry calls FusionBench's loader of adapters such that they stay apart from the weights."""
    loader = str(entry.get("_target_")).rpartition(".")[2]
    return loader == "load_peft_causal_lm" and not entry.get("merge_and_unload", False)


def _with_adapters(name: str) -> Problem:
    fields = (("model", name), ("found", "load_peft_causal_lm without merge_and_unload"))
    fix = f"use ++modelpool.models.{name}.merge_and_unload=true"
    return Problem(SettingsError, "adapters must be merged into their model first", fields, fix)


def _plain(config: Any) -> dict[str, Any]:
    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config, resolve=True)
    return dict(config)
