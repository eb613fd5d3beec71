"""Models in memory: loading the merged model, and merging models that the pool builds itself."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy, deepcopy
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any

import torch
from fusion_bench.modelpool.base_pool import BaseModelPool
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from fusion_slerp.dtypes import BY_NAME
from fusion_slerp.engine.in_memory import combine_tensors
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.errors import MismatchError, Problem, SettingsError, listed, raise_all
from fusion_slerp.fusion_bench_plugin.pool_models import PoolModel, tokenizer_source
from fusion_slerp.output.child_files import write_manifest, write_records
from fusion_slerp.output.model_card import CardParent
from fusion_slerp.output.side_files import remove_paths, side_files, write_side_files
from fusion_slerp.output.staging import staging
from fusion_slerp.output.target import check_apart, check_disk_space, check_target
from fusion_slerp.planning.child_config import GENERATION_CONFIG
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.planning.stacking import values_by_name
from fusion_slerp.planning.work import Works
from fusion_slerp.settings.merge_settings import MergeSettings, option_fields
from fusion_slerp.sources.opening import resolve
from fusion_slerp.vocabulary.child_tokenizer import tokenizer_files

NEED_CHECKPOINTS = ("granularity", "slices", "chat_template", "tokens", "pad_vocab_to_multiple_of")
"""Options that have no effect on models in memory."""

FUSION_BENCH = "[FusionBench](https://github.com/tanganke/fusion_bench)"
"""How cards credit it."""


def load_model(like: PoolModel, folder: Path) -> nn.Module:
    """Loads the merged model from its folder with the arguments that the pool has for its models."""
    return AutoModelForCausalLM.from_pretrained(folder, **like.load_kwargs)


def model_from_state_dict(a: PoolModel, plan: MergePlan, state_dict: dict[str, Tensor]) -> nn.Module:
    """Builds the model of a merge into memory.

    Takes the way of transformers' own loading, with its renaming and fusing of weights.

    Args:
        a: The pool's first model, with the arguments for loading.
        plan: What was merged; gives the config and generation config.
        state_dict: The merged tensors under the names of the files.
    """
    kwargs = dict(a.load_kwargs)
    # False unless the user says so: without it, transformers would ask on the terminal.
    trust = {"trust_remote_code": bool(kwargs.pop("trust_remote_code", False))}
    with TemporaryDirectory() as folder:  # transformers reads configs, and the code they name, from files
        write_side_files(
            side_files(next(iter(plan.parents.values())), plan.tokenizer, plan.configs), Path(folder)
        )
        config = AutoConfig.from_pretrained(folder, **trust)
        with torch.device("meta"):
            model_class = type(AutoModelForCausalLM.from_config(config, **trust))
        model = model_class.from_pretrained(None, config=config, state_dict=state_dict, **kwargs)
        if GENERATION_CONFIG in plan.configs:
            model.generation_config = GenerationConfig.from_pretrained(folder)
    if not plan.tokenizer.written:  # where an evaluation finds the tokenizer
        model.config._name_or_path = str(plan.tokenizer.folder)
    return model


def merge_loaded(
    pool: BaseModelPool,
    models: Mapping[str, PoolModel],
    settings: MergeSettings,
    save_path: str | None,
) -> nn.Module:
    """Merges models, by label, through their state dicts; needs memory for all of them and for the result.

    A model that the pool holds as an instance is left unchanged.

    Raises:
        MismatchError: The models are of different classes, names, shapes or types.
        SettingsError: `save_path` is given and the model has no `save_pretrained`, or a setting needs
            checkpoints.
    """
    _check_settings(settings)
    loaded = {label: _load(pool, model, settings.follow_links) for label, model in models.items()}
    _check_classes({models[label].name: model for label, model in loaded.items()})
    inputs = {model.source: f"model {model.name}" for model in models.values() if model.source}
    if tokenizer := tokenizer_source(pool):
        inputs.setdefault(tokenizer, "the tokenizer")
    label, first = next(iter(loaded.items()))
    target = _check_save_path(first, inputs, save_path, settings)
    report, merged = merge_state_dicts({label: m.state_dict() for label, m in loaded.items()}, settings)
    child = deepcopy(first) if isinstance(pool._models[models[label].name], nn.Module) else first
    if settings.dtype is not None:
        child.to(getattr(torch, settings.dtype))
    child.load_state_dict(merged)
    if target is not None:
        _save(child, target, pool, models, settings, report)
    return child


def _check_classes(models: Mapping[str, nn.Module]) -> None:
    classes = {name: type(model) for name, model in models.items()}
    if len(set(classes.values())) > 1:
        fields = tuple((name, each.__qualname__) for name, each in classes.items())
        fix = "merge models of one class"
        raise Problem(MismatchError, "the models' classes differ", fields, fix).error()


def _check_settings(settings: MergeSettings) -> None:
    """Refuses what only a merge of checkpoints can do."""
    known = option_fields()
    for name in NEED_CHECKPOINTS:
        value = settings.options.get(name, known[name].default)
        if value != known[name].default:
            fields = (
                ("found", f"{value!r}"),
                ("needed", "checkpoints, not models that are built"),
            )
            fix = "name the folders or hub ids of the models, or leave the setting out"
            raise Problem(SettingsError, f"{name} needs checkpoints", fields, fix).error()


def _load(pool: BaseModelPool, model: PoolModel, follow_links: bool) -> nn.Module:
    if model.source is not None and not isinstance(pool._models[model.name], nn.Module):
        folder, _ = resolve(model.source, follow_links=follow_links)
        return AutoModelForCausalLM.from_pretrained(folder, **model.load_kwargs)
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
    target = Path(save_path).expanduser().resolve()
    nbytes = sum(tensor.nbytes for tensor in model.state_dict().values())
    folders = {_folder(source, settings): what for source, what in inputs.items()}
    problems = check_apart(target, folders) + check_target(target, settings.overwrite)
    raise_all(problems + check_disk_space(target, nbytes))
    return target


def _folder(source: str, settings: MergeSettings) -> Path:
    """The folder of a model, for its files next to the weights."""
    return resolve(source, weights=False, follow_links=settings.follow_links)[0]


def merge_state_dicts(
    models: Mapping[str, Mapping[str, Tensor]], settings: MergeSettings
) -> tuple[list[TensorReport], dict[str, Tensor]]:
    """Merges state dicts, by label, in the order of the first one's names; also reports.

    Raises:
        FusionSlerpError: Names, shapes or types differ; integers do; or as `combine_tensors`.
    """
    raise_all(_differences(models))
    report, merged = [], {}
    first = next(iter(models.values()))
    values = values_by_name(first, settings, list(models))
    for name, tensor in first.items():
        tensors = {label: each[name] for label, each in models.items()}
        if BY_NAME[_dtype_name(tensor)].is_mergeable:
            merged[name], row = combine_tensors(tensors, settings, name, values[name])
        else:
            merged[name], row = _copied(name, tensors, settings, values[name])
        report.append(row)
    return report, merged


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
    name: str, tensors: Mapping[str, Tensor], settings: MergeSettings, values: Mapping[str, Any]
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
