"""The settings of task pools that name models: checked, and the models loaded."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from typing import Any

import torch

from fusion_slerp.errors import CheckpointError, Problem, SettingsError
from fusion_slerp.evaluation.models import load_model
from fusion_slerp.evaluation.settings import MERGED, located

log = logging.getLogger(__name__)


def wrong(name: str, found: object, needed: str, example: object) -> Problem:
    """Returns the problem with a setting of the task pool; `example` is a value that is allowed."""
    fields = (("found", found), ("needed", needed))
    return Problem(SettingsError, f"invalid taskpool.{name}", fields, f"use {override(name, example)}")


def override(name: str, value: object) -> str:
    """Returns an argument of the command line that sets a key of the task pool."""
    return shlex.quote(f"taskpool.{name}={value}")


def cannot_load(name: str, source: object, error: Exception) -> Problem:
    """Returns the problem with a tokenizer or model that transformers could not load."""
    log.debug("cannot load %s", source, exc_info=error)
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return wrong(name, f"{source}: {reason}", "a folder or Hub id that transformers can load", "FOLDER")


def locate_baselines(baselines: Any, problems: list[Problem]) -> dict[str, str]:
    """Returns the folder or Hub id of each baseline; adds a problem for each that is neither."""
    if not isinstance(baselines, Mapping):
        problems.append(wrong("baselines", repr(baselines), "names and folders, or null", "null"))
        return {}
    sources: dict[str, str] = {}
    for name, given in baselines.items():
        setting = f"baselines.{name}"
        source = _checkpoint_of(given) if isinstance(given, Mapping) else given
        if name == MERGED:
            fields = (("found", "the name of the merged model"), ("needed", "another name"))
            fix = f"use '~taskpool.{setting}', or rename modelpool.models.{name} if baselines follow it"
            problems.append(Problem(SettingsError, f"invalid taskpool.{setting}", fields, fix))
        elif (folder := located(source)) is None:
            fields = (("found", f"{source!r}: no such folder"), ("needed", "a folder or a Hub id"))
            follow = f"correct modelpool.models.{name} if baselines follow it"
            fix = f"use {override(setting, 'FOLDER')}, or {follow}"
            problems.append(Problem(SettingsError, f"invalid taskpool.{setting}", fields, fix))
        else:
            sources[str(name)] = folder
    return sources


def _checkpoint_of(entry: Mapping[str, Any]) -> object:
    path, revision = entry.get("pretrained_model_name_or_path"), entry.get("revision")
    return f"{path}@{revision}" if path and revision else path


def check_tokenizer(tokenizer: Any, problems: list[Problem]) -> None:
    """Adds a problem unless the setting can be a tokenizer."""
    needed = "a folder, a Hub id, a mapping with `_target_`, or a tokenizer"
    if isinstance(tokenizer, str) and located(tokenizer) is None:
        problems.append(wrong("tokenizer", f"{tokenizer!r}: no such folder", needed, "FOLDER"))
    elif isinstance(tokenizer, dict) and "_target_" not in tokenizer:
        problems.append(wrong("tokenizer", tokenizer, needed, "FOLDER"))


def load_baseline(name: str, source: str, dtype: torch.dtype | None = None) -> Any:
    """Returns a baseline in a type, by default its own.

    Raises:
        CheckpointError: The files lack weights.
    """
    try:
        return load_model(source, dtype)
    except CheckpointError as error:
        fix = f"use {override(f'baselines.{name}', 'FOLDER')}, with a folder that contains the whole model"
        fields = next((each.fields for each in error.problems if isinstance(each, Problem)), ())
        headline = f"taskpool.baselines.{name} cannot be evaluated: {_headline(error)}"
        raise Problem(CheckpointError, headline, fields, fix).error() from error


def _headline(error: CheckpointError) -> str:
    return str(error).partition("\n")[0]
