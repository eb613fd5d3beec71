"""The settings of a merge as the merged model's files show them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fusion_slerp.options import declared
from fusion_slerp.settings.labels import is_label
from fusion_slerp.settings.merge_settings import MergeSettings

UNION = "union"
"""A tokenizer that is neither a model's nor in a folder or on the hub."""


def child_settings(settings: MergeSettings) -> dict[str, Any]:
    """Returns the settings that decide on the merged model, by name, as plain values.

    The method and its options come first. Only the last name of a tokenizer's local folder is shown: what is
    published says nothing of the rest of the path.
    """
    values = settings.about_the_child
    first = [name for name in ("method", *declared(settings.how.options)) if name in values]
    return {**{name: values[name] for name in first}, **values, "tokenizer": _tokenizer(settings.tokenizer)}


def _tokenizer(given: str) -> str:
    folder = Path(given).expanduser()
    if given == UNION or is_label(given) or not folder.is_dir():  # not a folder: a hub id
        return given
    return folder.resolve().name
