"""The settings of a merge as the merged model's files state them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fusion_slerp.options import declared
from fusion_slerp.settings.labels import is_label
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.sources.hub.pins import pinned

UNION = "union"
"""The tokenizer with the tokens of all models; not the name of a model, a folder or a hub id."""


def child_settings(settings: MergeSettings) -> dict[str, Any]:
    """Returns the settings that determine the merged model, by name, as plain values.

    The method and its options come first. A tokenizer's local folder is shown by its last name only: what is
    published reveals no paths. A hub id has the commit that was read.
    """
    values = settings.about_the_child
    first = [name for name in ("method", *declared(settings.how.options)) if name in values]
    return {**{name: values[name] for name in first}, **values, "tokenizer": _tokenizer(settings.tokenizer)}


def _tokenizer(given: str) -> str:
    folder = os.path.expanduser(given)
    if given == UNION or is_label(given):
        return given
    return Path(folder).resolve().name if os.path.isdir(folder) else pinned(given)
