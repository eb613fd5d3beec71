"""What is checked of models in memory before they are merged: as much as there is to be known of them."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from torch import nn

from fusion_slerp.errors import (
    FusionSlerpError,
    MismatchError,
    Problem,
    SettingsError,
    listed,
    quoted,
    raise_all,
    setting,
)
from fusion_slerp.options import declared
from fusion_slerp.planning.compatibility import compare_configs, compare_ids
from fusion_slerp.planning.view import whole
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.opening import resolve
from fusion_slerp.vocabulary.tokens import Vocabulary, read_all

log = logging.getLogger(__name__)

HAVE_AN_EFFECT = frozenset(
    "method dtype max_shard_size strict follow_links overwrite threads checksum show_pbar".split()
)
"""Options of every method that models in memory heed. The other ones need checkpoints."""

HAVE_NONE = frozenset({"granularity"})
"""Options of single methods that need checkpoints. Models in memory heed all others."""

AS_IF_UNSET = {"direct_io": "off"}
"""Values of other options that ask for nothing."""

ADAPTER_NAMES = re.compile(r"(?:^|\.)lora_(?:A|B|down|up|embedding_A|embedding_B)(?:\.|$)")
"""Names of the factors of low-rank adapters."""


def check_settings(settings: MergeSettings) -> None:
    """Refuses options that have no effect on models in memory.

    Raises:
        SettingsError: Such an option is set; all of them at once.
    """
    own, common = declared(settings.how.options), declared(MergeSettings)
    raise_all(
        [
            _without_effect(name, value, default)
            for name, value in settings.options.items()
            if name not in HAVE_AN_EFFECT and (name not in own or name in HAVE_NONE)
            for default in [(own | common)[name].default]
            if value not in (default, AS_IF_UNSET.get(name, default))
        ]
    )


def _without_effect(name: str, value: object, default: object) -> Problem:
    fields = (("found", f"{value!r}"), ("needed", "checkpoints, not models that are built"))
    fix = f"name the folders or hub ids of the models, or use {setting(name, default)}"
    return Problem(SettingsError, f"{name} needs checkpoints", fields, fix)


def check_adapters(models: Mapping[str, nn.Module]) -> None:
    """Refuses models, by name, with adapters that are not merged into their weights.

    Raises:
        SettingsError: A model has adapters.
    """
    found = {name: _adapters(model) for name, model in models.items()}
    raise_all([_with_adapters(name, what) for name, what in found.items() if what])


def _adapters(model: nn.Module) -> str:
    """What shows that a model has adapters; empty if it has none."""
    if "peft" in sys.modules:  # without it, nobody can have made one
        from peft import PeftModel
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        kinds = (PeftModel, BaseTunerLayer, AuxiliaryTrainingWrapper)
        part = next((each for each in model.modules() if isinstance(each, kinds)), None)
        if part is not None:
            return f"a {type(part).__module__}.{type(part).__name__}"
    return next((name for name in model.state_dict() if ADAPTER_NAMES.search(name)), "")


def _with_adapters(name: str, found: str) -> Problem:
    fields = (("model", name), ("found", found))
    fix = "put the model that PEFT's merge_and_unload() returns into the pool"
    return Problem(SettingsError, "adapters must be merged into their model first", fields, fix)


def check_classes(models: Mapping[str, nn.Module]) -> None:
    """Refuses models, by name, of different classes.

    Raises:
        MismatchError: The classes differ.
    """
    classes = {name: type(model) for name, model in models.items()}
    if len(set(classes.values())) > 1:
        fields = tuple((name, each.__qualname__) for name, each in classes.items())
        fix = "merge models of one class"
        raise Problem(MismatchError, "the models' classes differ", fields, fix).error()


def check_configs(models: Mapping[str, nn.Module], names: Mapping[str, str], settings: MergeSettings) -> None:
    """Compares the configs of models, by label, as those of checkpoints; warns of differences.

    Args:
        models: The models.
        names: Their names in the pool, by label.
        settings: `strict` makes each difference an error.

    Raises:
        MismatchError: The configs rule out a merge, or differ under `strict`.
        SettingsError: `strict` is set, and a model has no config.
    """
    configs = {label: config_of(model) for label, model in models.items()}
    without = [names[label] for label, config in configs.items() if config is None]
    if without:
        raise_all([_not_strict(without)] if settings.strict else [])
        return
    views = {
        label: whole(label, Checkpoint(names[label], Path(f"model {names[label]}"), None, config or {}, {}))
        for label, config in configs.items()
    }
    problems, warnings = compare_configs(views)
    warnings += compare_ids(views, {})
    if settings.strict:
        fix = f"use {setting('strict', False)} to merge them anyway"
        problems += [Problem(MismatchError, warning, (), fix) for warning in warnings]
    raise_all(problems)
    for warning in warnings:
        log.warning("%s", warning)


def config_of(model: nn.Module) -> dict[str, Any] | None:
    """Returns a model's config as it would be written to a file; None if it has none."""
    as_mapping = getattr(getattr(model, "config", None), "to_dict", None)
    return json.loads(json.dumps(as_mapping(), default=str)) if as_mapping is not None else None


