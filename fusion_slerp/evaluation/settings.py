"""Checks the settings of an evaluation; each fault becomes a `Problem`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fusion_slerp.errors import Problem, SettingsError, setting
from fusion_slerp.evaluation.evaluation import AVERAGE
from fusion_slerp.evaluation.texts import COLUMN, KINDS, Text, TextError
from fusion_slerp.evaluation.tokens import Tokens
from fusion_slerp.sources.opening import is_hub_id

MERGED = "merged"
"""The name of the merged model in the table."""

BASELINES, DIFFERENCES, SAMPLES, TASKS = "baselines", "differences", "samples", "tasks"
RESERVED = (AVERAGE, BASELINES, DIFFERENCES, SAMPLES, TASKS)
"""Keys of a report that no text may be named after."""

SO = "nothing was evaluated"
"""The state after an error, for messages of several problems."""


def wrong(name: str, found: object, needed: str, example: object) -> Problem:
    """Returns the problem with a setting; `example` is a value that is allowed."""
    fields = (("found", found), ("needed", needed))
    return Problem(SettingsError, f"invalid {name}", fields, f"use {setting(name, example)}")


def absolute(path: str | os.PathLike[str]) -> str:
    """Returns an absolute path with the home folder in place of `~`."""
    return os.path.abspath(os.path.expanduser(path))


def located(source: object) -> str | None:
    """Returns the folder that a source names, else the source if it may be a Hub id, else None."""
    if not isinstance(source, str):
        return None
    folder = absolute(source)
    return folder if os.path.isdir(folder) else source if is_hub_id(source) else None


def open_texts(texts: Any, in_full: bool, problems: list[Problem]) -> dict[str, Text]:
    """Returns the readable texts by name; adds a problem for each of the others.

    Args:
        texts: As the user gives them: name -> file or folder.
        in_full: Whether every document is read, or those up to the first that is not blank.
        problems: To be added to.
    """
    if not isinstance(texts, Mapping) or not texts:
        example = {"NAME": "FILE.txt"}
        problems.append(wrong("texts", repr(texts), "at least one name and file", example))
        return {}
    opened: dict[str, Text] = {}
    for name, file in texts.items():
        if name in RESERVED:
            fields = (("found", "a name that the report uses itself"), ("needed", "another name"))
            fix = f"rename it: {setting('texts', {f'{name}_text': _shown(file)})}"
            problems.append(Problem(SettingsError, f"invalid text {name}", fields, fix))
        elif not isinstance(file, (str, os.PathLike)):
            problems.append(unreadable(name, repr(file), TextError(f"it must be {KINDS}")))
        else:
            text = Text(Path(absolute(file)))
            try:
                text.check(in_full)
                opened[str(name)] = text
            except TextError as error:
                problems.append(unreadable(name, text.path, error))
    return opened


def _shown(file: object) -> str:
    return os.fspath(file) if isinstance(file, (str, os.PathLike)) else "FILE.txt"  # type: ignore[return-value]


def unreadable(name: str, path: object, error: TextError) -> Problem:
    """Returns the problem with a text that cannot be read."""
    needed = f"{KINDS}; each record with a string `{COLUMN}`"
    fields = (("path", path), ("found", str(error)), ("needed", needed))
    fix = error.fix or f"use {setting('texts', {name: 'FILE.txt'})}"
    return Problem(SettingsError, f"cannot read the text {name}", fields, fix)


def check_number(
    name: str, value: object, least: int, example: int, problems: list[Problem], or_none: bool = True
) -> None:
    """Adds a problem unless the value is a whole number of at least `least`, or None if that is allowed."""
    is_whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if not is_whole and not (value is None and or_none):
        problems.append(wrong(name, repr(value), f"a whole number, at least {least}", example))


def check_stride(stride: int, context_length: int, problems: list[Problem]) -> None:
    """Adds a problem unless every window begins with a token that is not scored in it."""
    if stride >= context_length:
        needed = f"less than the context length {context_length}: each scored token needs one before it"
        problems.append(wrong("stride", stride, needed, context_length - 1))


def check_prompts(prompts: object, problems: list[Problem]) -> None:
    """Adds a problem unless there are no prompts, or a list of strings that are not empty."""
    is_list = isinstance(prompts, (list, tuple)) and all(isinstance(each, str) and each for each in prompts)
    if prompts is not None and not is_list:
        problems.append(wrong("prompts", repr(prompts), "a list of texts, none empty", ["Once upon a time"]))


def is_usable(device: object) -> bool:
    """Whether torch can compute there, or chooses by itself (`auto`)."""
    try:
        return device == "auto" or torch.empty(0, device=torch.device(str(device))).device.type != "meta"
    except (RuntimeError, AssertionError):  # unknown or absent; a torch built without CUDA asserts
        return False


def check_tokens(model: str, config: Any, texts: Mapping[str, Tokens], problems: list[Problem]) -> None:
    """Adds a problem for each text that has nothing to score, or a token that the model does not know."""
    rows = getattr(config.get_text_config(), "vocab_size", None)
    for text, tokens in texts.items():
        if not any(len(ids) > 1 for ids in tokens.ids):
            found = f"no document with two tokens or more, according to the tokenizer of {model}"
            fields, fix = (("found", found),), f"use {setting('texts', {text: 'LONGER.txt'})}"
            problems.append(Problem(SettingsError, f"the text {text} is too short", fields, fix))
        largest = max((int(ids.max()) for ids in tokens.ids if len(ids)), default=0)
        if rows is not None and largest >= rows:
            fields = (("found", f"token id {largest} in {text}; {model} has {rows} embedding rows"),)
            fix = f"use a tokenizer that has at most {rows} tokens, such as that of one of its source models"
            problems.append(Problem(SettingsError, f"the tokenizer of {model} does not fit it", fields, fix))
