"""Reads and checks the settings of an evaluation; each fault becomes a `Problem`."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fusion_slerp.errors import Problem, SettingsError
from fusion_slerp.evaluation import losses as perplexity
from fusion_slerp.sources.opening import is_hub_id

log = logging.getLogger(__name__)

MERGED = "merged"
"""The name of the merged model in the table."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One model to evaluate: its config, and by text the tokens of each document, as ids and as strings.

    Two models with equal strings are scored on the same task.
    """

    config: Any
    ids: dict[str, list[torch.Tensor]]
    tokens: dict[str, list[list[str]]]


def wrong(name: str, found: object, needed: str, example: object) -> Problem:
    fields = (("found", found), ("needed", needed))
    return Problem(SettingsError, f"invalid taskpool.{name}", fields, f"use {override(name, example)}")


def override(name: str, value: object) -> str:
    """Returns an argument of the command line that sets a key of the task pool."""
    return shlex.quote(f"taskpool.{name}={value}")


def cannot_load(name: str, source: object, error: Exception) -> Problem:
    log.debug("cannot load %s", source, exc_info=error)
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return wrong(name, f"{source}: {reason}", "a folder or Hub id that transformers can load", "FOLDER")


def _absolute(path: str | os.PathLike[str]) -> str:
    return os.path.abspath(os.path.expanduser(path))


def located(source: object) -> str | None:
    """Returns the folder that a source names, else the source if it may be a Hub id, else None."""
    if not isinstance(source, str):
        return None
    folder = _absolute(source)
    return folder if os.path.isdir(folder) else source if is_hub_id(source) else None


def read_texts(texts: Any, problems: list[Problem]) -> dict[str, list[str]]:
    """Returns the documents of every valid text file; adds a problem for each of the others."""
    if not isinstance(texts, Mapping) or not texts:
        problems.append(wrong("texts", repr(texts), "at least one name and file", "{NAME: FILE.txt}"))
        return {}
    documents: dict[str, list[str]] = {}
    for name, file in texts.items():
        setting, needed = f"texts.{name}", 'a .txt in UTF-8, or a .jsonl with {"text": "..."} in every line'
        if name in ("average", "baselines"):
            fields = (("found", "a name that the report uses itself"), ("needed", "another name"))
            fix = f"rename it: '~taskpool.{setting}' +{override(f'{setting}_text', 'FILE.txt')}"
            problems.append(Problem(SettingsError, f"invalid taskpool.{setting}", fields, fix))
        elif not isinstance(file, (str, os.PathLike)):
            problems.append(wrong(setting, repr(file), needed, "FILE.txt"))
        else:
            path = _absolute(file)
            try:
                documents[str(name)] = perplexity.read_documents(Path(path))
            except ValueError as error:
                problems.append(wrong(setting, f"{path}: {error}", needed, "FILE.txt"))
    return documents


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
    needed = "a folder, a Hub id, a mapping with `_target_`, or a tokenizer"
    if isinstance(tokenizer, str) and located(tokenizer) is None:
        problems.append(wrong("tokenizer", f"{tokenizer!r}: no such folder", needed, "FOLDER"))
    elif isinstance(tokenizer, dict) and "_target_" not in tokenizer:
        problems.append(wrong("tokenizer", tokenizer, needed, "FOLDER"))


def check_number(name: str, value: object, least: int, default: int | None, problems: list[Problem]) -> None:
    """Adds a problem unless the value is a whole number of at least `least`, or None like the default."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if not whole and not (value is None and default is None):
        needed = f"a whole number, at least {least}" + (", or null" if default is None else "")
        problems.append(wrong(name, repr(value), needed, "null" if default is None else default))


def check_stride(stride: int, context_length: int, problems: list[Problem]) -> None:
    if stride >= context_length:
        needed = f"less than the context length {context_length}: each scored token needs one before it"
        problems.append(wrong("stride", stride, needed, context_length - 1))


def is_usable(device: object) -> bool:
    try:
        return device == "auto" or torch.empty(0, device=torch.device(str(device))).device.type != "meta"
    except (RuntimeError, AssertionError):  # unknown or absent; a torch built without CUDA asserts
        return False


def check_ids(name: str, subject: Subject, problems: list[Problem]) -> None:
    """Adds a problem for each text that has nothing to score, or a token that the model does not know."""
    rows = getattr(subject.config, "vocab_size", None)
    for text, documents in subject.ids.items():
        if not any(len(ids) > 1 for ids in documents):
            found = f"no document with two tokens or more, according to the tokenizer of {name}"
            problems.append(wrong(f"texts.{text}", found, "a longer text", "FILE.txt"))
        largest = max((int(ids.max()) for ids in documents if len(ids)), default=0)
        if rows is not None and largest >= rows:
            setting = "tokenizer" if name == MERGED else f"baselines.{name}"
            found = f"token id {largest} in {text}; {name} has {rows} embedding rows"
            problems.append(wrong(setting, found, "a tokenizer that fits the model", "FOLDER"))
