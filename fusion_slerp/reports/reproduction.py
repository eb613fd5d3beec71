"""How to repeat a merge: its settings as YAML, and the commands, made from what the manifest publishes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from fusion_slerp.errors import FusionSlerpError, not_an_option, setting, spelled
from fusion_slerp.methods import DEFAULT
from fusion_slerp.output.child_settings import child_settings
from fusion_slerp.recipes import Recipe, to_hydra
from fusion_slerp.settings.labels import BASE
from fusion_slerp.settings.merge_settings import make_settings


def reproduction(
    parents: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any], name: str
) -> dict[str, Any]:
    """Returns the settings and how to use them.

    Args:
        parents: The manifest's rows of the source models, by label.
        settings: The manifest's settings.
        name: The merged model's name.

    Returns:
        `settings`: all of them as YAML; `recipe`: the YAML that `merge` takes; `command`, `python`: lines
        that repeat the merge; `verify`: a line that checks the result. The lines are missing if a source
        model was in memory, or if the settings are those of another version.
    """
    shown = {"settings": _yaml(settings), "verify": f"fusion_slerp verify {_word(name)} --recompute all"}
    if not all("files" in row for row in parents.values()):
        return {**shown, "verify": f"fusion_slerp verify {_word(name)}"}
    try:
        chosen = _chosen(settings)
        models = {label: _pinned(row) for label, row in parents.items()}
        base = models.pop(BASE, None)
        recipe = Recipe(tuple(models.values()), chosen, base)
        return {
            **shown,
            "recipe": to_hydra(recipe, name),
            "command": _command(recipe, name),
            "python": _python(recipe, name),
        }
    except FusionSlerpError:  # settings that this version does not know
        return shown


def _pinned(row: Mapping[str, Any]) -> str:
    return f"{row['model']}@{row['revision']}" if row.get("revision") else str(row["model"])


def _chosen(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that differ from their defaults, and always those with a schedule.

    Raises:
        SettingsError: A setting is unknown here.
    """
    method = settings.get("method", DEFAULT)
    checked = make_settings(**settings)
    defaults = child_settings(make_settings(method=method))
    return {
        name: value
        for name, value in settings.items()
        if name in checked.schedules or value != (DEFAULT if name == "method" else defaults.get(name))
    }


def _command(recipe: Recipe, name: str) -> str:
    words = ["fusion_slerp merge", *map(_word, recipe.models)]
    words += [f"--base {_word(recipe.base)}"] if recipe.base is not None else []
    words += [spelled(setting(option, value), "command") for option, value in recipe.options.items()]
    return " ".join([*words, f"-o {_word(name)}"])


def _python(recipe: Recipe, name: str) -> str:
    arguments = [repr(model) for model in recipe.models]
    arguments += [f"base={recipe.base!r}"] if recipe.base is not None else []
    arguments += [f"out={name!r}", *(f"{option}={value!r}" for option, value in recipe.options.items())]
    return f"from fusion_slerp import merge\n\nmerge({', '.join(arguments)})"


def _word(name: str) -> str:
    return shlex.quote(not_an_option(name))


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
