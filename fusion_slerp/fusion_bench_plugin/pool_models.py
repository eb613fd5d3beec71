"""What a FusionBench model pool holds: checkpoints that can be streamed, or models to be loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fusion_bench.modelpool.base_pool import BaseModelPool
from fusion_bench.modelpool.causal_lm.causal_lm import CausalLMPool
from omegaconf import DictConfig, OmegaConf

from fusion_slerp.errors import Problem, SettingsError, setting
from fusion_slerp.methods import METHODS, Method
from fusion_slerp.settings.labels import labels

HOST_ARGUMENTS = frozenset({"_recursive_", "_usage_", "_version_"})
"""Metadata that FusionBench's own configurations carry for every class."""

PLAIN_LOADERS = frozenset(
    f"transformers.{cls}{call}"
    for cls in ("AutoModelForCausalLM", "AutoModel")
    for call in ("", ".from_pretrained")
)
"""`_target_`s that only load the checkpoint they are given."""

LOADING_ONLY = frozenset(
    "_target_ _recursive_ _convert_ pretrained_model_name_or_path revision torch_dtype dtype device_map "
    "low_cpu_mem_usage attn_implementation trust_remote_code token cache_dir use_safetensors "
    "local_files_only max_memory offload_folder".split()
)
"""Arguments of a plain loader that do not change what the checkpoint's files say."""

NAMES_THE_CHECKPOINT = frozenset({"_target_", "_recursive_", "_convert_", "pretrained_model_name_or_path"})


@dataclass(frozen=True, slots=True)
class PoolModel:
    """One entry of the pool.

    Attributes:
        name: Its name in the pool.
        source: The folder or hub id (with `@revision`) to stream from; None if the entry builds a
            model, so that it must be loaded.
        load_kwargs: Arguments of `from_pretrained` for loading it, or the child in its place.
    """

    name: str
    source: str | None
    load_kwargs: dict[str, Any]


def pool_models(pool: BaseModelPool, method: Method) -> dict[str, PoolModel]:
    """Returns the pool's models in its order, by label.

    Raises:
        SettingsError: The pool holds another number of models than the method merges.
    """
    names = list(pool.all_model_names)
    if not method.takes(len(names)):
        fields = (("modelpool.models", ", ".join(names) or "none"), ("needed", method.models_text))
        others = [setting("method", other.name) for other in METHODS.values() if other.takes(len(names))]
        fix = ", or use ".join(
            [f"name {method.models_text} models (~modelpool.models.NAME removes one)", *others]
        )
        headline = f"{method.name} merges {method.models_text} models, not {len(names)}"
        raise Problem(SettingsError, headline, fields, fix).error()
    common = _plain(pool.get_model_kwargs()) if isinstance(pool, CausalLMPool) else {}
    models = [_pool_model(name, pool._models[name], common) for name in names]
    return dict(zip(labels(len(models)), models, strict=True))


def tokenizer_source(pool: BaseModelPool) -> str | None:
    """The folder or hub id of the pool's tokenizer; None where it has none that is named so."""
    tokenizer = getattr(pool, "tokenizer", None)
    return tokenizer if tokenizer is None else _path_of(tokenizer)


def _pool_model(name: str, entry: Any, common: dict[str, Any]) -> PoolModel:
    """Reads one entry; `common` are the arguments the pool gives every model."""
    kwargs = dict(common)
    if isinstance(entry, (DictConfig, dict)):
        entry = _plain(entry)
        if entry.get("_target_") not in PLAIN_LOADERS or set(entry) - LOADING_ONLY:
            return PoolModel(name, None, kwargs)
        kwargs |= {key: value for key, value in entry.items() if key not in NAMES_THE_CHECKPOINT}
        kwargs["revision"] = entry.get("revision", common.get("revision"))
    path, revision = _path_of(entry), kwargs.pop("revision", None)
    source = f"{path}@{revision}" if path and revision and "@" not in path else path
    return PoolModel(name, source, kwargs)


def _path_of(entry: Any) -> str | None:
    if isinstance(entry, str):
        return entry
    if isinstance(entry, (DictConfig, dict)):
        return _plain(entry).get("pretrained_model_name_or_path")
    return None


def _plain(config: Any) -> dict[str, Any]:
    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config, resolve=True)
    return dict(config)
