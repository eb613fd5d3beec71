"""Names in pages: a page is made to be shown, so it holds no path of the user's machine.

A model is named as in the model card: by its hub id, or by the last name of its folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusion_slerp.output.model_card import card_parent
from fusion_slerp.planning.private_paths import LOCAL, MAX_PATH
from fusion_slerp.sources.folder import Checkpoint


def without_paths(text: str, models: Mapping[str, Checkpoint]) -> str:
    """Returns a message with models' public names in place of their folders, and `~` for the home folder.

    Args:
        text: A warning, a note or a problem.
        models: The models that it may name.
    """
    for path, name in sorted(_paths(models).items(), key=lambda each: -len(each[0])):
        text = text.replace(path, name)
    home = os.path.expanduser("~")
    return text.replace(home, "~") if len(home) > 1 else text


def without_folders(value: Any) -> Any:
    """Returns a setting, or values of settings, with the last name alone of every path to this machine."""
    if isinstance(value, Mapping):
        return {key: without_folders(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_folders(each) for each in value]
    is_path = isinstance(value, str) and len(value) <= MAX_PATH
    if is_path and (LOCAL.fullmatch(value) or (os.sep in value and os.path.isdir(os.path.expanduser(value)))):
        return Path(value).name
    return value


def plain(value: Any) -> Any:
    """Returns a value of an option: a number as it is, anything else as one line of JSON or its own text."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _paths(models: Mapping[str, Checkpoint]) -> dict[str, str]:
    """Every spelling of a model's folder that differs from its name."""
    paths = {}
    for model in models.values():
        name = card_parent(model).name
        spellings = {
            model.source,
            str(model.folder),
            str(model.folder.resolve()),
            os.path.abspath(model.folder),
        }
        parents = {str(Path(each).parent) for each in spellings if os.sep in each and not model.revision}
        paths |= {each: name for each in spellings if each != name and os.sep in each}
        paths |= {f"{each}{os.sep}": "" for each in parents if len(each) > 2}
    return paths
