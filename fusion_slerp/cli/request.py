"""What is to be merged, from the command line or from a recipe, and how to say it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusion_slerp.cli.options import flag, long_flag, parse_options
from fusion_slerp.errors import Problem, SettingsError
from fusion_slerp.methods import DEFAULT, METHODS, Method
from fusion_slerp.options import declaration, declared
from fusion_slerp.settings.labels import BASE, labels
from fusion_slerp.settings.merge_settings import option_fields
from fusion_slerp.settings.schedule import KEYS

ORDINALS = ("first", "second", "third")


@dataclass(frozen=True, slots=True)
class Request:
    """Models and how to merge them.

    Attributes:
        models: As the user calls them: a, b, c, ...
        base: The ancestor, for methods that take one; None without.
        options: Those that were set, by name.
        notes: What a recipe says that has no meaning here, one line each.
    """

    models: tuple[str, ...]
    base: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def named(self) -> dict[str, str]:
        """The models by label."""
        named = dict(zip(labels(len(self.models)), self.models, strict=True))
        return named if self.base is None else named | {BASE: self.base}

    @property
    def method(self) -> Method | None:
        """The method; None if there is none of that name."""
        name = self.options.get("method", DEFAULT)
        return METHODS.get(name) if isinstance(name, str) else None

    def command(self, out: str | None = None, verb: str = "merge") -> str:
        """Returns the line that does the same in a shell."""
        words = ["fusion_slerp", verb, *self.models]
        words += ["--base", self.base] if self.base is not None else []
        for name, value in self._said().items():
            words += _words(name, value)
        return shlex.join(words + (["-o", out] if out else []))

    def _said(self) -> dict[str, Any]:
        """The options that the line names: the schedules of the method, and what is not the default."""
        known = option_fields()
        own = declared(self.method.options) if self.method else {}
        always = {name: each.default for name, each in own.items() if declaration(each).is_schedule}
        chosen = {
            name: value
            for name, value in self.options.items()
            if name not in always and name != "show_pbar" and value != known[name].default
        }
        method = {name: chosen.pop(name) for name in ("method",) if name in chosen}
        return method | {name: self.options.get(name, default) for name, default in always.items()} | chosen

    def recipe(self, out: str) -> str:
        """Returns the YAML that does the same in FusionBench and here, into the folder `out`."""
        from fusion_slerp.recipes import Recipe, to_hydra

        options = {name: value for name, value in self.options.items() if name != "show_pbar"}
        return to_hydra(Recipe(self.models, options, self.base), out)


def is_recipe(text: str) -> bool:
    """Whether an argument names a recipe: a YAML file that exists."""
    return text.endswith((".yml", ".yaml")) and Path(text).expanduser().is_file()


def read_request(models: Sequence[str], base: str | None, given: Mapping[str, Any]) -> Request:
    """Returns what the arguments ask for; options of the command line win over those of a recipe.

    Args:
        models: The models, or one recipe.
        base: The ancestor; None without.
        given: The options as they were typed; see `parse_options`.

    Raises:
        SettingsError: A model is missing or too many, or an option or the recipe cannot be read.
    """
    options = parse_options(given)
    first, *others = models
    if not is_recipe(first):
        request = Request(tuple(models), base, options)
        _check_count(request)
        return request
    if others:
        fields = (("recipe", first), ("found", ", ".join(others)))
        fix = "leave out the other models, or name models and no recipe"
        raise Problem(SettingsError, "a recipe names the models itself", fields, fix).error()
    from fusion_slerp.recipes import read_recipe

    recipe = read_recipe(Path(first).expanduser())
    base = recipe.base if base is None else base
    return Request(recipe.models, base, {**recipe.options, **options}, recipe.notes)


def _check_count(request: Request) -> None:
    """Refuses a recipe that is not there, and fewer models than the method merges."""
    (first, *_), n = request.models, len(request.models)
    if n == 1 and first.endswith((".yml", ".yaml")):
        fields = (("found", "no such file"), ("needed", "a recipe that exists, or models"))
        raise Problem(SettingsError, f"{first}: recipe not found", fields, "correct the path").error()
    method = request.method
    if method is None or n >= method.n_models[0]:
        return
    missing = f"the {ORDINALS[n] if n < len(ORDINALS) else f'{n + 1}th'} model is missing"
    found = f"{n} model{'s' * (n > 1)}: {', '.join(request.models)}"
    needed = f"{method.models_text} for {method.name}, or a recipe (.yml, .yaml)"
    words = shlex.join(["fusion_slerp", "merge", *request.models])
    holes = " ".join(word.upper() for word in ORDINALS[n : method.n_models[0]])
    fix = f"{words} {holes} -o child"
    raise Problem(SettingsError, missing, (("found", found), ("needed", needed)), fix).error()


def _words(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        yield long_flag(name, value)
    elif declaration(option_fields()[name]).is_per_model and _is_by_label(value):
        for label, each in value.items():
            yield from (flag(name), f"{label}={_typed(each)}")
    else:
        yield from (flag(name), _typed(value))


def _is_by_label(value: Any) -> bool:
    """Whether a value holds one for each of several models, and is not an entry of a schedule."""
    return isinstance(value, Mapping) and bool(value) and not set(value) & set(KEYS)


def _typed(value: Any) -> str:
    """A value as YAML in one line; JSON is that."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
