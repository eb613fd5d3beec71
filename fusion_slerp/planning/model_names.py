"""The models' names, on which methods that draw elements at random depend.

They are resolved when a merge is planned, and are part of its settings from then on. So the merged model is
made again from models that were moved, and an interrupted merge is resumed with the same names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count

from fusion_slerp.errors import Problem, SettingsError, raise_all, setting
from fusion_slerp.options import declared
from fusion_slerp.settings.labels import BASE
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.sources.folder import Checkpoint

OPTION = "names"

ORDINALS = ("first", "second", "third", "fourth", "fifth")


def with_names(settings: MergeSettings, names: Mapping[str, str]) -> MergeSettings:
    """Returns the settings with the name of every model, if the method has an option for them.

    Args:
        settings: The options; names that they give are kept.
        names: The models' own names, by label, without the base's.

    Raises:
        SettingsError: Two models have one name, or a name is given for none of the models.
    """
    if OPTION not in declared(settings.how.options):
        return settings
    given = settings.parameters.names or {}
    resolved = {label: given.get(label, name) for label, name in names.items()}
    raise_all([*_unknown(given, names), *_equal(resolved, given)])
    return replace(settings, parameters=replace(settings.parameters, names=resolved))


def names_of(parents: Mapping[str, Checkpoint]) -> dict[str, str]:
    """Returns the names of the models, by label, without the base's."""
    return {label: name_of(parent) for label, parent in parents.items() if label != BASE}


def name_of(parent: Checkpoint) -> str:
    """Returns a model's name: its Hub id, or the last name of its folder. It reveals no path."""
    return parent.source.partition("@")[0] if parent.revision else parent.folder.resolve().name


def _unknown(given: Mapping[str, str], names: Mapping[str, str]) -> Iterator[Problem]:
    for label in given.keys() - names.keys():
        whose = (
            "the base, of which nothing is drawn" if label == BASE else f"model {label}, which is not merged"
        )
        fields, fix = (("found", label), ("needed", ", ".join(names))), f"leave {label} out of {OPTION}"
        yield Problem(SettingsError, f"{OPTION} has a value for {whose}", fields, fix)


def _equal(resolved: Mapping[str, str], given: Mapping[str, str]) -> Iterator[Problem]:
    """Yields a problem if models share a name: the same elements of both would be kept."""
    labels: dict[str, list[str]] = {}
    for label, name in resolved.items():
        labels.setdefault(name, []).append(label)
    shared = {name: each for name, each in labels.items() if len(each) > 1}
    if shared:
        fields = tuple((f"name of {' and '.join(each)}", name) for name, each in shared.items())
        free = (name for name in _ordinals() if name not in labels)
        new = {label: next(free) for each in shared.values() for label in each}
        own = {label: name for label, name in given.items() if label not in new}
        fix = f"give them names of their own: {setting(OPTION, own | new)}"
        headline = "models have the same name, so the same elements of each would be kept"
        yield Problem(SettingsError, headline, fields, fix)


def _ordinals() -> Iterator[str]:
    yield from ORDINALS
    yield from (f"model {n}" for n in count(len(ORDINALS) + 1))