def _not_strict(names: list[str]) -> Problem:
    fields = (("models without a config", ", ".join(names)),)
    return Problem(SettingsError, "strict compares configs", fields, f"use {setting('strict', False)}")


def origins(models: Mapping[str, nn.Module]) -> dict[str, Path]:
    """Returns the folders that models were loaded from, by name, where they are still available."""
    found = {name: _origin(model) for name, model in models.items()}
    return {name: folder for name, folder in found.items() if folder is not None}


def check_tokens(models: Mapping[str, nn.Module], folders: Mapping[str, Path], tokenizer: str | None) -> None:
    """Compares the tokens of models, by name, and those of the pool's tokenizer, by their rows.

    Models in memory are merged row by row, so a row must have one token. Where the tokens are not known, a
    warning says so.

    Args:
        models: The models.
        folders: Where they were loaded from, if known.
        tokenizer: The pool's tokenizer, a folder or Hub id; None if there is none.

    Raises:
        MismatchError: A row has different tokens.
    """
    known = {name: each.rows for name, each in read_all(folders).items() if each is not None}
    for (name, rows), (other, its_rows) in combinations(known.items(), 2):
        if rows is not its_rows and rows != its_rows:
            raise _other_tokens(name, rows, other, its_rows).error()
    if unknown := [name for name, model in models.items() if name not in known and _has_tokens(model)]:
        log.warning(
            "the vocabularies could not be compared; no readable tokenizer for %s; "
            "rows are assumed to have the same tokens in all models",
            ", ".join(unknown),
        )
    if tokenizer is not None and known:
        _check_tokenizer(tokenizer, *next(iter(known.items())))


def _has_tokens(model: Any) -> bool:
    try:  # an image's embedding is a convolution
        return isinstance(model.get_input_embeddings(), nn.Embedding)
    except (AttributeError, NotImplementedError):
        return False


def _origin(model: Any) -> Path | None:
    """The folder that a model was loaded from; None if it is not known or no longer available."""
    config = getattr(model, "config", None)
    source, commit = getattr(config, "_name_or_path", None), getattr(config, "_commit_hash", None)
    if not source or not (_has_tokens(model) or os.path.isdir(source)):
        return None  # or nothing that the Hub need be asked for
    return _folder(f"{source}@{commit}" if commit else source)


def _folder(source: str) -> Path | None:
    try:  # links may lead anywhere: nothing is copied
        return resolve(source, weights=False, follow_links=True)[0]
    except FusionSlerpError:
        return None


def _check_tokenizer(tokenizer: str, name: str, rows: Vocabulary) -> None:
    """Refuses a tokenizer of the pool that has another token in a row of the models'."""
    folder = _folder(tokenizer)
    tokens = read_all({"tokenizer": folder})["tokenizer"] if folder is not None else None
    if tokens is None:
        return
    of_row = {row: token for token, row in rows.items()}
    if any(of_row.get(row, token) != token for token, row in tokens.rows.items()):
        raise _other_tokens(name, rows, "modelpool.tokenizer", tokens.rows).error()


def _other_tokens(name: str, rows: Vocabulary, other: str, its_rows: Vocabulary) -> Problem:
    moved = [token for token, row in rows.items() if its_rows.get(token) != row]
    moved += [token for token in its_rows if token not in rows]
    shown = [f"{quoted(t)} {_row(rows, t)} and {_row(its_rows, t)}" for t in moved[:3]]
    fields = (("tokens", f"{listed(shown)} (rows in {name} and {other}); {len(moved)} differ"),)
    fix = (
        "put the folders or hub ids of the models into the pool (modelpool.models.NAME=FOLDER): "
        "checkpoints are merged token by token"
    )
    return Problem(MismatchError, "models in memory with different tokens cannot be merged", fields, fix)


def _row(rows: Vocabulary, token: str) -> str:
    return str(rows.get(token, "none"))
