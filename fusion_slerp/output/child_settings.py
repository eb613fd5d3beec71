"""The settings of a merge as its child's files show them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from fusion_slerp.settings.merge_settings import MergeSettings

NOT_ABOUT_THE_CHILD = frozenset(
    "strict follow_links overwrite threads memory_budget direct_io checksum show_pbar".split()
)
"""Settings that do not change the model."""


def child_settings(settings: MergeSettings) -> dict[str, Any]:
    """Returns the settings that decide on the model, by name, as plain values.

    Of a tokenizer's local folder only the last name: what is published tells nothing of the rest of the path.
    """
    values = {f.name: getattr(settings, f.name) for f in fields(settings)}
    folder = Path(settings.tokenizer).expanduser()
    if settings.tokenizer not in ("a", "b", "union") and folder.is_dir():  # else it is a hub id
        values["tokenizer"] = folder.resolve().name
    return {name: value for name, value in values.items() if name not in NOT_ABOUT_THE_CHILD}
