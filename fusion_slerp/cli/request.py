"""A requested merge, from the command line or a recipe, and the line that repeats it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Any

from fusion_slerp.cli.options import flag, is_per_model, is_switch, long_flag, parse_options
from fusion_slerp.cli.shell import shell_line
from fusion_slerp.errors import FusionSlerpError, Problem, SettingsError, not_an_option
from fusion_slerp.methods import DEFAULT, METHODS, Method
from fusion_slerp.options import declaration, declared
from fusion_slerp.settings.labels import BASE, labels
from fusion_slerp.settings.merge_settings import option_fields
from fusion_slerp.settings.schedule import KEYS

if TYPE_CHECKING:
    from fusion_slerp.planning.plan import MergePlan

ORDINALS = ("first", "second", "third")


@dataclass(frozen=True, slots=True)
class Request:
    """Models and how to merge them.

    Attributes:
        models: Models a, b, c, ... as the user named them.
        base: The ancestor, for methods that take one; None without.
        options: The options that were set, by name.
        notes: Remarks on the reading of a recipe, one line each.
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

    def command(self, out: str | None = None, verb: str = "merge", in_full: bool = True) -> str:
        """Returns the line that does the same in a shell.

        Args:
            out: The merged model's folder.
            verb: The command.
            in_full: Also name the schedules of the method that have their default.
        """
        words = ["fusion_slerp", verb, *map(not_an_option, self.models)]
        words += ["--base", not_an_option(self.base)] if self.base is not None else []
        for name, value in (self._said() if in_full else self.options).items():
            words += _words(name, value)
        return shell_line(words + (["-o", not_an_option(out)] if out else []))

    def repeated(self, out: str) -> str:
        """Returns the line that repeats a merge whose folder exists."""
        return replace(self, options={**self.options, "overwrite": True}).command(out)

    def notes_on(self, plan: MergePlan) -> list[str]:
        """Returns the remarks that concern the models of a plan, and those on their vocabularies."""
        if not self.notes:
            return list(plan.notes)
        from fusion_slerp.recipes.mergekit_form import ROUNDED_TWICE

        dtypes = {entry.dtype for parent in plan.parents.values() for entry in parent.tensors.values()}
        is_wide = any(dtype.is_mergeable and dtype.itemsize > 2 for dtype in dtypes)
        return [note for note in (*self.notes, *plan.notes) if is_wide or not note.endswith(ROUNDED_TWICE)]

    def _said(self) -> dict[str, Any]:
        """The options that the line names: the method's schedules, and the others that were changed."""
        own = declared(self.method.options) if self.method else {}
        known = option_fields() | own
        always = {name: each.default for name, each in own.items() if declaration(each).is_schedule}
        chosen = {
            name: value
            for name, value in self.options.items()
            if name not in always and name != "show_pbar" and value != known[name].default
        }
        method = {name: chosen.pop(name) for name in ("method",) if name in chosen}
        return method | {name: self.options.get(name, default) for name, default in always.items()} | chosen

    def recipe(self, out: str) -> str:
        """Returns YAML for the same merge into `out`, for FusionBench and this command."""
        from fusion_slerp.recipes import Recipe, to_hydra

        options = {name: value for name, value in self.options.items() if name != "show_pbar"}
        return to_hydra(Recipe(self.models, options, self.base), out)


def is_recipe(argument: str) -> bool:
    """Whether an argument names a recipe: a YAML file that exists, or one that ships with this package."""
    if not argument.endswith((".yml", ".yaml")):
        return False
    if os.path.isfile(os.path.expanduser(argument)):
        return True
    from fusion_slerp.recipes.shipped import shipped

    return shipped(argument) is not None


def read_request(
    models: Sequence[str],
    base: str | None,
    given: Mapping[str, Any],
    out: str | None = None,
    needs_out: bool = False,
) -> Request:
    """Returns the requested merge; options of the command line take precedence over those of a recipe.

    Args:
        models: The models, or one recipe.
        base: The ancestor; None without.
        given: The options as typed; see `parse_options`.
        out: The folder as typed; None without. For the lines that errors suggest.
        needs_out: Whether a folder must be named.

    Raises:
        SettingsError: A model or the folder is missing, there are too many, or an option or the recipe cannot
            be read.
    """
    options = parse_options(given)
    first, *others = models
    if not is_recipe(first):
        request = Request(tuple(models), base, options)
        _check_count(request, out)
        if needs_out and out is None:
            raise _no_folder(request.command(free_name(), in_full=False))
        return request
    if others:
        fields = (("recipe", first), ("found", ", ".join(others)))
        fix = Request((first,), base, options).command(out or free_name(), in_full=False)
        raise Problem(SettingsError, "a recipe names the models itself", fields, fix).error()
    if needs_out and out is None:
        raise _no_folder(Request((first,), base, options).command(free_name(), in_full=False))
    from fusion_slerp.recipes import read_recipe

    recipe = read_recipe(first)
    base = recipe.base if base is None else base
    return Request(recipe.models, base, {**recipe.options, **options}, recipe.notes)


def free_name() -> str:
    """Returns a name for a merged model that is not taken in the working folder."""
    return next(name for i in count(1) if not os.path.lexists(name := f"child-{i}" if i > 1 else "child"))


def _no_folder(fix: str) -> FusionSlerpError:
    fields = (("needed", "-o FOLDER"),)
    return Problem(SettingsError, "no folder is named for the merged model", fields, fix).error()


def _check_count(request: Request, out: str | None) -> None:
    """Refuses a recipe that does not exist, and fewer models than the method merges."""
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
    missing_models = (word.upper() for word in ORDINALS[n : method.n_models[0]])
    whole = replace(request, models=(*request.models, *missing_models))
    fix = whole.command(out or free_name(), in_full=False)
    raise Problem(SettingsError, missing, (("found", found), ("needed", needed)), fix).error()


def _words(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        yield long_flag(name, value)
    elif is_switch(name):
        yield f"{long_flag(name)}={_typed(value)}"
    elif is_per_model(name) and _is_by_label(value):
        for label, each in value.items():
            yield from (flag(name), f"{label}={_typed(each)}")
    else:
        yield from (flag(name), _typed(value))


def _is_by_label(value: Any) -> bool:
    """Whether a value is a mapping from models' labels, not an entry of a schedule."""
    return isinstance(value, Mapping) and bool(value) and not set(value) & set(KEYS)


def _typed(value: Any) -> str:
    """A value as one line of YAML; JSON is YAML."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
