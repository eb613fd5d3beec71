"""Checks that a merge has a base if its method or an option needs one, and none if it takes none."""

from __future__ import annotations

import os

from fusion_slerp.errors import Problem, SettingsError, setting
from fusion_slerp.methods import METHODS
from fusion_slerp.settings.merge_settings import MergeSettings


def wrong_base(base: str | os.PathLike[str] | None, settings: MergeSettings) -> list[Problem]:
    """Returns the problems with the base of a merge; None is no base."""
    kind = settings.how.base
    if base is not None:
        if kind == "none":
            return [_unwanted(base, settings)]
        return [] if settings.how.uses_base(settings.parameters) else [_without_effect(base, settings)]
    return [_needed(settings)] if kind == "needed" else without_base(settings)


def without_base(settings: MergeSettings) -> list[Problem]:
    """Returns the problem with an option that needs a base, for a merge that has none."""
    share = getattr(settings.parameters, "towards_base", 0.0)
    if not share:
        return []
    fields = (("towards_base", share), ("needed", "a base: the result is interpolated towards it"))
    fix = f"name the models' common ancestor: {setting('base', 'FOLDER')}, or leave out towards_base"
    return [Problem(SettingsError, "towards_base without a base", fields, fix)]


def _needed(settings: MergeSettings) -> Problem:
    fix = f"name the models' common ancestor: {setting('base', 'FOLDER')}"
    fields = (("method", settings.method), ("needed", "a base: the method merges differences from it"))
    return Problem(SettingsError, f"{settings.method} needs a base", fields, fix)


def _without_effect(base: str | os.PathLike[str], settings: MergeSettings) -> Problem:
    needed = "towards_base: the method has no other use for a base"
    fields = (("method", settings.method), ("base", base), ("needed", needed))
    fix = f"leave out base, or use {setting('towards_base', 0.3)}"
    return Problem(SettingsError, "a base without effect", fields, fix)


def _unwanted(base: str | os.PathLike[str], settings: MergeSettings) -> Problem:
    fields = (("method", settings.method), ("base", base))
    needing = next(method.name for method in METHODS.values() if method.base == "needed")
    fix = f"leave out base, or use a method that takes one, such as {setting('method', needing)}"
    return Problem(SettingsError, f"{settings.method} takes no base", fields, fix)
