"""What is to be merged, from the command line or from a recipe, and how to say it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fusion_slerp.cli.options import flag, parse_options
from fusion_slerp.errors import Problem, SettingsError
from fusion_slerp.settings.merge_settings import MergeSettings


@dataclass(frozen=True, slots=True)
class Request:
    """Two models and how to merge them.

    Attributes:
        a: The first model, t = 0, as the user calls it.
        b: The second, t = 1.
        options: Fields of `MergeSettings` that were set.
        notes: What a recipe says that has no meaning here, one line each.
    """

    a: str
    b: str
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def command(self, out: str | None = None, verb: str = "merge") -> str:
        """Returns the line that does the same in a shell."""
        words = ["fusion_slerp", verb, self.a, self.b]
        defaults = {f.name: f.default for f in fields(MergeSettings)}
        words += ["-t", _typed(self.options.get("t", defaults["t"]))]
        for name, value in self.options.items():
            if name not in ("t", "show_pbar") and value != defaults[name]:
                words += _words(name, value)
        return shlex.join(words + (["-o", out] if out else []))

    def recipe(self, out: str) -> str:
        """Returns the YAML that does the same in FusionBench, and here; `out` is the child's folder."""
        from fusion_slerp.recipes import Recipe, to_hydra

        options = {name: value for name, value in self.options.items() if name != "show_pbar"}
        return to_hydra(Recipe(a=self.a, b=self.b, options=options, notes=()), out)


def is_recipe(text: str) -> bool:
    """Whether an argument names a recipe: a YAML file that exists."""
    return text.endswith((".yml", ".yaml")) and Path(text).expanduser().is_file()


def read_request(first: str, second: str | None, given: Mapping[str, Any]) -> Request:
    """Returns what the arguments ask for; options of the command line win over those of a recipe.

    Args:
        first: The first model, or a recipe.
        second: The second model; None with a recipe.
        given: The options, as texts.

    Raises:
        SettingsError: A model is missing or too many, or an option or the recipe cannot be read.
    """
    options = parse_options(given)
    if is_recipe(first):
        if second is not None:
            fields_ = (("recipe", first), ("found", second))
            fix = "leave out the second model, or name two models and no recipe"
            raise Problem(SettingsError, "a recipe names both models itself", fields_, fix).error()
        from fusion_slerp.recipes import read_recipe

        recipe = read_recipe(Path(first).expanduser())
        return Request(recipe.a, recipe.b, {**recipe.options, **options}, tuple(recipe.notes))
    if second is None:
        raise _no_second(first).error()
    return Request(first, second, options)


def _no_second(first: str) -> Problem:
    looks_so = first.endswith((".yml", ".yaml"))
    found = "no such file" if looks_so else f"one model: {first}"
    needed = "a recipe that exists, or two models" if looks_so else "two models, or a recipe (.yml, .yaml)"
    fix = "correct the path" if looks_so else f"fusion_slerp merge {shlex.quote(first)} SECOND -o child"
    headline = f"{first}: recipe not found" if looks_so else "the second model is missing"
    return Problem(SettingsError, headline, (("found", found), ("needed", needed)), fix)


def _words(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag(name) if value else f"--no-{flag(name)[2:]}"]
    return [flag(name), _typed(value)]


def _typed(value: Any) -> str:
    """A value as YAML in one line; JSON is that."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
