"""Merges checkpoints of a pool, streaming from their files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fusion_bench.modelpool.base_pool import BaseModelPool
from torch import nn

from fusion_slerp.api import MergeResult, plan_merge, prepare_merge, run_in_memory
from fusion_slerp.cluster.merging import run_shared_merge
from fusion_slerp.cluster.ranks import ALONE, Ranks
from fusion_slerp.fusion_bench_plugin.loaded_models import FUSION_BENCH
from fusion_slerp.fusion_bench_plugin.merged_models import model_from_state_dict
from fusion_slerp.fusion_bench_plugin.pool_models import PoolModel, tokenizer_source
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.settings.labels import BASE
from fusion_slerp.settings.merge_settings import MergeSettings

log = logging.getLogger(__name__)


def merge_to_folder(
    models: Mapping[str, PoolModel], options: Mapping[str, Any], folder: str, ranks: Ranks = ALONE
) -> MergeResult:
    """Merges models, by label, into a folder; with several processes, each calls it and does its share.

    Raises:
        FusionSlerpError: As `fusion_slerp.cluster.merging.run_shared_merge`.
    """
    sources, base = _sources(models), _base(models)
    prepared = ranks.on_all(lambda: prepare_merge(sources, folder, base, **options))
    _warn_of_types(models, prepared.plan)
    return run_shared_merge(prepared, ranks, made_with=FUSION_BENCH)


def merge_into_model(models: Mapping[str, PoolModel], options: Mapping[str, Any]) -> nn.Module:
    """Merges models, by label, into a model in memory.

    Raises:
        FusionSlerpError: As `fusion_slerp.merge_into_memory` and `model_from_state_dict`.
    """
    plan = plan_merge(*_sources(models), base=_base(models), **options)
    _warn_of_types(models, plan)
    state_dict, _ = run_in_memory(plan)
    return model_from_state_dict(next(iter(models.values())), plan, state_dict)


def merge_options(
    pool: BaseModelPool, models: Mapping[str, PoolModel], settings: MergeSettings
) -> dict[str, Any]:
    """Returns the options of the merge: the settings, and the pool's tokenizer."""
    return settings.options | {"tokenizer": _tokenizer(pool, models)}


def _sources(models: Mapping[str, PoolModel]) -> list[str]:
    return [model.source for label, model in models.items() if label != BASE and model.source is not None]


def _base(models: Mapping[str, PoolModel]) -> str | None:
    return models[BASE].source if BASE in models else None


def _tokenizer(pool: BaseModelPool, models: Mapping[str, PoolModel]) -> str:
    """The pool's tokenizer, by the label of the model that it belongs to."""
    source = tokenizer_source(pool)
    if source is not None:
        return next((label for label, model in models.items() if model.source == source), source)
    if getattr(pool, "tokenizer", None) is not None:
        log.warning(
            "modelpool.tokenizer is not a folder or Hub id: evaluations use it, and the merged model gets "
            "the tokens of all models"
        )
    return "union"


def _warn_of_types(models: Mapping[str, PoolModel], plan: MergePlan) -> None:
    """Warns if the pool would load a model's weights in another type than that of its files."""
    for label, model in models.items():
        asked = model.load_kwargs.get("dtype") or model.load_kwargs.get("torch_dtype")
        wanted = str(asked).removeprefix("torch.")
        dtypes = {entry.dtype for entry in plan.parents[label].tensors.values() if entry.dtype.is_mergeable}
        others = sorted(dtype.name for dtype in dtypes if dtype.name != wanted)
        if asked is None or wanted == "auto" or plan.settings.dtype == wanted or not others:
            continue
        log.warning(
            "%s: torch_dtype %s applies when the merged model is loaded; its weights are merged in %s, as "
            "they are stored (method.dtype=%s changes the type of the merged model)",
            model.name,
            wanted,
            " and ".join(others),
            wanted,
        )
