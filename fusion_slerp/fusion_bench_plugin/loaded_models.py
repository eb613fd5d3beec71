"""Models in memory: loading the child, and merging two models that the pool builds itself."""

from __future__ import annotations

import logging
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
from fusion_slerp.engine.in_memory import interpolate
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.errors import MismatchError, Problem, SettingsError, listed, raise_all
from fusion_slerp.fusion_bench_plugin.pool_models import PoolModel, tokenizer_source
from fusion_slerp.output.child_files import write_manifest, write_records
from fusion_slerp.output.model_card import CardParent
from fusion_slerp.output.place import check_apart, check_place, check_room
from fusion_slerp.output.side_files import side_files, write_side_files
from fusion_slerp.output.staging import staging
from fusion_slerp.planning.child_config import GENERATION_CONFIG
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.sources.opening import resolve
from fusion_slerp.tensor_names import depths
from fusion_slerp.vocabulary.child_tokenizer import tokenizer_files

log = logging.getLogger(__name__)


def load_model(like: PoolModel, folder: Path) -> nn.Module:
    """Loads the child from its folder with the arguments that the pool has for its models."""
    return AutoModelForCausalLM.from_pretrained(folder, **like.load_kwargs)


def model_from_state_dict(a: PoolModel, plan: MergePlan, state_dict: dict[str, Tensor]) -> nn.Module:
    """Builds the child of a merge into memory.

    Takes the way of transformers' own loading, with its renaming and fusing of weights.

    Args:
        a: The pool's first model, with the arguments for loading.
        plan: What was merged; gives the child's config and generation config.
        state_dict: The child's tensors under the names of the files.
    """
    kwargs = dict(a.load_kwargs)
    # False unless the user says so: without it, transformers would ask on the terminal.
    trust = {"trust_remote_code": bool(kwargs.pop("trust_remote_code", False))}
    with TemporaryDirectory() as folder:  # transformers reads configs, and the code they name, from files
        write_side_files(side_files(plan.a, plan.tokenizer, plan.configs), Path(folder))
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
    models: tuple[PoolModel, PoolModel],
    settings: MergeSettings,
    save_path: str | None,
) -> nn.Module:
    """Merges two models through their state dicts; needs three models' size in memory.

    A model that the pool holds as an instance is left as it was.

    Raises:
        MismatchError: The models are of different classes, names, shapes or types.
        SettingsError: `save_path` is given and the model has no `save_pretrained`, or a setting needs
            checkpoints.
    """
    _check_settings(settings)
    a, b = (_load(pool, model, settings.follow_links) for model in models)
    if type(a) is not type(b):
        fields = ((models[0].name, type(a).__qualname__), (models[1].name, type(b).__qualname__))
        fix = "merge two models of one class"
        raise Problem(MismatchError, "the models' classes differ", fields, fix).error()
    inputs = {model.source: f"model {model.name}" for model in models if model.source}
    if tokenizer := tokenizer_source(pool):
        inputs.setdefault(tokenizer, "the tokenizer")
    target = _check_save_path(a, inputs, save_path, settings)
    report, merged = _merge_state_dicts(a.state_dict(), b.state_dict(), settings)
    child = deepcopy(a) if isinstance(pool._models[models[0].name], nn.Module) else a
    if settings.dtype is not None:
        child.to(getattr(torch, settings.dtype))
    child.load_state_dict(merged)
    if target is not None:
        _save(child, target, pool, models, settings, report)
    return child


def _check_settings(settings: MergeSettings) -> None:
    """Refuses what only a merge of checkpoints can do."""
    defaults = MergeSettings()
    for name in ("granularity", "slices", "chat_template", "tokens", "pad_vocab_to_multiple_of"):
        value = getattr(settings, name)
        if value != getattr(defaults, name):
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
    eager = copy(pool)  # the host's lazy loading cannot build a model
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
    problems = check_apart(target, folders) + check_place(target, settings.overwrite)
    raise_all(problems + check_room(target, nbytes))
    return target


def _folder(source: str, settings: MergeSettings) -> Path:
    """The folder of a model, for its files beside the weights."""
    return resolve(source, weights=False, follow_links=settings.follow_links)[0]


def _merge_state_dicts(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], settings: MergeSettings
) -> tuple[list[TensorReport], dict[str, Tensor]]:
    raise_all(_differences(a, b))
    report, merged = [], {}
    t_of = {name: settings.schedule.t(name, depth) or 0.0 for name, depth in depths(a).items()}
    for name, tensor in a.items():
        if BY_NAME[_dtype_name(tensor)].is_mergeable:
            merged[name], row = interpolate(tensor, b[name], t_of[name], settings, name)
        else:
            merged[name], row = _copied(name, tensor, b[name], t_of[name])
        report.append(row)
    return report, merged


def _differences(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> list[Problem]:
    names = sorted(a.keys() ^ b.keys())
    if names:
        fix = "merge two models of one architecture and depth"
        fields = (("in one only", listed(names, 5)),)
        return [Problem(MismatchError, "the tensor names differ", fields, fix)]
    return [
        Problem(
            MismatchError,
            f"{name} differs",
            (
                ("a", f"{_dtype_name(a[name])} {list(a[name].shape)}"),
                ("b", f"{_dtype_name(b[name])} {list(b[name].shape)}"),
            ),
            "merge two models of one size and of types that can be interpolated",
        )
        for name in a
        if a[name].shape != b[name].shape or not _types_fit(a[name], b[name])
    ]


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _types_fit(a: Tensor, b: Tensor) -> bool:
    dtypes = BY_NAME.get(_dtype_name(a)), BY_NAME.get(_dtype_name(b))
    return dtypes[0] is not None and (
        dtypes[0] == dtypes[1] or all(dtype is not None and dtype.is_mergeable for dtype in dtypes)
    )


def _copied(name: str, a: Tensor, b: Tensor, t: float) -> tuple[Tensor, TensorReport]:
    rule = "copy b" if t == 1 else "copy a" if t == 0 else "copy if equal"
    if rule == "copy if equal" and not torch.equal(a, b.to(a.device)):
        fields = (("tensor", f"{name} ({_dtype_name(a)})"), ("found", "different values"))
        fix = "integers and booleans are copied, never interpolated; make them equal, or set t: 0"
        raise Problem(MismatchError, "a tensor must be equal in both", fields, fix).error()
    return (b if t == 1 else a).clone(), TensorReport(name, rule, t, a.numel())


def _save(
    child: Any,
    target: Path,
    pool: BaseModelPool,
    models: tuple[PoolModel, PoolModel],
    settings: MergeSettings,
    report: list[TensorReport],
) -> None:
    identity = {"only once": token_hex()}  # two models in memory are never known to be the same again
    with staging(target, identity, settings.checksum) as staged:
        folder = staged.files
        child.save_pretrained(folder, max_shard_size=settings.max_shard_nbytes)
        source = tokenizer_source(pool)
        if source is not None:
            write_side_files(dict(tokenizer_files(_folder(source, settings))), folder)
        elif getattr(pool, "tokenizer", None) is not None:
            pool.load_tokenizer().save_pretrained(folder)  # type: ignore[attr-defined]
        cards = [CardParent(model.name) for model in models]
        write_records(folder, cards, settings, report, target.name)
        names = {side: {"model": model.name} for side, model in zip("ab", models, strict=True)}
        staged.publish(write_manifest(folder, names, settings), settings.overwrite)
